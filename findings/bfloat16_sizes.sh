#!/usr/bin/env bash
# torch 2.13.0 has a program made for every number of rows that a bfloat16 layer is given on a CPU, and forgets it again.
#
# oneDNN, which computes such layers, translates a product for the sizes at hand, in about half a millisecond for a layer
# of 256 by 256 and several for larger ones, and keeps the last 1,024. Micro batches that differ in their number of tokens,
# as rows of text do that are packed or padded to the longest, have all of them made anew; beyond that number nothing is
# found again, not in the second pass over the same rows either. float32 has none made. Sizes that are filled up to a
# multiple of 32 come up again.
#
# Seen with torch 2.13.0 on a CPU with AVX512-BF16 and AMX, Python 3.11:
#   bfloat16, 100 sizes, 1 pass: 100 programs made
#   bfloat16, 100 sizes, 2 passes: 100 programs made
#   bfloat16, 1,100 sizes, 2 passes: 2200 programs made
#   bfloat16, 100 sizes filled up, 1 pass: 4 programs made
#   float32, 100 sizes, 1 pass: 0 programs made
# as ONEDNN_VERBOSE=profile_create counts them. A CPU without bfloat16 in its instructions computes otherwise: status 2.
set -euo pipefail

if ! grep -q avx512_bf16 /proc/cpuinfo; then
    echo "this CPU has no AVX512-BF16" >&2
    exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat >"$work/layer.py" <<'PYTHON'
import sys

import torch

kind, first, last, multiple, passes = getattr(torch, sys.argv[1]), *map(int, sys.argv[2:])
weight = torch.randn(256, 256).to(kind)
for _ in range(passes):
    for rows in range(first, last + 1):
        torch.nn.functional.linear(torch.randn(-(-rows // multiple) * multiple, 256).to(kind), weight)
PYTHON

failed=0
expect() { # words for the reader, programs expected, arguments of layer.py
    local made
    made=$(ONEDNN_VERBOSE=profile_create "$work/env/bin/python" "$work/layer.py" "${@:3}" | grep -c create:cache_miss || true)
    echo "$1: $made programs made"
    [ "$made" -eq "$2" ] || failed=1
}
expect "bfloat16, 100 sizes, 1 pass" 100 bfloat16 101 200 1 1
expect "bfloat16, 100 sizes, 2 passes" 100 bfloat16 101 200 1 2
expect "bfloat16, 1,100 sizes, 2 passes" 2200 bfloat16 101 1200 1 2
expect "bfloat16, 100 sizes filled up, 1 pass" 4 bfloat16 101 200 32 1
expect "float32, 100 sizes, 1 pass" 0 float32 101 200 1 1
exit "$failed"
