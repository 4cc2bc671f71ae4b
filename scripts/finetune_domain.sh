#!/usr/bin/env bash
# Go on from a general model with the records of a domain, some general ones among them if GENERAL_PATH names any. Used by
# finetune_medical.sh and finetune_legal.sh; variables as in finetune.sh, and:
#
#   lora_checkpoint=outs/general/checkpoint-100 DATA_PATH=my.jsonl NUM_EPOCH=5 bash scripts/finetune_domain.sh
#   lora_checkpoint=outs/general DATA_PATH=my.jsonl GENERAL_PATH=general.jsonl:0.2 bash scripts/finetune_domain.sh
#
# A checkpoint-N goes on with its optimizer and learning rate, to the end of its schedule or for as many epochs of the new
# records, whichever is more; a folder with an adapter alone begins a new schedule.
#
# With PROBE_PATH=general_held_out.jsonl and HELD_OUT_PATH=held_out.jsonl the run ends with what it gained in the domain and
# lost elsewhere, in OUTPUT_PATH/forgetting.
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
output=$(here "${OUTPUT_PATH:-}")
if [ -z "$output" ]; then
    output=outs/${DOMAIN:-domain}
    begin+=(--output_path "$output")
fi
probe=()
if [ -n "${PROBE_PATH:-}" ]; then
    if given --model_path "$@" || given --output_path "$@"; then
        echo "${LAUNCHER:-$(basename "$0")}: PROBE_PATH needs to know the model and the adapter: name them with MODEL_PATH and" \
            "OUTPUT_PATH" >&2
        exit 2
    fi
    probe=(--domain "$(here "${HELD_OUT_PATH:-}")" --general "$(here "$PROBE_PATH")" --scale 0 1 --lora_path)
    if [ -z "${HELD_OUT_PATH:-}" ]; then probe[1]=${DOMAIN_DATA%/*}/held_out.jsonl; fi # counts from the checkout
    if [ -d "$checkpoint" ]; then probe+=("$checkpoint"); fi
    probe+=("$output" --output_path "$output/forgetting" --overwrite)
    if [ -n "${MODEL_PATH:-}" ]; then probe+=(--model_path "$(here_or_id "$MODEL_PATH")"); fi
fi
checkout=$PWD
cd "$OLDPWD" # its variables count from where this was called
bash "$checkout/scripts/finetune.sh" "${begin[@]}" "${data[@]}" --num_epoch "${NUM_EPOCH:-7}" "$@"
if [ ${#probe[@]} -gt 0 ] && [ "${NODE_RANK:-0}" = 0 ]; then
    cd "$checkout"
    # Also what it went on from is asked as the new adapter was trained.
    type=$("$PYTHON" -c 'import json, sys; print(json.load(open(sys.argv[1]))["prompt_type"])' "$output/run_args.json")
    exec "$PYTHON" tools/evaluate.py forgetting "${probe[@]}" --prompt_type "$type"
fi
