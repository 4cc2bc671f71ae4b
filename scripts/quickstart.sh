#!/usr/bin/env bash
# From nothing to a fine-tuned model: install, make the embedded base, fine-tune an 8-bit LoRA on single questions and
# one on dialogues, compare the answers of each with the base's.
#
#   bash scripts/quickstart.sh              # no GPU and no model hub needed; a second run reuses what is there
#   SERVE=1 bash scripts/quickstart.sh      # and open the page at the end
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/install.sh requirements.txt
. scripts/environment.sh
export HF_HUB_OFFLINE=1 # everything needed is here
base=$(here "${MODEL_PATH:-}")
if [ -z "$base" ]; then base=models/tiny-llama-zh; fi
adapter=$(here "${OUTPUT_PATH:-}")
if [ -z "$adapter" ]; then adapter=lora-Vicuna; fi

if [ ! -d "$base" ]; then "$PYTHON" tools/make_tiny_llama.py --output_path "$base"; fi
# Few records and a small base: small batches, a high learning rate and every linear layer.
settings=(--learning_rate 3e-3 --warmup_ratio 0.05 --lora_dropout 0 --gradient_checkpointing False
    --lora_target_modules q_proj k_proj v_proj o_proj gate_proj up_proj down_proj)
if [ ! -f "$adapter/adapter_model.safetensors" ]; then
    MODEL_PATH=$base OUTPUT_PATH=$adapter TEST_SIZE=12 NUM_PROCESSES=1 bash scripts/finetune.sh \
        --total_batch 16 --micro_batch 16 --num_epoch 16 "${settings[@]}"
fi
if [ ! -f "$adapter-chat/adapter_model.safetensors" ]; then
    MODEL_PATH=$base OUTPUT_PATH=$adapter-chat NUM_PROCESSES=1 bash scripts/finetune_chat.sh \
        --data_path sample/chat/data_sample.jsonl sample/chat/quickstart.jsonl --train_turns all \
        --cutoff_len 512 --total_batch 4 --micro_batch 4 --num_epoch 30 "${settings[@]}"
fi
compare() { "$PYTHON" tools/compare_answers.py --model_path "$base" "$@"; }
compare --lora_path "$adapter"
compare --lora_path "$adapter-chat" --questions sample/chat/quickstart.jsonl
echo
echo "Ask single questions:  BASE_MODEL=$base LORA_PATH=$adapter bash scripts/generate.sh"
echo "Chat:                  BASE_MODEL=$base LORA_PATH=$adapter-chat bash scripts/chat_7B.sh"
if [ "${SERVE:-0}" = 1 ]; then BASE_MODEL=$base LORA_PATH=$adapter exec bash scripts/generate.sh; fi
