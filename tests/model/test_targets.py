"""all-linear and named layers on the architectures that people tune: never a router, never fused experts."""

import pytest
from peft import get_peft_model
from transformers import AutoConfig

from vicuna.errors import UserError
from vicuna.model.adapter import plan_adapter, with_named_modules
from vicuna.model.base import Base
from vicuna.model.config import meta_model
from vicuna.model.flags import ALL_LINEAR, LoraFlags
from vicuna.model.targets import all_linear, check_targets, untrained

SIZES = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
EXPERTS |= {"shared_expert_intermediate_size": 48, "n_routed_experts": 4, "n_group": 1, "topk_group": 1}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}
ATTENTION = ["k_proj", "o_proj", "q_proj", "v_proj"]
SEVEN = sorted([*ATTENTION, "gate_proj", "up_proj", "down_proj"])
FUSED = ["mixtral", "qwen3_moe", "qwen2_moe", "deepseek_v3"]


def config_of(kind: str):
    more = EXPERTS if kind in FUSED else {}
    more = more | (LATENT | {"first_k_dense_replace": 1} if kind == "deepseek_v3" else {})
    return AutoConfig.for_model(kind, **SIZES, **more)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        *[(kind, SEVEN) for kind in ("llama", "mistral", "qwen2", "qwen3", "smollm3")],
        ("phi3", ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]),
        ("gpt_neox", ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"]),
        ("mixtral", ATTENTION),
        ("qwen3_moe", ATTENTION),
        ("qwen2_moe", SEVEN),  # its shared expert is three linear layers
        ("deepseek_v3", ["kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "q_a_proj", "q_b_proj"]),
    ],
)
def test_all_linear_is_resolved_to_plain_names_that_train_linear_layers_alone(kind, names):
    config = config_of(kind)
    flags = with_named_modules(LoraFlags(lora_target_modules=[ALL_LINEAR]), config)
    check_targets(config, flags.lora_target_modules)  # what all-linear names is what may be named
    lora, flags, _ = plan_adapter(Base("base", config, None, None), flags, None)
    model = get_peft_model(meta_model(config), lora)

    trained = {name.split(".lora_")[0] for name, one in model.named_parameters() if one.requires_grad}
    assert flags.lora_target_modules == names
    assert {name.rsplit(".", 1)[-1] for name in trained} == set(names)
    assert not [name for name in trained if "router" in name or ".experts" in name or name.endswith("gate")]
    assert sorted(model.peft_config["default"].target_modules) == names
    assert not model.peft_config["default"].target_parameters


@pytest.mark.parametrize("kind", FUSED)
def test_what_is_left_out_of_a_mixture_is_said(kind, caplog):
    with caplog.at_level("INFO", "vicuna"):
        with_named_modules(LoraFlags(lora_target_modules=[ALL_LINEAR]), config_of(kind))
    (said,) = [line for line in caplog.messages if "one tensor for all of them" in line]
    assert said.startswith("--lora_target_modules all-linear: the experts of this base")
    # In the blocks of DeepSeek without experts there are linear layers of their names.
    assert ("nor the linear layers down_proj, gate_proj, up_proj" in said) == (kind == "deepseek_v3")


def test_of_a_dense_base_nothing_is_said():
    assert untrained(config_of("qwen3")) == ""


@pytest.mark.parametrize(
    ("kind", "names", "message"),
    [
        (
            "phi3",
            ["q_proj", "v_proj"],
            r"q_proj v_proj: no such linear layers in this base; it has .*qkv_proj; all-linear",
        ),
        (
            "gpt_neox",
            ["q_proj", "v_proj"],
            r"q_proj v_proj: no such linear layers .*query_key_value; all-linear stands for every",
        ),
        ("qwen3_moe", SEVEN, r"down_proj gate_proj up_proj: no such linear layers .*it has k_proj, lm_head, o_proj"),
        ("qwen2_moe", ["shared_expert_gate"], r"shared_expert_gate: no such linear layers"),
        (
            "deepseek_v3",
            ["o_proj", "up_proj"],
            r"up_proj: PEFT would train this base's fused experts .*it has kv_a_proj",
        ),
        ("llama", ["self_attn.q_proj"], r"self_attn.q_proj: no such linear layers"),
    ],
)
def test_names_that_would_train_nothing_or_something_else_are_refused(kind, names, message):
    with pytest.raises(UserError, match=rf"--lora_target_modules {message}"):
        check_targets(config_of(kind), names)


def test_the_head_can_be_named():
    check_targets(config_of("qwen3"), ["q_proj", "lm_head"])


def test_a_base_without_linear_layers_is_refused():
    config = AutoConfig.for_model("gpt2", n_embd=32, n_layer=1, n_head=2, vocab_size=320)
    with pytest.raises(UserError, match="this base, of type gpt2, has no linear layers"):
        all_linear(config)
