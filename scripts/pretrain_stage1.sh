#!/usr/bin/env bash
# Stage one of Chinese-LLaMA-Alpaca: a base with an enlarged vocabulary reads plain text, and only its input embeddings
# are trained. The defaults are the published ones for LLaMA-7B. Variables as in finetune.sh.
#
#   MODEL_PATH=/data/llama-7b-zh DATA_PATH=corpus.txt bash scripts/pretrain_stage1.sh
#   DATA_PATH=corpus.txt bash scripts/pretrain_stage1.sh --micro_batch 1    # whatever follows goes to finetune.py
set -euo pipefail
typed=" ${*//-/_} "
flags=()
if [ -z "${DATA_PATH:-}" ] && [[ $typed != *" __data_path"* ]]; then flags+=(--data_path sample/text/{stories,knowledge}.txt); fi
if [ -z "${OUTPUT_PATH:-}" ]; then flags+=(--output_path outs/pretrain_stage1); fi
exec bash "$(dirname "$0")/finetune.sh" "${flags[@]}" --train embeddings --prompt_type text --pack --bits 16 \
    --cutoff_len 512 --total_batch 1024 --max_steps 3000 --learning_rate 2e-4 --lr_scheduler cosine --warmup_ratio 0.05 \
    --weight_decay 0.01 --save_total_limit 3 "$@"
