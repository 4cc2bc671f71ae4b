"""Adapters on a model: what is saved opens again and answers the same, and a run is planned as it is trained."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.model.tiny_adapters import base_model, listing, logits, new_adapter
from vicuna.errors import UserError
from vicuna.model.adapter import load_adapter, plan_adapter, save_adapter
from vicuna.model.adapter_files import read_adapter_config, read_adapter_tensors, train_kind
from vicuna.model.base import check_base
from vicuna.model.flags import LoraFlags

ROOT = Path(__file__).resolve().parents[2]


def test_a_saved_adapter_opens_again_and_answers_the_same(tiny_base, tmp_path):
    model = new_adapter(tiny_base)
    save_adapter(model, tmp_path / "new" / "out")
    again, warning = load_adapter(base_model(tiny_base), tmp_path / "new" / "out", "tiny")

    assert sorted(listing(tmp_path / "new" / "out")) == ["adapter_config.json", "adapter_model.safetensors"]
    assert warning == ""
    assert torch.equal(logits(again), logits(model))
    assert not torch.equal(logits(again), logits(base_model(tiny_base)))


def test_saving_replaces_an_older_adapter_and_keeps_other_files(tiny_base, tmp_path):
    save_adapter(new_adapter(tiny_base, r=4), tmp_path)
    (tmp_path / "run_args.json").write_text("{}", encoding="utf-8")
    save_adapter(new_adapter(tiny_base), tmp_path)

    assert sorted(listing(tmp_path)) == ["adapter_config.json", "adapter_model.safetensors", "run_args.json"]
    assert read_adapter_config(tmp_path, load_file(tmp_path / "adapter_model.safetensors"))[0].r == 8


SAVED = """
import sys
from pathlib import Path
from tests.model.tiny_adapters import base_model
from vicuna.model.adapter import load_adapter, new_adapter, plan_adapter, save_adapter
from vicuna.model.base import check_base
from vicuna.model.flags import LoraFlags
base, start, out = map(Path, sys.argv[1:])
flags = LoraFlags(lora_target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
for model in (
    new_adapter(base_model(base), plan_adapter(check_base(str(base)), flags, None)[0]),
    load_adapter(base_model(base), start, "tiny", trainable=True)[0],
):
    for name, value in model.named_parameters():
        if "lora_B" in name:
            value.data.fill_(1)
    config = model.peft_config["default"]
    save_adapter(model, out / str(len(config.target_modules)))
    config.save_pretrained(out / f"{len(config.target_modules)} by the Trainer")
for words in (flags.lora_target_modules, ["v_proj", "up_proj", "o_proj"], ["k_proj", "q_proj"]):
    print(*set(words))
"""


def test_the_config_is_the_same_whatever_the_order_of_a_set_is(tiny_base, tmp_path, program):
    """Python draws the order of a set of words anew in each process."""
    start = new_adapter(tiny_base, target_modules=["v_proj", "up_proj", "o_proj"], exclude_modules=["k_proj", "q_proj"])
    start.save_pretrained(tmp_path / "start")
    (tmp_path / "saved.py").write_text(SAVED, encoding="utf-8")

    configs, orders = [], []
    for seed in "23":
        out = tmp_path / seed
        env = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        done = program(tmp_path / "saved.py", tiny_base, tmp_path / "start", out, env=env)
        assert done.returncode == 0, done.stderr
        configs.append({str(file.relative_to(out)): file.read_bytes() for file in out.rglob("adapter_config.json")})
        orders.append(done.stdout.splitlines()[-3:])

    assert len(configs[0]) == 4
    assert configs[0] == configs[1]
    assert all(one != other for one, other in zip(*orders, strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["lora_A", "lora_B"])
def test_an_adapter_with_a_value_that_is_not_finite_is_not_saved(tiny_base, copy, bad, where):
    before = listing(copy)
    model = new_adapter(tiny_base)
    name, value = next((name, value) for name, value in model.named_parameters() if where in name)
    value.data[0, 0] = bad

    with pytest.raises(RuntimeError, match=rf"{name.split('.lora_')[0]}.*not finite: the run has diverged"):
        save_adapter(model, copy)

    assert listing(copy) == before


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_an_adapter_changes_the_answers_of_a_base_of_fewer_bits(tiny_base, saved, bits):
    alone = logits(base_model(tiny_base, bits))

    assert (logits(load_adapter(base_model(tiny_base, bits), saved, "tiny")[0]) - alone).abs().max() > 0.1


def test_only_the_adapter_is_trained_when_a_run_starts_from_it(tiny_base, saved):
    model, _ = load_adapter(base_model(tiny_base), saved, "tiny", trainable=True)

    assert {name for name, value in model.named_parameters() if value.requires_grad} == {
        name for name, _ in model.named_parameters() if "lora_" in name
    }


def test_nothing_is_trained_when_an_adapter_only_answers(tiny_base, saved):
    model, _ = load_adapter(base_model(tiny_base), saved, "tiny")

    assert not any(value.requires_grad for value in model.parameters())


def test_a_rank_pattern_in_the_config_is_honoured(tiny_base, tmp_path):
    model = new_adapter(tiny_base, rank_pattern={"q_proj": 4})
    save_adapter(model, tmp_path)

    assert torch.equal(logits(load_adapter(base_model(tiny_base), tmp_path, "tiny")[0]), logits(model))


@pytest.mark.parametrize("who", ["this program", "PEFT"])
def test_a_low_rank_head_gives_the_same_logits_whoever_saved_it(tiny_base, tmp_path, who):
    """PEFT saves the base's own head beside the matrices, this program the matrices alone."""
    model = new_adapter(tiny_base, target_modules=["lm_head", "q_proj"])
    if who == "PEFT":
        model.save_pretrained(tmp_path)
    else:
        save_adapter(model, tmp_path)
    tensors = read_adapter_tensors(tmp_path / "adapter_model.safetensors")
    assert ("base_model.model.lm_head.base_layer.weight" in tensors) == (who == "PEFT")
    assert train_kind(tensors) == "lora"

    for bits in (32, 8):
        base = base_model(tiny_base, bits)
        alone = logits(base)
        found, _ = load_adapter(base, tmp_path, str(tiny_base))
        assert (logits(found) - alone).abs().max() > 0.1
        with found.disable_adapter():
            assert torch.equal(logits(found), alone)
        if bits == 32:
            assert torch.equal(logits(found), logits(model))
    _, flags, _ = plan_adapter(check_base(str(tiny_base)), LoraFlags(), tmp_path)
    assert sorted(flags.lora_target_modules) == ["lm_head", "q_proj"]


def test_a_low_rank_head_of_another_base_is_refused(tiny_base, tmp_path):
    new_adapter(tiny_base, target_modules=["lm_head", "q_proj"]).save_pretrained(tmp_path)
    file, name = tmp_path / "adapter_model.safetensors", "base_model.model.lm_head.base_layer.weight"
    tensors = load_file(file)
    save_file({**tensors, name: tensors[name].bfloat16()}, file)
    load_adapter(base_model(tiny_base), tmp_path, "here")  # the same, kept in 16 bits
    save_file({**tensors, name: tensors[name].flip(0)}, file)

    with pytest.raises(UserError, match=r"changes a lm_head that is not that of here: .* merge the adapter"):
        load_adapter(base_model(tiny_base), tmp_path, "here")


def test_a_run_from_an_adapter_takes_its_rank_alpha_and_modules(tiny_base, tmp_path):
    save_adapter(new_adapter(tiny_base, r=4, lora_alpha=24, target_modules=["k_proj", "up_proj"]), tmp_path)
    config, flags, warning = plan_adapter(check_base(str(tiny_base)), LoraFlags(lora_dropout=0.2), tmp_path)

    assert (config.r, config.lora_alpha, config.lora_dropout) == (4, 24, 0.2)
    assert (flags.lora_r, flags.lora_alpha, flags.lora_target_modules) == (4, 24, ["k_proj", "up_proj"])
    assert warning == ""


def test_a_new_run_takes_rank_alpha_and_modules_of_the_flags(tiny_base):
    flags = LoraFlags(lora_r=2, lora_alpha=6, lora_dropout=0.0, lora_target_modules=["o_proj"])
    config, same, _ = plan_adapter(check_base(str(tiny_base)), flags, None)

    assert (config.r, config.lora_alpha, config.lora_dropout) == (2, 6, 0.0)
    assert set(config.target_modules) == {"o_proj"}
    assert same == flags
