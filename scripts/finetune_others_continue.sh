#!/usr/bin/env bash
# Go on with the schedule of a checkpoint on other data: weights, optimizer and learning rate go on from its place, the
# new data starts at its beginning. Variables as in finetune.sh.
#
#   lora_checkpoint=lora-Vicuna/checkpoint-11600 DATA_PATH=medical.jsonl bash scripts/finetune_others_continue.sh
#   lora_remote_checkpoint=owner/name DATA_PATH=medical.jsonl bash scripts/finetune_others_continue.sh
set -euo pipefail
checkpoint=${lora_checkpoint:-}
if [ -n "$checkpoint" ] && [ -d "$checkpoint" ]; then
    checkpoint=$(cd "$checkpoint" && pwd)
else
    checkpoint=${lora_remote_checkpoint:-$checkpoint}
fi
if [ -z "$checkpoint" ]; then
    echo "$(basename "$0"): name what to go on with, lora_checkpoint=FOLDER or lora_remote_checkpoint=owner/name" >&2
    exit 2
fi
unset lora_checkpoint lora_remote_checkpoint from_data_beginning
exec bash "$(dirname "$0")/finetune.sh" --continue_schedule "$checkpoint" "$@"
