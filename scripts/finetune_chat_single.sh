#!/usr/bin/env bash
# Fine-tune an 8-bit base on dialogues with one card of 24 GB: 32 records a step. Variables as in finetune.sh.
#
#   TOT_CUDA=0 MODEL_PATH=/data/llama-7b DATA_PATH=dialogues.jsonl bash scripts/finetune_chat_single.sh
set -euo pipefail
export NUM_PROCESSES=${NUM_PROCESSES:-1}
exec bash "$(dirname "$0")/finetune_chat.sh" --micro_batch 3 --total_batch 32 --warmup_ratio 0.01 "$@"
