#!/usr/bin/env bash
# Go on from the chat model with legal dialogues of one turn, 6 epochs, as the paper did. Variables as in finetune_domain.sh;
# tools/convert_data.py makes the dialogues.
#
#   lora_checkpoint=outs/instruct_chat DATA_PATH=legal.jsonl bash scripts/finetune_legal.sh
#   lora_checkpoint=outs/instruct_chat DATA_PATH=legal.jsonl GENERAL_PATH=dialogues.jsonl:0.2 bash scripts/finetune_legal.sh
set -euo pipefail
export DOMAIN=legal DOMAIN_DATA=sample/legal/train.jsonl NUM_EPOCH=${NUM_EPOCH:-6} LAUNCHER=finetune_legal.sh
export PROGRAM=finetune_chat.py
exec bash "$(dirname "$0")/finetune_domain.sh" "$@"
