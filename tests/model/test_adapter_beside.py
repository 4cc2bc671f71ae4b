"""A base whose folder also holds an adapter: the base alone is the base alone, whoever opens it."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.model.tiny_adapters import logits
from vicuna.answer.flags import ServeFlags
from vicuna.answer.loading import load_assistant
from vicuna.errors import UserError
from vicuna.export.manifests import model_hashes, tensor_digests
from vicuna.model.adapter import load_adapter, new_adapter, plan_adapter, save_adapter
from vicuna.model.base import check_base, fingerprint, load_base
from vicuna.model.flags import LoraFlags, ModelFlags
from vicuna.model.found import model_run_args

OF_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


@pytest.fixture
def both(base_copy, saved) -> Path:
    """A copy of the tiny base with the saved adapter in the same folder, and what training wrote beside it."""
    for name in OF_ADAPTER:
        shutil.copy(saved / name, base_copy)
    (base_copy / "run_args.json").write_text(json.dumps({"prompt_type": "chat", "step": 7}), encoding="utf-8")
    return base_copy


@pytest.mark.parametrize("bits", [4, 8, 32])
def test_the_base_alone_is_loaded(tiny_base, both, bits):
    alone = load_base(check_base(str(tiny_base)), bits)
    model = load_base(check_base(str(both)), bits)

    assert torch.equal(logits(model), logits(alone))
    assert list(model.state_dict()) == list(alone.state_dict())


def test_an_adapter_trained_on_it_holds_its_own_tensors_only(both, tmp_path):
    base = check_base(str(both))
    config, _, _ = plan_adapter(base, LoraFlags(lora_r=4), None)
    model = new_adapter(load_base(base, 32), config)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.3)
    save_adapter(model, tmp_path / "new")

    assert len(tensor_digests(tmp_path / "new")) == 2 * 2 * 2  # blocks, modules, matrices
    again, _ = load_adapter(load_base(base, 32), tmp_path / "new", "both")
    assert torch.equal(logits(again), logits(model))


def test_its_fingerprint_and_its_hashes_are_those_of_the_base(tiny_base, both, saved):
    assert fingerprint(both) == fingerprint(tiny_base)
    assert model_hashes(both)["tensors"] == model_hashes(tiny_base)["tensors"]
    assert model_hashes(both, "adapter")["tensors"] == model_hashes(saved, "adapter")["tensors"]
    assert tensor_digests(both) == tensor_digests(tiny_base) | tensor_digests(saved)


def test_the_adapter_can_be_put_on_and_the_base_alone_is_asked_in_its_own_template(both, expected):
    serve = ServeFlags(cache_gib=0)
    assistant = load_assistant(ModelFlags(str(both), bits=32), serve, [str(both)])
    alone = load_assistant(ModelFlags(str(both), bits=32), serve)

    assert torch.equal(logits(assistant.engine.model), expected)
    assert assistant.first.trained_as == "chat"
    assert alone.first.trained_as == ""
    assert alone.warnings == []


def test_what_a_merge_wrote_beside_a_model_stays_the_models(both):
    assert model_run_args(both) == {}
    (both / "run_args.json").write_text(json.dumps({"prompt_type": "chat", "merged": {}}), encoding="utf-8")
    assert model_run_args(both)["prompt_type"] == "chat"


def test_an_adapter_beside_a_config_is_no_base(both):
    (both / "model.safetensors").unlink()

    with pytest.raises(UserError, match=r"has no weights: expected one of model\.safetensors, .*adapter_model"):
        check_base(str(both))


def test_weights_that_the_config_names_are_found(edit_base):
    folder = edit_base("config.json", transformers_weights="mine.safetensors")
    (folder / "model.safetensors").rename(folder / "mine.safetensors")

    load_base(check_base(str(folder)), 32)
