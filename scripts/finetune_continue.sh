#!/usr/bin/env bash
# Resume an interrupted run, exactly: with the data and the flags that it had, but for what is given here. Variables as
# in finetune.sh.
#
#   OUTPUT_PATH=lora-Vicuna bash scripts/finetune_continue.sh                        # the latest whole checkpoint there
#   lora_checkpoint=lora-Vicuna/checkpoint-400 bash scripts/finetune_continue.sh     # this one
set -euo pipefail
latest=()
if [ -z "${lora_checkpoint:-}${lora_remote_checkpoint:-}" ]; then latest=(--resume_from_checkpoint auto); fi
exec bash "$(dirname "$0")/finetune.sh" "${latest[@]}" --as_before True "$@"
