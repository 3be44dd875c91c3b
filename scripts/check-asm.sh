#!/usr/bin/env bash
# Fails when the committed assembly is not what its generator writes.
set -euo pipefail
cd "$(dirname "$0")/.."

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
(cd kernels/internal/asmgen && go run . -out "$out")
status=0
for file in "$out"/*; do
	if ! cmp "$file" "kernels/$(basename "$file")"; then
		status=1
	fi
done
for file in kernels/asm_*_amd64.*; do
	if ! [ -e "$out/$(basename "$file")" ]; then
		echo "$file: its generator no longer writes it"
		status=1
	fi
done
[ $status = 0 ] || echo "run make asm and commit what it writes"
exit $status
