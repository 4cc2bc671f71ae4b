#!/usr/bin/env bash
# Make a GGUF file for llama.cpp of a base and its adapters: merge, export and quantise, in one command.
#
#   bash tools/prepare_llama_cpp.sh                                   # what scripts/quickstart.sh made
#   MODEL_PATH=/data/llama-7b LORA_PATH="lora-A lora-B" OUT_PATH=my.gguf TYPE=q8_0 bash tools/prepare_llama_cpp.sh
#   KEEP=merged bash tools/prepare_llama_cpp.sh --strict              # keep the merged model; whatever follows: export
#   MODEL_PATH=merged LORA_PATH= TYPE=q8_0 bash tools/prepare_llama_cpp.sh    # a model with nothing to merge
#
# Also DTYPE and IGNORE_FINGERPRINT of the merge, and PROMPT_TYPE. Disk: three times the base, of which a file is kept.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh

MODEL_PATH=$(here_or_id "${MODEL_PATH:-}")
MODEL_PATH=${MODEL_PATH:-models/tiny-llama-zh}
adapters=("${LORA_PATH-lora-Vicuna}")
if [ -n "${LORA_PATH+given}" ]; then here_all "$LORA_PATH"; fi
name=${adapters[*]:-$MODEL_PATH}
name=$(basename "${name##* }")
TYPE=${TYPE:-q4_k_m}
OUT_PATH=$(here "${OUT_PATH:-}")
OUT_PATH=${OUT_PATH:-$name-$TYPE.gguf}
KEEP=$(here "${KEEP:-}")

refuse() { echo "prepare_llama_cpp.sh: $1" >&2 && exit 1; }
if [ -n "${KEEP:-}" ] && [ -e "$KEEP" ]; then
    refuse "KEEP $KEEP exists. If it is this merged model, export it: MODEL_PATH=$KEEP LORA_PATH= bash tools/prepare_llama_cpp.sh"
fi
export=("$PYTHON" tools/export_gguf.py --out_path "$OUT_PATH" --type "$TYPE")
if [ -n "${PROMPT_TYPE:-}" ]; then export+=(--prompt_type "$PROMPT_TYPE"); fi

# 1. check: flags, llama.cpp, the base, the disk
"${export[@]}" --model_path "$MODEL_PATH" "$@" --plan_only
there=$(dirname "$OUT_PATH")
mkdir -p "$there"
weights=$({ find -L "$MODEL_PATH" -maxdepth 1 \( -name '*.safetensors' -o -name 'pytorch_model*.bin' \) -exec wc -c {} + || true; } \
    2>/dev/null | awk '$2 != "total" { bytes += $1 } END { printf "%d", bytes / 1024 }')
free=$(df -Pk "$there" | awk 'NR == 2 { print $4 }')
need=$((weights * (${#adapters[@]} > 0 ? 3 : 2)))
if [ "$need" -gt "$free" ]; then
    refuse "$((need >> 20)) GiB are needed for a while, $there has $((free >> 20)) GiB free: make room, or name an OUT_PATH on another disk."
fi

# 2. merge
if [ ${#adapters[@]} -gt 0 ]; then
    aside=$(mktemp -d "$there/.preparing-XXXXXX")
    trap 'rm -rf "$aside"' EXIT
    trap 'exit 143' TERM # only once the program that runs has ended too
    merged=${KEEP:-$aside/$name}
    flags=(--model_path "$MODEL_PATH" --lora_path "${adapters[@]}" --out_path "$merged")
    add() { if [ -n "$2" ]; then flags+=("$1" "$2"); fi; }
    add --prompt_type "${PROMPT_TYPE:-}"
    add --dtype "${DTYPE:-}"
    add --ignore_fingerprint "${IGNORE_FINGERPRINT:-}"
    "$PYTHON" tools/merge_lora.py "${flags[@]}"
    MODEL_PATH=$merged
fi

# 3. export and quantise
"${export[@]}" --model_path "$MODEL_PATH" "$@"
echo "chat with it: bash scripts/chat_cpu.sh $OUT_PATH"
