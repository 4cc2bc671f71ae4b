#!/usr/bin/env bash
# Resume an interrupted run, exactly: same data, same flags. Variables as in finetune.sh.
#
#   OUTPUT_PATH=lora-Vicuna bash scripts/finetune_continue.sh                        # the latest whole checkpoint there
#   lora_checkpoint=lora-Vicuna/checkpoint-400 bash scripts/finetune_continue.sh     # this one
set -euo pipefail
if [ -z "${lora_checkpoint:-}${lora_remote_checkpoint:-}" ]; then export lora_checkpoint=auto; fi
exec bash "$(dirname "$0")/finetune.sh" "$@"
