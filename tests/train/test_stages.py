"""The two stages of Chinese-LLaMA-Alpaca: the input embeddings alone; then, from these, with the head and matrices."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig

from tests.train.runs import TWO_EPOCHS, losses, train
from vicuna.errors import UserError
from vicuna.model import adapter
from vicuna.model.base import Base, check_base, load_base
from vicuna.model.config import meta_model
from vicuna.model.flags import LoraFlags
from vicuna.model.parameters import count_parameters

EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
IN_ADAPTER = "base_model.model."
FOUR = ["q_proj", "k_proj", "v_proj", "o_proj"]
SEVEN = [*FOUR, "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def first(program, tiny_base, records, tmp_path_factory) -> Path:
    """Stage one."""
    output = tmp_path_factory.mktemp("stages") / "first"
    return train(program, tiny_base, records, output, *TWO_EPOCHS, "--train", "embeddings")


@pytest.fixture(scope="module")
def second(program, tiny_base, records, first, tmp_path_factory) -> Path:
    """Stage two, begun from the folder of stage one."""
    output = tmp_path_factory.mktemp("stages") / "second"
    more = ["--train", "lora+embeddings+head", "--resume_from_checkpoint", first, "--lora_r", 4]
    return train(program, tiny_base, records, output, *TWO_EPOCHS, *more)


@pytest.mark.parametrize(
    ("train", "vocab", "more", "trained", "total", "share"),
    [
        ("embeddings", 49_953, {}, 204_607_488, 6_885_486_592, "2.97%"),
        ("lora+embeddings+head", 49_953, {"lora_target_modules": FOUR}, 417_603_584, 6_893_875_200, "6.06%"),
        ("lora+embeddings+head", 49_954, {"lora_target_modules": SEVEN}, 429_211_648, 6_905_483_264, "6.22%"),
    ],
)
def test_the_published_shares_are_those_of_llama_7b(train, vocab, more, trained, total, share):
    """Chinese-LLaMA-Alpaca's table has the percentages, which only these sets of parameters give."""
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
    )
    base = Base(path=Path("llama-7b"), config=config, tokenizer=None, generation_config=None)
    lora, _, _ = adapter.plan_adapter(base, LoraFlags(train=train, **more), None)
    found = count_parameters(meta_model(config), lora)

    assert (found.trainable, found.total) == (trained, total)
    assert f"{found.trainable / found.total:.2%}" == share
    assert found.frozen == 6_738_415_616 + 2 * (vocab - 32_000) * 4096  # LLaMA-7B with so many rows more


def test_stage_one_changes_the_input_embeddings_and_nothing_else(program, tiny_base, first, tmp_path):
    assert losses(first)[-1] < losses(first)[0]
    assert list(load_file(first / "adapter_model.safetensors")) == [IN_ADAPTER + EMBEDDINGS]

    before, after = load_file(tiny_base / "model.safetensors"), merged(program, tiny_base, first, tmp_path / "merged")

    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == [EMBEDDINGS]


def merged(program, base: Path, lora: Path, out: Path) -> dict[str, torch.Tensor]:
    done = program("tools/merge_lora.py", "--model_path", base, "--lora_path", lora, "--out_path", out, timeout=120)
    assert done.returncode == 0, done.stderr
    return load_file(out / "model.safetensors")


def test_stage_two_goes_on_from_the_embeddings_of_stage_one(tiny_base, first, second):
    said = (second / "session.log").read_text(encoding="utf-8")
    assert f"starts from the adapter in {first}" in said
    assert f"WARNING the adapter in {first} holds embeddings: head and lora begin anew" in said.partition("base  ")[0]
    assert losses(second)[0] < losses(first)[0] - 0.1
    assert losses(second)[-1] < losses(second)[0]
    saved = load_file(second / "adapter_model.safetensors")
    assert [name for name in saved if "lora_" not in name] == [IN_ADAPTER + HEAD, IN_ADAPTER + EMBEDDINGS]
    assert json.loads((second / "adapter_config.json").read_text(encoding="utf-8"))["r"] == 4


def test_a_run_begins_with_what_the_earlier_stage_left_and_with_the_bases_head(tiny_base, first):
    base = check_base(str(tiny_base))
    lora, _, warning = adapter.plan_adapter(base, LoraFlags(train="lora+embeddings"), first)
    assert warning == f"the adapter in {first} holds embeddings: head and lora begin anew"
    model, _ = adapter.load_adapter(load_base(base, 32), first, "tiny", trainable=True, within=lora)
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}

    found = {name: one for name, one in trained.items() if "modules_to_save" in name}
    saved = load_file(first / "adapter_model.safetensors")[IN_ADAPTER + EMBEDDINGS]
    head = load_file(tiny_base / "model.safetensors")[HEAD]
    expected = {"embed_tokens": saved, "lm_head": head}
    assert {name.split(".modules_to_save")[0].rsplit(".", 1)[-1] for name in found} == set(expected)
    for name, one in found.items():
        assert torch.equal(one, next(expected[table] for table in expected if table in name))
    assert not any(one.any() for name, one in trained.items() if "lora_B" in name)


def test_merged_stage_two_has_its_embeddings_once(program, tiny_base, second, tmp_path):
    after, saved = merged(program, tiny_base, second, tmp_path / "out"), load_file(second / "adapter_model.safetensors")
    before = load_file(tiny_base / "model.safetensors")

    assert after.keys() == before.keys()
    for name in (EMBEDDINGS, HEAD):
        assert torch.equal(after[name], saved[IN_ADAPTER + name])
    changed = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"embed_tokens", "lm_head", "q_proj", "v_proj"}


def test_matrices_can_be_gone_on_with_beside_the_embeddings(tiny_base, tmp_path):
    base = check_base(str(tiny_base))
    flags = LoraFlags(lora_r=4, lora_target_modules=["q_proj"])
    adapter.save_adapter(adapter.new_adapter(load_base(base, 32), adapter.plan_adapter(base, flags, None)[0]), tmp_path)

    lora, same, warning = adapter.plan_adapter(base, LoraFlags(train="lora+embeddings+head"), tmp_path)
    model, _ = adapter.load_adapter(load_base(base, 32), tmp_path, "tiny", trainable=True, within=lora)

    assert (same.lora_r, same.lora_target_modules) == (4, ["q_proj"])
    assert warning.endswith("holds lora: embeddings and head begin anew")
    saved = load_file(tmp_path / "adapter_model.safetensors")
    state = dict(model.named_parameters())
    for name, one in saved.items():
        assert torch.equal(state[name.replace(".weight", ".default.weight")], one)

    other = LoraFlags(lora_target_modules=["q_proj", "lm_head"])
    adapter.save_adapter(adapter.new_adapter(load_base(base, 32), adapter.plan_adapter(base, other, None)[0]), tmp_path)
    with pytest.raises(UserError, match="has matrices on lm_head, which this run trains as a whole: merge it first"):
        adapter.plan_adapter(base, LoraFlags(train="lora+embeddings+head"), tmp_path)
