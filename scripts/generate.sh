#!/usr/bin/env bash
# Open the page that answers one instruction at a time, on 127.0.0.1:7860.
#
#   bash scripts/generate.sh                                          # what scripts/quickstart.sh made
#   BASE_MODEL=/data/llama-7b LORA_PATH=owner/name bash scripts/generate.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh

if [ -n "${TOT_CUDA:-}" ]; then export CUDA_VISIBLE_DEVICES=$TOT_CUDA; fi
model=$(here_or_id "${BASE_MODEL:-${MODEL_PATH:-}}")
if [ -z "$model" ]; then model=models/tiny-llama-zh; fi
adapter=${LORA_PATH-lora-Vicuna}
if [ -n "${LORA_PATH+given}" ]; then adapter=$(here_or_id "$LORA_PATH"); fi
flags=(--model_path "$model" --lora_path "$adapter")
if [ -n "${USE_LOCAL:-}" ]; then flags+=(--use_local "$USE_LOCAL"); fi
if [ -n "${TYPE_WRITER:-}" ]; then flags+=(--use_typewriter "$TYPE_WRITER"); fi
exec "$PYTHON" generate.py "${flags[@]}" "$@"
