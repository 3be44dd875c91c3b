#!/usr/bin/env bash
# Trains the built-in demo model again: generates its text, trains for about an
# hour on one core, and writes demo/model. Needs Go and a Python 3 with torch,
# numpy and tokenizers (PYTHON names it; the default is python3).
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
go run ./scripts/demo/corpus -size 24000000 >"$work/train.txt"
go run ./scripts/demo/corpus -heldout >"$work/heldout.txt"

# Freed tensors stay with the process: giving their pages back costs a third of the time.
export MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=4000000000
"${PYTHON:-python3}" scripts/demo/train.py --text "$work/train.txt" --heldout "$work/heldout.txt" --out demo/model "$@"
