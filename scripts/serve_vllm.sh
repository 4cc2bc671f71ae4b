#!/usr/bin/env bash
# Serve a merged model, or a base with adapters, to many users: vLLM on NVIDIA GPUs, with the template that was trained.
#
#   BASE_MODEL=merged bash scripts/serve_vllm.sh                                # OpenAI's routes on 127.0.0.1:8000
#   BASE_MODEL=/data/llama-7b LORA_PATH="lora-A lora-B" bash scripts/serve_vllm.sh
#   TOT_CUDA=0,1 bash scripts/serve_vllm.sh --max-model-len 2048                # whatever follows goes to vLLM
#
# vLLM goes into an environment of its own: in this one it would replace torch, transformers, fastapi and numpy.
#   python -m venv ~/vllm-env && ~/vllm-env/bin/pip install vllm
#   VLLM=~/vllm-env/bin/vllm BASE_MODEL=merged bash scripts/serve_vllm.sh
# Also PORT, PROMPT_TYPE, VICUNA_API_KEY.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh

model=$(here_or_id "${BASE_MODEL:-${MODEL_PATH:-}}")
if [ -z "$model" ]; then model=models/tiny-llama-zh; fi
flags=(--model_path "$model")
add() { if [ -n "$2" ]; then flags+=("$1" "$2"); fi; }
add --prompt_type "${PROMPT_TYPE:-}"
add --port "${PORT:-}"
if [ -n "${TOT_CUDA:-}" ]; then
    export CUDA_VISIBLE_DEVICES=$TOT_CUDA
    add --gpus "$(printf %s "$TOT_CUDA" | tr , '\n' | grep -c .)"
fi
here_all "${LORA_PATH:-}"
if [ ${#adapters[@]} -gt 0 ]; then flags+=(--lora_path "${adapters[@]}"); fi
if [[ -n ${VLLM+given} && $VLLM == */* ]]; then VLLM=$(here "$VLLM") && export VLLM; fi
exec "$PYTHON" -m vicuna.api.vllm_server "${flags[@]}" -- "$@"
