#!/usr/bin/env bash
# Fine-tune on a 4-bit base (NF4, double quantised): half the weights of 8 bits. Variables as in finetune.sh.
#
#   TOT_CUDA=0 MODEL_PATH=/data/llama-13b bash scripts/finetune_4bit.sh
set -euo pipefail
exec bash "$(dirname "$0")/finetune.sh" --bits 4 "$@"
