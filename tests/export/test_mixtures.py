"""Mixtures whose files have a matrix for each expert, and whose model has one tensor for all of them."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests.export.merging import make_adapter, run
from tests.export.tool_models import IDS
from vicuna.errors import UserError
from vicuna.model.adapter import gather_tensors
from vicuna.model.base import check_base
from vicuna.model.base_tensors import read_base_tensors
from vicuna.model.openable import copy_tokenizer, make_openable
from vicuna.train.trainable import save_model

SIZES = {"vocab_size": 1800, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 32, "head_dim": 8}
SIZES |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
SIZES |= {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "initializer_range": 0.2}
SIZES |= {"bos_token_id": 1, "eos_token_id": 2}


@pytest.fixture(scope="module", params=["qwen3_moe", "mixtral"])
def mixture(request, tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixtures") / request.param
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(request.param, **SIZES)).save_pretrained(folder)
    copy_tokenizer(tiny_base, folder)
    make_openable(folder)
    return folder


@torch.no_grad()
def logits(model):
    return model.eval()(IDS).logits


def test_an_adapter_is_merged_into_it_and_its_experts_stay_one_by_one(mixture, tmp_path):
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    adapter = make_adapter(mixture, tmp_path / "adapter", target_modules=targets)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(mixture), adapter)

    merged = run(mixture, adapter, tmp_path / "merged")

    before, after = load_file(mixture / "model.safetensors"), load_file(merged / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert {name.split(".")[-2] for name in changed} == set(targets)
    off = (logits(AutoModelForCausalLM.from_pretrained(merged)) - logits(adapted)).abs().max()
    assert off < 1e-4


def test_a_lost_expert_is_noticed(mixture):
    base = check_base(str(mixture))
    weights = load_file(mixture / "model.safetensors")
    lost = next(name for name in weights if ".experts.3." in name)
    kept = mixture / "kept.safetensors"
    (mixture / "model.safetensors").rename(kept)
    try:
        from safetensors.torch import save_file

        save_file({name: one for name, one in weights.items() if name != lost}, mixture / "model.safetensors")
        with pytest.raises(UserError, match=r"lack \d+ tensors, such as .*experts"):
            read_base_tensors(mixture, base.config)
    finally:
        kept.replace(mixture / "model.safetensors")


def test_a_whole_trained_mixture_is_written_and_opens(mixture, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(mixture)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)

    save_model(model, tmp_path / "full", gather_tensors(model), mixture)

    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "full")), logits(model))
    settings = json.loads((tmp_path / "full" / "config.json").read_text(encoding="utf-8"))
    assert settings["rope_theta"] == settings["rope_parameters"]["rope_theta"]
