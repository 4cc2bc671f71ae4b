#!/usr/bin/env bash
# Time LoRA steps on random weights of LLaMA-7B and 13B shape, at 8 and 4 bits.
#
#   bash benchmarks/gpu.sh --out out            # one NVIDIA GPU, under 9 minutes, no network
#   bash benchmarks/gpu.sh --out out --smoke    # the same program on tiny shapes, on the CPU
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh

export HF_HUB_OFFLINE=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
exec "$PYTHON" benchmarks/gpu.py "$@"
