#!/usr/bin/env bash
# Fine-tune on a 16-bit base, without quantisation, where the weights fit. Variables as in finetune.sh.
#
#   TOT_CUDA=0,1,2,3 MODEL_PATH=/data/llama-7b bash scripts/finetune_fp16.sh
set -euo pipefail
exec bash "$(dirname "$0")/finetune.sh" --bits 16 "$@"
