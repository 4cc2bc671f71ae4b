#!/usr/bin/env bash
# Go on from a general checkpoint of one epoch with medical records, 7 epochs, as the paper did on cMedQA2. Variables as in
# finetune_domain.sh; tools/convert_data.py makes the records.
#
#   lora_checkpoint=lora-Vicuna/checkpoint-5800 DATA_PATH=medical.jsonl bash scripts/finetune_medical.sh
#   lora_checkpoint=… DATA_PATH=medical.jsonl GENERAL_PATH=general.jsonl:0.2 bash scripts/finetune_medical.sh
set -euo pipefail
export DOMAIN=medical DOMAIN_DATA=sample/medical/train.jsonl NUM_EPOCH=${NUM_EPOCH:-7} LAUNCHER=finetune_medical.sh
exec bash "$(dirname "$0")/finetune_domain.sh" "$@"
