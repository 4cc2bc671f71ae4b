"""Which adapters vLLM is given: as PEFT writes them, against what vLLM 0.33.0 itself takes and refuses of each kind."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from vicuna.api.vllm_adapters import served_rank
from vicuna.errors import UserError
from vicuna.model.base import check_base
from vicuna.model.config import meta_model

QV = ["q_proj", "v_proj"]


@pytest.fixture(scope="module")
def base(tiny_base):
    return check_base(str(tiny_base))


@pytest.fixture(scope="module")
def rank_of(base):
    """The rank that an adapter in a folder is served at."""
    return lambda folder: served_rank(base, meta_model(base.config), folder)


@pytest.fixture
def made(tiny_base, tmp_path):
    """made(use_dora=True): an adapter of rank 4 as PEFT writes it."""

    def make(**config):
        torch.manual_seed(0)
        config = {"r": 4, "target_modules": QV, "init_lora_weights": False, "task_type": "CAUSAL_LM", **config}
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_base), LoraConfig(**config))
        model.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter"

    return make


@pytest.mark.parametrize(
    ("config", "rank"),
    [
        ({}, 4),
        ({"rank_pattern": {"layers.0.self_attn.q_proj": 16}}, 16),
        ({"rank_pattern": {"q_proj": 2}}, 4),
        ({"alpha_pattern": {"v_proj": 3}}, 4),
        ({"rank_pattern": {"v_proj": 40}, "alpha_pattern": {"q_proj": 1}, "use_rslora": True}, 40),
        ({"target_modules": [*QV, "lm_head"]}, 4),
        ({"target_modules": [*QV, "embed_tokens"]}, 4),
        ({"target_modules": ["embed_tokens", "lm_head"], "rank_pattern": {"lm_head": 8}}, 8),
        ({"layers_to_transform": [1]}, 4),
        ({"init_lora_weights": "gaussian"}, 4),
        ({"init_lora_weights": "orthogonal"}, 4),
        ({"init_lora_weights": True}, 4),
    ],
    ids=str,
)
def test_what_vllm_serves_is_given_to_it(rank_of, made, config, rank):
    assert rank_of(made(**config)) == rank


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"use_dora": True}, "uses use_dora, which vLLM does not serve: merge the adapter into the base"),
        ({"lora_bias": True}, "uses lora_bias, which vLLM does not serve"),
        ({"bias": "lora_only"}, "uses bias lora_only, which vLLM does not serve"),
        ({"modules_to_save": ["lm_head"]}, "uses modules_to_save, which vLLM does not serve"),
        ({"trainable_token_indices": [1, 2]}, "uses trainable_token_indices, which vLLM does not serve"),
        ({"init_lora_weights": "pissa"}, r"uses init_lora_weights pissa \(which changes the base's weights too\)"),
        ({"init_lora_weights": "pissa_niter_4"}, "uses init_lora_weights pissa_niter_4"),
        ({"init_lora_weights": "olora"}, "uses init_lora_weights olora"),
    ],
    ids=str,
)
def test_what_vllm_does_not_serve_is_named(rank_of, made, config, says):
    with pytest.raises(UserError, match=says):
        rank_of(made(**config))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4, "loftq_iter": 1}},
            "uses init_lora_weights loftq",
        ),
        ({"init_lora_weights": "corda"}, "uses init_lora_weights corda"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "uses layer_replication"),
        ({"alora_invocation_tokens": [5]}, "uses alora_invocation_tokens"),
        ({"use_qalora": True}, "uses use_qalora"),
    ],
    ids=str,
)
def test_a_config_alone_is_enough_to_refuse(rank_of, made, config, says):
    folder = made()
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | config), encoding="utf-8")
    with pytest.raises(UserError, match=says):
        rank_of(folder)


@pytest.mark.parametrize("init", ["eva", "mica", "Gaussian"])
def test_an_init_that_leaves_the_base_alone_is_none_to_refuse(rank_of, made, init):
    folder = made()
    file = folder / "adapter_config.json"
    file.write_text(
        json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"init_lora_weights": init}), encoding="utf-8"
    )
    assert rank_of(folder) == 4


def changed(folder, change):
    """An adapter folder whose tensors went through `change`."""
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(change(tensors), folder / "adapter_model.safetensors")
    return folder


def test_a_tensor_that_vllm_has_no_name_for_is_refused(rank_of, made):
    more = {"base_model.model.model.norm.weight": torch.ones(32)}
    with pytest.raises(UserError, match=r"uses base_model\.model\.model\.norm\.weight, which vLLM does not serve"):
        rank_of(changed(made(), lambda tensors: tensors | more))


def test_the_bases_own_head_below_a_low_rank_one_must_be_this_bases(rank_of, made):
    """vLLM takes the base's and passes the copy over."""
    folder = made(target_modules=["lm_head"])
    name = "base_model.model.lm_head.base_layer.weight"
    with pytest.raises(UserError, match="changes a lm_head that is not that of tiny"):
        rank_of(changed(folder, lambda tensors: {**tensors, name: tensors[name] + 0.1}))
    assert rank_of(changed(folder, lambda tensors: {one: tensors[one] for one in tensors if one != name})) == 4


def test_embeddings_of_another_vocabulary_are_refused(rank_of, made):
    def longer(tensors):
        return {
            name: torch.cat([tensor, tensor[:, :8]], 1) if name.endswith("embedding_A") else tensor
            for name, tensor in tensors.items()
        }

    with pytest.raises(UserError, match=r"whose model\.embed_tokens has 1808 rows, but in tiny it is"):
        rank_of(changed(made(target_modules=["embed_tokens"]), longer))
