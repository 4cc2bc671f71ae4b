"""Names of an adapter's tensors: whatever wrapped the model that they were saved from, they mean the same."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from tests.export.merging import run
from tests.model.kinds_of_lora import Example, make_lora
from tests.model.tiny_adapters import base_model, logits
from vicuna.api.vllm_server import VllmFlags, vllm_argv
from vicuna.errors import UserError
from vicuna.model.adapter import load_adapter, plan_adapter
from vicuna.model.adapter_names import own_name
from vicuna.model.base import check_base
from vicuna.model.flags import LoraFlags

PREFIX = "base_model.model."
LAYER = "model.layers.0.self_attn.q_proj"
BLOCK = "model.layers.0."
WRAPPED = {
    "torch.compile of the base": lambda name: name.replace(PREFIX, f"{PREFIX}_orig_mod."),
    "torch.compile of all": lambda name: f"_orig_mod.{name}",
    "torch.compile of each block": lambda name: name.replace(BLOCK, f"{BLOCK}_orig_mod."),
    "DDP": lambda name: f"module.{name}",
    "DDP of a compiled model": lambda name: f"module._orig_mod.{name}",
    "a compiled DDP": lambda name: f"_orig_mod.module.{name}",
    "FSDP": lambda name: f"_fsdp_wrapped_module.{name.replace(BLOCK, f'{BLOCK}_fsdp_wrapped_module.')}",
    "checkpointed blocks": lambda name: name.replace(BLOCK, f"{BLOCK}_checkpoint_wrapped_module."),
    "Lightning": lambda name: f"_forward_module.model.{name}",
    "a class around it": lambda name: f"student.{name}",
    "a state dict": lambda name: name.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."),
    "another adapter's name": lambda name: name.replace("lora_A.", "lora_A.mine.").replace("lora_B.", "lora_B.mine."),
    "no prefix": lambda name: name.removeprefix(PREFIX),
}


@pytest.fixture(scope="module")
def lora(tiny_base, tmp_path_factory):
    """An adapter with matrices, magnitudes and a whole module; and its logits."""
    settings = {"use_dora": True, "modules_to_save": ["embed_tokens"]}
    return make_lora(tiny_base, tmp_path_factory.mktemp("lora") / "lora", Example("", settings))


def renamed(folder, to, change):
    shutil.copytree(folder, to)
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({change(name): tensor for name, tensor in tensors.items()}, to / "adapter_model.safetensors")
    return to


@pytest.mark.parametrize("name", WRAPPED)
def test_an_adapter_saved_from_a_wrapped_model_is_the_same_adapter(tiny_base, lora, tmp_path, name):
    folder = renamed(lora[0], tmp_path / "wrapped", WRAPPED[name])
    expected = lora[1]
    if name == "no prefix":  # what replaces a module has no name by which an adapter is known
        folder, expected = make_lora(tiny_base, tmp_path / "plain", Example("", {}))
        folder = renamed(folder, tmp_path / "bare", WRAPPED[name])

    model, _ = load_adapter(base_model(tiny_base), folder, "tiny")
    assert torch.equal(logits(model), expected)
    train = "lora" if name == "no prefix" else "lora+embeddings"
    plan_adapter(check_base(str(tiny_base)), LoraFlags(train=train), folder)
    merged = base_model(run(tiny_base, folder, tmp_path / "merged"))
    assert torch.allclose(logits(merged), expected, atol=1e-5 * float(expected.abs().max()))


def test_a_model_that_torch_compiled_is_saved_and_read(tiny_base, tmp_path):
    model = get_peft_model(
        torch.compile(base_model(tiny_base), backend="eager"), LoraConfig(r=4, target_modules=["q_proj"])
    )
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.3)
    model.save_pretrained(tmp_path)
    assert all("._orig_mod." in name for name in load_file(tmp_path / "adapter_model.safetensors"))

    found, _ = load_adapter(base_model(tiny_base), tmp_path, "tiny")

    assert torch.equal(logits(found), logits(model))


def test_names_in_the_config_are_unwrapped_too(tiny_base, tmp_path):
    folder, expected = make_lora(tiny_base, tmp_path / "lora", Example("", {"rank_pattern": {LAYER: 2}}))
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["rank_pattern"] = {f"_orig_mod.{LAYER}": 2}
    file.write_text(json.dumps(config), encoding="utf-8")

    assert torch.equal(logits(load_adapter(base_model(tiny_base), folder, "tiny")[0]), expected)


def test_a_file_of_two_adapters_is_refused(tiny_base, tmp_path):
    folder, _ = make_lora(tiny_base, tmp_path / "lora", Example("", {}))
    tensors = load_file(folder / "adapter_model.safetensors")
    both = {
        name.replace("_A.", f"_A.{one}.").replace("_B.", f"_B.{one}."): number * tensor
        for number, one in enumerate(("first", "second"), 1)
        for name, tensor in tensors.items()
    }
    save_file(both, folder / "adapter_model.safetensors")

    with pytest.raises(UserError, match=r"holds two different \S+lora_A\.weight, one of them as \S+second\.weight"):
        load_adapter(base_model(tiny_base), folder, "tiny")


def test_vllm_is_not_given_names_that_it_does_not_read(tiny_base, tmp_path):
    folder, _ = make_lora(tiny_base, tmp_path / "lora", Example("", {}))
    wrapped = renamed(folder, tmp_path / "wrapped", WRAPPED["torch.compile of the base"])

    with pytest.raises(UserError, match=r"names of a wrapped model, such as \S+_orig_mod\S+, which vLLM does not read"):
        vllm_argv(VllmFlags(model_path=str(tiny_base), lora_path=[str(wrapped)]))


@pytest.mark.parametrize(
    "name",
    [
        f"{PREFIX}{LAYER}.lora_A.weight", f"{PREFIX}{LAYER}.lora_magnitude_vector", f"{PREFIX}lm_head.weight",
        f"{PREFIX}model.embed_tokens.lora_embedding_A", f"{PREFIX}lm_head.base_layer.weight",
        f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta", "model.layers.0.mlp.up_proj.weight",
        "gpt_neox.layers.0.attention.dense.lora_A.weight",
    ],
)  # fmt: skip
def test_a_name_that_is_peft_s_own_stays(name):
    assert own_name(name) == name
