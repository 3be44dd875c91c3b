#!/usr/bin/env bash
# Shows what llmc distill recovers.
#
#   distill.sh MODEL TRAINING_TEXT HELD_OUT_TEXT
#
# trains students of a small model on the text alone, by the model alone and by
# both, and quantization-aware at 3 and 2 bits. The sizes are made for
# TinyStories-656K; some minutes of a CPU.
#
#   distill.sh --recover MODEL TRAINING_TEXT CHOICE_TEXT HELD_OUT_TEXT [FOLDER]
#
# heals a model of which half of the feed-forward neurons, or 4 layers, were
# removed, and one of 3 and 2 bits. The steps are made for SmolLM2-135M and an hour
# or so of two cores. The best step is chosen on CHOICE_TEXT. What was made is kept
# in FOLDER, and a run that was ended goes on from there.
#
# LLMC names the program; the default is the one in the current folder.
set -euo pipefail
usage() {
	sed -n '2,18s/^# \{0,1\}//p' "$0" >&2
	exit 2
}
llmc=${LLMC:-./llmc}

# once NAME COMMAND...: runs llmc, unless its output is there already
once() {
	[ -e "$work/$1" ] || "$llmc" "${@:2}" --quiet -o "$work/$1" >/dev/null
}

recover() {
	local model=$1 train=$2 choice=$3 held=$4 cache=$work/teacher.cache
	[ -e "$cache" ] || "$llmc" distill --teacher "$model" --cache-teacher "$cache" --train "$train" --context 512 --quiet >/dev/null
	local cut=(prune "$model" --calibration "$train" --calibration-context 512 --samples 64)
	once ffn "${cut[@]}" --structured ffn --sparsity 0.5
	once ffn-cut "${cut[@]}" --structured ffn --sparsity 0.5 --no-repair
	once layers "${cut[@]}" --structured layers --remove 4
	once layers-cut "${cut[@]}" --structured layers --remove 4 --no-repair
	local heal=(distill --cache-teacher "$cache" --train "$train" --text "$choice" --context 512 --batch 1
		--eval-every 20 --resume --curve)
	once ffn-healed "${heal[@]}" "$work/ffn.csv" --force --student "$work/ffn" --alpha 0.5 --lr 3e-4 --warmup 30 --steps 220
	once layers-healed "${heal[@]}" "$work/layers.csv" --force --student "$work/layers" --alpha 0.5 --lr 2.5e-4 --warmup 30 --steps 400
	local rounded=(--bits 3 --group-size 32 --asymmetric) steps=(--lr 1e-4 --warmup 5 --steps 60)
	for bits in 3 2; do
		[ $bits = 3 ] || rounded[1]=2 steps=(--lr 2e-4 --warmup 5 --steps 60)
		once int$bits quantize "$model" "${rounded[@]}" --clip mse
		once int$bits-qat "${heal[@]}" "$work/int$bits.csv" --force --student "$model" "${rounded[@]}" --range mse "${steps[@]}"
	done
	"$llmc" eval "$model" "$work"/{ffn,layers,int3,int2}{,-*}/ --text "$held" --quiet
}

# train NAME FLAGS...: trains, and keeps the result for the comparison
train() {
	once "$1" distill --teacher "$model" --train "$train" --context 128 --batch 8 "${@:2}"
}

# students NAME RATE STEPS FLAGS...: by text, teacher and both
students() {
	local flags=(--lr "$2" --steps "$3" "${@:4}")
	train "$1-text" --loss ce "${flags[@]}"
	train "$1-teacher" --alpha 1 "${flags[@]}"
	train "$1-both" --alpha 0.5 "${flags[@]}"
}

small() {
	model=$1 train=$2 held=$3
	# A layer of half the width, with the head and the neurons that go with it.
	students small 2e-2 1000 --student-layers 1 --student-hidden 64 --student-heads 4 --student-ffn 112
	once ffn prune "$model" --structured ffn --sparsity 0.5 --calibration "$train" --samples 64 --calibration-context 128
	students healed 1e-3 150 --student "$work/ffn"
	train int3 --student "$model" --bits 3 --group-size 32 --asymmetric --lr 1e-3 --steps 150
	train int2 --student "$model" --bits 2 --group-size 32 --asymmetric --range mse --lr 1e-3 --steps 150
	for bits in 3 2; do
		once int$bits-gptq quantize "$model" --bits "$bits" --group-size 32 --asymmetric --clip mse --method gptq --calibration "$train" \
			--samples 64 --calibration-context 256
	done
	"$llmc" eval "$model" "$work"/* --text "$held" --context 128 --quiet
}

job=small
if [ "${1-}" = --recover ]; then
	job=recover
	shift
	work=${5-}
	[ $# -eq 4 ] || [ $# -eq 5 ] || usage
else
	work=
	[ $# -eq 3 ] || usage
fi
if [ -z "$work" ]; then
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
fi
mkdir -p "$work"
$job "$@"
