#!/usr/bin/env bash
# Open the page for conversations of many turns, on 127.0.0.1:7860.
#
#   bash scripts/chat_7B.sh                                            # what scripts/quickstart.sh made
#   BASE_MODEL=/data/llama-7b LORA_PATH=owner/name bash scripts/chat_7B.sh
#   BASE_MODEL=/data/llama-7b LORA_PATH="lora-A lora-B" INT8=0 bash scripts/chat_7B.sh     # adapters to choose from
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh

if [ -n "${TOT_CUDA:-}" ]; then export CUDA_VISIBLE_DEVICES=$TOT_CUDA; fi
model=$(here_or_id "${BASE_MODEL:-${MODEL_PATH:-}}")
if [ -z "$model" ]; then model=models/tiny-llama-zh; fi
flags=(--model_path "$model")
adapters=("${LORA_PATH-lora-Vicuna-chat}")
if [ -n "${LORA_PATH+given}" ]; then here_all "$LORA_PATH"; fi
if given --lora_path "$@"; then adapters=(); fi
if [ "${#adapters[@]}" -gt 0 ]; then flags+=(--lora_path "${adapters[@]}"); fi
if [ -n "${PROMPT_TYPE:-}" ]; then flags+=(--prompt_type "$PROMPT_TYPE"); fi
if [ -n "${INT8:-}" ]; then flags+=(--int8 "$INT8"); fi
if [ -n "${SHOW_BEAM:-}" ]; then flags+=(--show_beam "$SHOW_BEAM"); fi
if [ -n "${USE_LOCAL:-}" ]; then flags+=(--use_local "$USE_LOCAL"); fi
if [ -n "${TYPE_WRITER:-}" ]; then flags+=(--use_typewriter "$TYPE_WRITER"); fi
exec "$PYTHON" chat.py "${flags[@]}" "$@"
