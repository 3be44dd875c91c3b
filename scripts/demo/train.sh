#!/usr/bin/env bash
# Trains the built-in demo model again: generates its text, trains for most of
# an hour on one core, and writes demo/model. Needs Go and a Python 3 with torch,
# numpy and tokenizers (PYTHON names it; the default is python3). Arguments go
# to train.py; with --out the model lands elsewhere.
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
go run ./scripts/demo/corpus -part training >"$work/train.txt"
go run ./scripts/demo/corpus -part heldout >"$work/heldout.txt"

# Freed tensors stay with the process, since giving pages back to the system
# and getting them again costs about a third of the time.
export MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=4000000000
"${PYTHON:-python3}" scripts/demo/train.py --text "$work/train.txt" --heldout "$work/heldout.txt" \
	--out demo/model "$@"
