#!/usr/bin/env bash
# Go on with the schedule of a dialogue checkpoint on other dialogues, 32 records a step on one card of 24 GB.
# Variables as in finetune_others_continue.sh.
#
#   lora_checkpoint=outs/instruct_chat/checkpoint-4800 DATA_PATH=legal.jsonl bash scripts/finetune_chat_continue.sh
set -euo pipefail
export PROGRAM=finetune_chat.py
output=()
if [ -z "${OUTPUT_PATH:-}" ]; then output=(--output_path outs/instruct_chat_continued); fi
exec bash "$(dirname "$0")/finetune_others_continue.sh" "${output[@]}" --micro_batch 6 --total_batch 32 "$@"
