#!/usr/bin/env bash
# With swanlab 0.10.3, report_to="swanlab" of transformers 5.23.0 ends every run before its first step.
#
# transformers asks swanlab.get_run() whether a run is open and expects None where none is, as swanlab answered before;
# 0.10 raises instead. It is so in every mode, "disabled" included, so that it can not be switched off from outside either.
#
# Seen with swanlab 0.10.3, transformers 5.23.0, torch 2.13.0 on a CPU, Python 3.11:
#   mode disabled: RuntimeError before step 1: No active Run. Call swanlab.init() first.
#   mode offline: RuntimeError before step 1: No active Run. Call swanlab.init() first.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 swanlab==0.10.3 numpy==2.4.6
cat >"$work/try.py" <<'PYTHON'
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
rows = [{"input_ids": torch.arange(1, 9), "labels": torch.arange(1, 9)}] * 2
arguments = TrainingArguments(sys.argv[1], max_steps=1, report_to="swanlab", use_cpu=True, save_strategy="no")
trainer = Trainer(LlamaForCausalLM(LlamaConfig(**sizes)), arguments, train_dataset=rows)
try:
    trainer.train()
except Exception as error:
    print(f"{type(error).__name__} before step {trainer.state.global_step + 1}: {error}")
    sys.exit(10)
PYTHON
seen=0
for mode in disabled offline; do
    status=0
    said=$(cd "$work" && HOME=$work SWANLAB_MODE=$mode "$work/env/bin/python" "$work/try.py" "$work/out" 2>/dev/null) || status=$?
    echo "mode $mode: $(tail -n 1 <<<"$said")"
    if [ "$status" = 10 ] && [[ $said == *"before step 1"* ]]; then seen=$((seen + 1)); fi
done
[ "$seen" = 2 ]
