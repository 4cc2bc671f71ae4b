#!/usr/bin/env bash
# Fine-tune on a 16-bit base, without quantisation, where the weights fit. Variables as in finetune.sh.
#
#   TOT_CUDA=0,1,2,3 MODEL_PATH=/data/llama-7b bash scripts/finetune_fp16.sh
#   use_zero_offload=1 bash scripts/finetune_fp16.sh    # DeepSpeed ZeRO-3, weights and optimizer in main memory
set -euo pipefail
flags=(--bits 16)
if [ "${use_zero_offload:-0}" = 1 ]; then flags+=(--deepspeed); fi
exec bash "$(dirname "$0")/finetune.sh" "${flags[@]}" "$@"
