#!/usr/bin/env bash
# Fails when the committed assembly is not what its generator writes.
set -euo pipefail
cd "$(dirname "$0")/.."

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
mkdir "$out/blocks"
(cd kernels/internal/asmgen && go vet . && go run . -out "$out")

status=0
for f in "$out"/*asm_* "$out"/blocks/* kernels/asm_* kernels/blocks/asm_*; do
	name=${f#"$out"/}
	name=${name#kernels/}
	if ! cmp -s "$out/$name" "kernels/$name"; then
		echo "kernels/$name is not what the generator writes: run make asm and commit it" >&2
		status=1
	fi
done
exit $status
