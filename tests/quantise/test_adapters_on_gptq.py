"""LoRA on a base of GPTQ: it trains, evaluates and resumes; what would change the base's weights is refused."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from tests.export.merging import run as merge
from tests.gguf.gguf_models import export
from tests.model.tiny_adapters import train_losses
from vicuna.errors import UserError
from vicuna.model.adapter import with_named_modules
from vicuna.model.base import check_base
from vicuna.model.flags import LoraFlags

SEVEN = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "data.jsonl"
    rows = [{"instruction": f"{n} 加一等于几？", "output": f"{n + 1}。"} for n in range(10)]
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def trained(quantised, data, tmp_path_factory, program):
    """A run of four steps, and one that goes on with its second."""
    folder = tmp_path_factory.mktemp("runs")
    flags = ["--model_path", quantised("gptq 4"), "--data_path", data, "--test_size", 2, "--total_batch", 4]
    flags += ["--micro_batch", 2, "--num_epoch", 2, "--eval_steps", 2, "--save_steps", 2, "--log_steps", 1]
    flags += ["--lora_target_modules", "all-linear", "--warmup_steps", 0]
    straight = program("finetune.py", *flags, "--output_path", folder / "straight")
    assert straight.returncode == 0, straight.stderr
    resume = ["--resume_from_checkpoint", folder / "straight/checkpoint-2"]
    resumed = program("finetune.py", *flags, *resume, "--output_path", folder / "resumed")
    assert resumed.returncode == 0, resumed.stderr
    return folder, straight.stderr


@pytest.mark.parametrize("kind", ["gptq 8", "gptq 4", "awq 4"])
def test_an_evaluation_between_two_steps_changes_nothing_and_the_loss_falls(quantised, kind):
    straight = train_losses(quantised(kind), 16, evaluate=False)

    assert train_losses(quantised(kind), 16, evaluate=True) == straight
    assert straight[-1] < straight[0]


def test_a_run_trains_every_linear_layer_and_goes_on_as_if_it_had_not_stopped(trained):
    folder, said = trained
    straight, resumed = (load_file(folder / name / "adapter_model.safetensors") for name in ("straight", "resumed"))

    assert f"on {' '.join(SEVEN)}" in said
    assert "evaluation loss" in said
    assert {name.split(".")[-3] for name in straight} == set(SEVEN)
    assert any(value.abs().max() > 0 for name, value in straight.items() if "lora_B" in name)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_the_adapter_answers_on_the_base_it_was_trained_on(trained, quantised, program):
    adapter = trained[0] / "straight"
    flags = ["--model_path", quantised("gptq 4"), "--lora_path", adapter, "--text", "你好", "--max_new_tokens", 4]

    assert program("generate.py", *flags).returncode == 0


def test_merging_into_it_and_exporting_it_name_the_base_it_was_made_of(trained, quantised, base, tmp_path):
    folder, adapter = quantised("gptq 4"), trained[0] / "straight"
    with pytest.raises(UserError, match=r"quantised with gptq, .* merge into base, which it was made of .*fingerprint"):
        merge(folder, adapter, tmp_path / "merged")
    with pytest.raises(UserError, match=r"quantised .*gptq.*base, which it was made of"):
        export(folder, tmp_path / "out.gguf", "f16")

    merged = merge(base, adapter, tmp_path / "merged", ignore_fingerprint=True)
    assert (merged / "model.safetensors").is_file()


def test_all_linear_is_every_linear_layer_but_the_head_on_every_base(base, quantised):
    flags = LoraFlags(lora_target_modules=["all-linear"])
    for folder in (base, quantised("gptq 4"), quantised("awq 4")):
        assert with_named_modules(flags, check_base(str(folder)).config).lora_target_modules == SEVEN
    with pytest.raises(UserError, match="all-linear stands for every linear layer: name no other"):
        LoraFlags(lora_target_modules=["all-linear", "q_proj"])


def test_the_plan_counts_what_the_packed_weights_take(trained, quantised):
    said = re.search(r"weights ([0-9.]+) MiB, adapter", trained[1])[1]
    tensors = load_file(quantised("gptq 4") / "model.safetensors").values()

    assert float(said) * 2**20 == pytest.approx(sum(one.nbytes for one in tensors), rel=0.1)
