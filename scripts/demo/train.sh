#!/usr/bin/env bash
# Trains the built-in demo model again, from random weights and text alone, with
# llmc itself, and puts the weights into demo/model. Architecture and tokenizer
# are those that are there. Needs Go and half an hour of one core.
#
#   train.sh [FOLDER]
#
# Text, the state of training and what comes of it are kept in FOLDER, and a run
# that was ended goes on from there; without one they are thrown away.
set -euo pipefail
cd "$(dirname "$0")/../.."

work=${1:-$(mktemp -d)}
[ $# -gt 0 ] || trap 'rm -rf "$work"' EXIT
mkdir -p "$work"
go build -o "$work/llmc" ./cmd/llmc
go run ./scripts/demo/corpus -part training -marked 0.25 >"$work/training.txt"
go run ./scripts/demo/corpus -part calibration >"$work/calibration.txt"

# The weights of demo/model are replaced by random ones. The calibration text shows
# how far training is; the held-out text is only for the model that comes of it.
# Matrices are too small for a second thread to be worth its while.
"$work/llmc" distill --student demo/model --random --seed 1 \
	--train "$work/training.txt" --special-tokens --text "$work/calibration.txt" \
	--context 511 --batch 4 --steps 6000 --lr 2e-3 --warmup 100 --final-lr 0.02 --weight-decay 0.1 \
	--threads 1 --curve "$work/loss.csv" --resume -o "$work/model"
cp "$work/model/model.safetensors" demo/model/
go run ./cmd/llmc eval
