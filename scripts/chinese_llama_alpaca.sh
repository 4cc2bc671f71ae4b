#!/usr/bin/env bash
# All of Chinese-LLaMA-Alpaca on the embedded base: a Chinese vocabulary is trained and merged, the base gets rows for it,
# reads text in two stages, is tuned on instructions, merged with both adapters in order, written as a GGUF and asked.
#
#   bash scripts/chinese_llama_alpaca.sh                        # minutes on two cores; no GPU and no model hub needed
#   OUTPUT_PATH=/data/zh bash scripts/chinese_llama_alpaca.sh   # a new folder for all that is made
#
# Its steps and learning rates are for a base of five million parameters; scripts/pretrain_stage1.sh, pretrain_stage2.sh and
# finetune_alpaca.sh have the published ones.
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/install_cpp.sh
. scripts/environment.sh
export HF_HUB_OFFLINE=1 NUM_PROCESSES=1 # everything needed is here
base=$(here "${MODEL_PATH:-}")
if [ -z "$base" ]; then base=models/tiny-llama-zh; fi
out=$(here "${OUTPUT_PATH:-}")
if [ -z "$out" ]; then out=outs/chinese_llama_alpaca; fi
if [ -e "$out" ]; then
    echo "$out exists; remove it, or name another folder by OUTPUT_PATH" >&2
    exit 1
fi
if [ ! -d "$base" ]; then "$PYTHON" tools/make_tiny_llama.py --output_path "$base"; fi
mkdir -p "$out"

say() { printf '\n== %s\n' "$*"; }
run() { "$PYTHON" "$@"; }
density() {
    run tools/check_data.py "$1" --prompt_type text --model_path "$2" --cutoff_len 512 --show 0 | sed -n 's/^ *density *//p'
}

say "text: every tenth document is kept out"
cat sample/text/knowledge.txt <(echo) sample/text/stories.txt | awk -v RS= -v ORS='\n\n' 'NR % 10' >"$out/train.txt"
cat sample/text/knowledge.txt <(echo) sample/text/stories.txt | awk -v RS= -v ORS='\n\n' '!(NR % 10)' >"$out/held_out.txt"

say "vocabulary"
run tools/train_tokenizer.py --data_path "$out/train.txt" --vocab_size "${VOCAB_SIZE:-6000}" --output_path "$out/chinese_sp"
run tools/merge_tokenizers.py --llama_tokenizer_dir "$base" --chinese_sp_model_file "$out/chinese_sp" \
    --output_dir "$out/tokenizer" --data_path "$out/train.txt"
run tools/expand_vocabulary.py --model_path "$base" --tokenizer_path "$out/tokenizer" --output_path "$out/base"
for text in train held_out; do
    for model in "$base" "$out/base"; do echo "$text.txt, $model: $(density "$out/$text.txt" "$model")"; done
done

small=(--bits 32 --total_batch 8 --micro_batch 8 --cutoff_len 256 --gradient_checkpointing False --save_steps 0)
say "stage one: the input embeddings"
MODEL_PATH=$out/base DATA_PATH=$out/train.txt OUTPUT_PATH=$out/stage1 TEST_SIZE=4 \
    bash scripts/pretrain_stage1.sh "${small[@]}" --max_steps "${STAGE1_STEPS:-60}" --learning_rate 3e-3
say "stage two: embeddings, head, LoRA"
MODEL_PATH=$out/base DATA_PATH=$out/train.txt OUTPUT_PATH=$out/stage2 TEST_SIZE=4 lora_checkpoint=$out/stage1 \
    bash scripts/pretrain_stage2.sh "${small[@]}" --max_steps "${STAGE2_STEPS:-90}" --learning_rate 1e-3
run tools/merge_lora.py --model_path "$out/base" --lora_path "$out/stage2" --out_path "$out/llama"
say "instructions"
MODEL_PATH=$out/llama DATA_PATH=sample/instruct/data_sample.jsonl OUTPUT_PATH=$out/alpaca TEST_SIZE=12 \
    bash scripts/finetune_alpaca.sh "${small[@]}" --max_steps "${ALPACA_STEPS:-200}" --learning_rate 1e-3
say "both adapters, in order"
# The second was trained on the base with the first, which is what it is merged onto here.
run tools/merge_lora.py --model_path "$out/base" --lora_path "$out/stage2" "$out/alpaca" --ignore_fingerprint \
    --out_path "$out/merged"
run tools/export_gguf.py --model_path "$out/merged" --out_path "$out/merged-q4_0.gguf" --type q4_0
say "asked"
run generate.py --model_path "$out/merged-q4_0.gguf" --preset chinese_alpaca --seed 1 --text "一年有几个季节？"
echo
echo "Talk to it:  BASE_MODEL=$out/merged-q4_0.gguf bash scripts/generate.sh"
