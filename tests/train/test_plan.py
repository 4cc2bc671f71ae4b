"""The plan that finetune.py prints before its first step."""

import json
import re
from pathlib import Path

import pytest
from peft import LoraConfig
from transformers import LlamaConfig

from vicuna.data.flags import DataFlags
from vicuna.model.config import meta_model
from vicuna.model.flags import LoraFlags, ModelFlags
from vicuna.model.parameters import count_parameters
from vicuna.train.flags import RunFlags, TrainFlags
from vicuna.train.plan import describe_memory

ROOT = Path(__file__).resolve().parent.parent.parent


def test_plan_only_prints_every_subject_and_writes_nothing(program, tiny_base, records, tmp_path):
    output = tmp_path / "out"
    argv = ["--model_path", tiny_base, "--data_path", records, "--output_path", output, "--cutoff_len", 60]
    done = program("finetune.py", *argv, "--plan_only", "--test_size", 4)
    assert done.returncode == 0, done.stderr
    subjects = [line.split(" ")[0] for line in done.stdout.splitlines()]
    expected = ["base", "data", "tokens", "adapter", "batch", "sharing", "steps", "memory", "saves", "example", "start"]
    assert subjects[: len(expected)] == expected
    assert "41 rows (utf-8): 37 train, 4 eval" in done.stdout or "left out" in done.stdout
    assert "[trained on: " in done.stdout
    assert "WARNING   3 optimizer steps are few (under 50): lower --total_batch from 128" in done.stdout
    assert "the 100 warm-up steps are not over when the 3 steps are" in done.stdout
    assert not output.exists()


def test_rows_without_room_for_an_answer_are_left_out_and_counted(program, tiny_base, tmp_path):
    data = tmp_path / "data.jsonl"
    rows = [{"instruction": "问" * 300, "output": "答"}, {"instruction": "问", "output": "答" * 300}]
    rows += [{"instruction": "问", "output": "答"}] * 3
    data.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    done = program("finetune.py", "--model_path", tiny_base, "--data_path", data, "--plan_only", "--test_size", 0)
    assert "5 rows (utf-8): 4 train, 0 eval, 1 left out" in done.stdout
    assert "1 cut at 256 tokens (they get no EOS)" in done.stdout


def test_no_evaluation_holds_nothing_out(program, tiny_base, records):
    argv = ["--model_path", tiny_base, "--data_path", records, "--plan_only", "--eval_steps", 0]
    done = program("finetune.py", *argv)
    assert "41 rows (utf-8): 41 train, 0 eval" in done.stdout


def test_what_is_suspicious_in_the_records_is_warned_of_with_counts_also_from_the_cache(program, tiny_base, tmp_path):
    rows = [{"instruction": "你是谁？", "output": "我是{{name}}。"}] * 3 + [
        {"instruction": "<p>一</p>", "output": "一"}
    ]
    data = tmp_path / "a.jsonl"
    data.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    argv = ["--model_path", tiny_base, "--data_path", data, "--plan_only", "--cache_path", tmp_path / "cache"]
    for _ in range(2):
        done = program("finetune.py", *argv)
        assert "WARNING   of the records, 1 hold HTML, 3 hold placeholders that were not filled in: all" in done.stdout


def test_context_is_the_users_word_for_the_longest_row(program, tiny_base, records):
    argv = ["--model_path", tiny_base, "--data_path", records, "--plan_only", "--cutoff_len", 600]
    done = program("finetune.py", *argv)
    assert "WARNING   --cutoff_len 600 is above the base's context of 512 tokens: lower it, or" in done.stdout
    done = program("finetune.py", *argv, "--context", 600)
    assert "above the base's context" not in done.stdout
    assert "context of 600 tokens (as --context says, where its config comes to 512)" in done.stderr
    done = program("finetune.py", *argv, "--context", 5)
    assert done.returncode == 2
    assert "--context 5" in done.stderr


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_memory_line_of_the_document_is_what_the_quickstart_prints(language):
    page = (ROOT / f"docs/{language}/train.md").read_text(encoding="utf-8")
    base = LlamaConfig(  # as tools/make_tiny_llama.py makes it
        vocab_size=2600, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=8,
        tie_word_embeddings=False,
    )  # fmt: skip
    modules = re.search(r"^adapter +r 8, alpha 16 on ([\w ]+): ", page, re.MULTILINE)[1].split()
    lora = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=modules)
    counts = count_parameters(meta_model(base), lora)
    assert f"{counts.trainable:,} trainable ({counts.trainable / counts.total:.2%})" in page
    flags = TrainFlags(ModelFlags(), DataFlags(), LoraFlags(lora_target_modules=modules), RunFlags())
    assert f"memory    {describe_memory(flags, counts, 1)}" in page.splitlines()


def test_the_plan_says_when_checkpointing_only_costs_time(program, tiny_base, records):
    argv = ["--model_path", tiny_base, "--data_path", records, "--plan_only"]
    said = r"^faster    --gradient_checkpointing False .* about [\d.]+ MiB"
    assert re.search(said, program("finetune.py", *argv).stdout, re.MULTILINE)
    done = program("finetune.py", *argv, "--gradient_checkpointing", "False")
    assert (done.returncode, "\nfaster " in done.stdout) == (0, False)
