#!/usr/bin/env bash
# Chat with a GGUF model on the CPU, computed by llama.cpp: a page on 127.0.0.1:7860, or with --cli the terminal.
#
#   bash scripts/chat_cpu.sh model.gguf
#   bash scripts/chat_cpu.sh model.gguf --cli
#   LORA_PATH="a.gguf b.gguf" bash scripts/chat_cpu.sh base.gguf    # adapters to choose from
#
# bash scripts/install_cpp.sh installs llama.cpp; python tools/export_gguf.py makes GGUF files.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh

if [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; then BASE_MODEL=$1 && shift; fi
if [ -z "${BASE_MODEL:-}" ]; then
    echo "name a GGUF file: bash scripts/chat_cpu.sh model.gguf" >&2
    exit 2
fi
flags=(--model_path "$(here "$BASE_MODEL")")
if [ -n "${LORA_PATH:-}" ] && ! given --lora_path "$@"; then
    flags+=(--lora_path)
    for file in $LORA_PATH; do flags+=("$(here "$file")"); done
fi
exec "$PYTHON" chat.py "${flags[@]}" "$@"
