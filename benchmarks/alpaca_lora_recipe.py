"""The recipe of alpaca-lora's finetune.py of 2023 on today's libraries: rows padded to the cut, logits of every token.

    python benchmarks/alpaca_lora_recipe.py BASE ROWS.json OUTPUT STEPS TOTAL_BATCH MICRO_BATCH CUTOFF bf16|fp32

ROWS.json holds lists of input_ids and labels. For benchmarks/bench_train.py, in an environment without this project.
"""

import sys
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

BASE, ROWS, OUTPUT, STEPS, TOTAL, MICRO, CUTOFF, PRECISION = sys.argv[1:]


def padded(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Each row up to the cut, ignored where it is padded."""
    width = int(CUTOFF)
    fills = {"input_ids": 0, "labels": -100, "attention_mask": 0}
    whole = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in rows]
    return {
        name: torch.tensor([row[name] + [fill] * (width - len(row[name])) for row in whole])
        for name, fill in fills.items()
    }


torch.manual_seed(0)
model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32, trust_remote_code=False)
config = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, lora_dropout=0.0, target_modules=["q_proj", "v_proj"])
trainer = Trainer(
    model=get_peft_model(model, config),
    args=TrainingArguments(
        output_dir=OUTPUT,
        max_steps=int(STEPS),
        per_device_train_batch_size=min(int(MICRO), int(TOTAL)),
        gradient_accumulation_steps=max(1, int(TOTAL) // int(MICRO)),
        learning_rate=3e-4,
        bf16=PRECISION == "bf16",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        remove_unused_columns=False,
        disable_tqdm=True,
    ),
    train_dataset=Dataset.from_json(ROWS),
    data_collator=padded,
)
trainer.train()
trainer.state.save_to_json(str(Path(OUTPUT) / "trainer_state.json"))
