#!/usr/bin/env bash
# Stage two of Chinese-LLaMA-Alpaca: from the embeddings of stage one, which stay trainable, a LoRA adapter and the head
# are trained too. The defaults are the published ones for LLaMA-7B. Variables as in finetune.sh; lora_checkpoint is the
# folder of stage one, or auto to resume this stage, or to begin without stage one.
#
#   MODEL_PATH=/data/llama-7b-zh DATA_PATH=corpus.txt bash scripts/pretrain_stage2.sh
#   lora_checkpoint=outs/pretrain_stage1/best bash scripts/pretrain_stage2.sh    # whatever follows goes to finetune.py
set -euo pipefail
typed=" ${*//-/_} "
flags=()
if [ -z "${DATA_PATH:-}" ] && [[ $typed != *" __data_path"* ]]; then flags+=(--data_path sample/text/{stories,knowledge}.txt); fi
if [ -z "${OUTPUT_PATH:-}" ]; then flags+=(--output_path outs/pretrain_stage2); fi
if [ -z "${lora_checkpoint:-}" ]; then flags+=(--resume_from_checkpoint outs/pretrain_stage1); fi
if [[ $typed != *" __lora_target_modules"* ]]; then flags+=(--lora_target_modules q_proj k_proj v_proj o_proj); fi
exec bash "$(dirname "$0")/finetune.sh" "${flags[@]}" --train lora+embeddings+head --prompt_type text --pack --bits 16 \
    --lora_r 8 --lora_alpha 32 --lora_dropout 0.05 --cutoff_len 512 --total_batch 1024 --max_steps 6000 \
    --learning_rate 1e-4 --lr_scheduler cosine --warmup_ratio 0.05 --weight_decay 0.01 --save_total_limit 3 "$@"
