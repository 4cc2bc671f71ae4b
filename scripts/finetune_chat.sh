#!/usr/bin/env bash
# Fine-tune an 8-bit base on dialogues of up to 2048 tokens, on every GPU, without evaluation. Variables as in
# finetune.sh.
#
#   MODEL_PATH=/data/llama-7b DATA_PATH=dialogues.jsonl bash scripts/finetune_chat.sh
#   TOT_CUDA=0,1 bash scripts/finetune_chat.sh --train_turns all    # whatever follows goes to finetune_chat.py
set -euo pipefail
export PROGRAM=finetune_chat.py TEST_SIZE=${TEST_SIZE:-0}
output=()
if [ -z "${OUTPUT_PATH:-}" ]; then output=(--output_path outs/instruct_chat); fi
exec bash "$(dirname "$0")/finetune.sh" "${output[@]}" --eval_steps 0 --save_steps 200 --micro_batch 4 --total_batch 128 "$@"
