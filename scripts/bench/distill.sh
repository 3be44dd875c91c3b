#!/usr/bin/env bash
# Shows what llmc distill recovers: students of a small model, trained on the text
# alone, by the model alone and by both, and quantization-aware training at 3 and
# 2 bits. The sizes are made for TinyStories-656K; some minutes of a CPU.
#
#   distill.sh MODEL TRAINING_TEXT HELD_OUT_TEXT
#
# LLMC names the program; the default is the one in the current folder.
set -euo pipefail
[ $# -eq 3 ] || {
	sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
	exit 2
}
model=$1 train=$2 held=$3
llmc=${LLMC:-./llmc}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# train NAME FLAGS...: trains, and keeps the result for the comparison
train() {
	"$llmc" distill --teacher "$model" --train "$train" --context 128 --batch 8 --quiet -o "$work/$1" "${@:2}" >/dev/null
}

# students NAME RATE STEPS FLAGS...: by text, teacher and both
students() {
	local flags=(--lr "$2" --steps "$3" "${@:4}")
	train "$1-text" --loss ce "${flags[@]}"
	train "$1-teacher" --alpha 1 "${flags[@]}"
	train "$1-both" --alpha 0.5 "${flags[@]}"
}

# A layer of half the width, with the head and the neurons that go with it.
students small 2e-2 1000 --student-layers 1 --student-hidden 64 --student-heads 4 --student-ffn 112
"$llmc" prune "$model" --structured ffn --sparsity 0.5 --calibration "$train" --samples 64 --calibration-context 128 \
	--quiet -o "$work/ffn" >/dev/null
students healed 1e-3 150 --student "$work/ffn"
train int3 --student "$model" --bits 3 --group-size 32 --asymmetric --lr 1e-3 --steps 150
train int2 --student "$model" --bits 2 --group-size 32 --asymmetric --range mse --lr 1e-3 --steps 150
for bits in 3 2; do
	"$llmc" quantize "$model" --bits "$bits" --group-size 32 --asymmetric --clip mse --method gptq --calibration "$train" \
		--samples 64 --calibration-context 256 --quiet -o "$work/int$bits-gptq" >/dev/null
done
"$llmc" eval "$model" "$work"/* --text "$held" --context 128 --quiet
