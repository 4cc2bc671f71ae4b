#!/usr/bin/env bash
# Instruction tuning of Chinese-LLaMA-Alpaca, on the base that stage two was merged with. The defaults are the published
# ones for LLaMA-7B, which go up to 10,000 steps. Variables as in finetune.sh.
#
#   MODEL_PATH=/data/llama-7b-zh-merged DATA_PATH=my.jsonl bash scripts/finetune_alpaca.sh
#   DATA_PATH=my.jsonl bash scripts/finetune_alpaca.sh --max_steps 10000    # whatever follows goes to finetune.py
set -euo pipefail
typed=" ${*//-/_} "
flags=()
if [ -z "${OUTPUT_PATH:-}" ]; then flags+=(--output_path outs/finetune_alpaca); fi
if [[ $typed != *" __lora_target_modules"* ]]; then
    flags+=(--lora_target_modules q_proj k_proj v_proj o_proj gate_proj up_proj down_proj)
fi
exec bash "$(dirname "$0")/finetune.sh" "${flags[@]}" --train lora+embeddings+head --prompt_type chinese_alpaca --bits 16 \
    --lora_r 8 --lora_alpha 32 --lora_dropout 0.05 --cutoff_len 512 --total_batch 512 --max_steps 6000 \
    --learning_rate 1e-4 --lr_scheduler cosine --warmup_ratio 0.03 --save_total_limit 3 "$@"
