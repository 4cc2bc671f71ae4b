#!/usr/bin/env bash
# Go on from a general model with the records of a domain, some general ones among them if GENERAL_PATH names any. Used by
# finetune_medical.sh and finetune_legal.sh; variables as in finetune.sh, and:
#
#   lora_checkpoint=outs/general/checkpoint-100 DATA_PATH=my.jsonl NUM_EPOCH=5 bash scripts/finetune_domain.sh
#   lora_checkpoint=outs/general DATA_PATH=my.jsonl GENERAL_PATH=general.jsonl:0.2 bash scripts/finetune_domain.sh
#
# A checkpoint-N goes on with its optimizer and learning rate, to the end of its schedule or for as many epochs of the new
# records, whichever is more; a folder with an adapter alone begins a new schedule.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh

begin=()
checkpoint=$(here_or_id "${lora_checkpoint:-}")
if [ "${lora_checkpoint:-}" != auto ] && [ -f "$checkpoint/scheduler.pt" ]; then
    begin=(--continue_schedule "$checkpoint")
    unset lora_checkpoint lora_remote_checkpoint
elif [ -z "$checkpoint${lora_remote_checkpoint:-}" ]; then
    echo "${LAUNCHER:-$(basename "$0")}: name what to go on with, lora_checkpoint=FOLDER or lora_remote_checkpoint=owner/name;" \
        "finetune.sh trains from scratch" >&2
    exit 2
fi
data=()
if ! given --data_path "$@"; then
    data=(--data_path "${DOMAIN_DATA:-}") # counts from the checkout
    if [ -n "${DATA_PATH:-}" ]; then data=(--data_path "$(here "$DATA_PATH")"); fi
    if [ -n "${GENERAL_PATH:-}" ]; then data+=("$(here "$GENERAL_PATH")"); fi
fi
if [ -z "${OUTPUT_PATH:-}" ]; then begin+=(--output_path "outs/${DOMAIN:-domain}"); fi
checkout=$PWD
cd "$OLDPWD" # its variables count from where this was called
exec bash "$checkout/scripts/finetune.sh" "${begin[@]}" "${data[@]}" --num_epoch "${NUM_EPOCH:-7}" "$@"
