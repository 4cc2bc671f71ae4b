"""What ends a run before it does harm: losses that are no numbers, gradients that overflow."""

import json
import math
import shutil
from pathlib import Path

import accelerate
import pytest
import torch
from transformers import TrainingArguments

from vicuna.data.cache import TrainingData
from vicuna.data.examples import tokenise
from vicuna.data.records import read_records
from vicuna.errors import UserError
from vicuna.model.base import check_base, load_base
from vicuna.train.batches import StepBatchSampler, epoch_order
from vicuna.train.checkpoint import torn_reason
from vicuna.train.flags import RunFlags
from vicuna.train.signals import GracefulStopCallback
from vicuna.train.trainer import MOST_SKIPS, AdapterTrainer

RARE = "鑫"


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Path:
    """Twelve records; one, in line 8, holds a character that no other holds."""
    file = tmp_path_factory.mktemp("data") / "records.jsonl"
    rows = [{"instruction": f"{i} 加 1 是多少？", "output": f"{i} 加 1 是 {i + 1}。"} for i in range(12)]
    rows[7]["instruction"] = f"{RARE}是什么字？"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def poisoned_base(tiny_base, tmp_path_factory) -> Path:
    """A base in which the embedding of a byte of that character is not a number."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("poisoned") / "base"
    shutil.copytree(tiny_base, folder)
    tokenizer = check_base(str(tiny_base)).tokenizer
    rare = set(tokenizer.encode_continuation(RARE)) - set(tokenizer.encode("加是多少什么字？0123456789。"))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][sorted(rare)] = math.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_loss_that_is_no_number_names_its_records_and_leaves_the_last_checkpoint(
    program, poisoned_base, records, tmp_path
):
    output = tmp_path / "out"
    argv = ["--model_path", poisoned_base, "--bits", 32, "--data_path", records, "--output_path", output]
    argv += ["--total_batch", 3, "--micro_batch", 1, "--num_epoch", 1, "--save_steps", 1, "--eval_steps", 0]
    seed = next(seed for seed in range(99) if 7 in epoch_order(seed, 0, [1] * 12, 3)[2])
    done = program("finetune.py", *argv, "--seed", seed)
    assert done.returncode == 1
    steps = [json.loads(line) for line in (output / "steps.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [step["step"] for step in steps] == [1, 2]
    said = next(line for line in done.stderr.splitlines() if "error" in line)
    assert f"at step 3, on {records} line 8. The run has diverged" in said
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in output.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    assert torn_reason(output / "checkpoint-2") == ""
    assert not (output / "adapter_model.safetensors").exists()


@pytest.fixture
def trainer(tiny_base, records, tmp_path) -> AdapterTrainer:
    """A whole tiny model, and 30 steps ahead."""
    base = check_base(str(tiny_base))
    found = read_records(records, "instruct")
    train = tokenise(base.tokenizer, found, range(12), "instruct", 128)
    run = RunFlags(total_batch=4, micro_batch=4, num_epoch=10)
    batches = StepBatchSampler(train.lengths, run)
    arguments = TrainingArguments(
        tmp_path, max_steps=batches.steps, use_cpu=True, logging_steps=1, save_strategy="no", report_to=[],
        disable_tqdm=True, remove_unused_columns=False, ignore_data_skip=True,
    )  # fmt: skip
    model = load_base(base, 32)
    more = {"stopper": GracefulStopCallback(tmp_path), "step_log": None}
    return AdapterTrainer(model=model, args=arguments, batches=batches, data=TrainingData(found, train, None), **more)


def test_steps_that_the_loss_scaler_skipped_are_counted(trainer, monkeypatch):
    """There is no loss scaler on a CPU, so its answer is put in its place; tests/gpu has a real one."""
    skips = property(lambda accelerator: trainer.state.global_step in (3, 4, 9))
    monkeypatch.setattr(accelerate.Accelerator, "optimizer_step_was_skipped", skips)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 30
    assert [entry["step"] for entry in logged if entry.get("skipped")] == [3, 4, 9]


def test_a_scaler_that_only_skips_ends_the_run(trainer, monkeypatch):
    monkeypatch.setattr(accelerate.Accelerator, "optimizer_step_was_skipped", property(lambda accelerator: True))
    with pytest.raises(UserError, match=f"skipped {MOST_SKIPS} steps in a row, up to step {MOST_SKIPS}"):
        trainer.train()


def test_a_gradient_that_is_no_number_ends_the_run_though_the_loss_is_one(trainer):
    weight = trainer.model.lm_head.weight
    weight.register_hook(lambda gradient: torch.full_like(gradient, math.inf))
    with pytest.raises(UserError, match=r"the gradient's norm (inf|nan) at step 1, on .*records.jsonl line"):
        trainer.train()
