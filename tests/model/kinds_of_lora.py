"""Adapters of every kind that PEFT has, made by PEFT on the tiny base and moved at random, as training would."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from peft import (
    BdLoraConfig,
    EvaConfig,
    KasaConfig,
    LoraConfig,
    LoraGAConfig,
    MontecloraConfig,
    VeloraConfig,
    get_peft_model,
    initialize_lora_eva_weights,
    preprocess_loraga,
)
from transformers import LlamaConfig, LlamaForCausalLM

from tests.model.tiny_adapters import IDS, base_model, logits

QV = ["q_proj", "v_proj"]


@dataclass(frozen=True)
class Example:
    """How an adapter of a kind is made.

    Attributes:
        kind: a word of its row in `vicuna.model.adapter_kinds.KINDS`.
        settings: of LoraConfig.
        before, after: what is done to base and config before PEFT has them, and to the model after.
        edits: fields of adapter_config.json that are written over; for kinds that PEFT does not make here.
        biased: on a base that has biases.
    """

    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    before: Callable[[Any, LoraConfig], None] | None = None
    after: Callable[[Any], None] | None = None
    edits: dict[str, Any] = field(default_factory=dict)
    biased: bool = False


@dataclass(frozen=True)
class Made:
    """An adapter, the base that it is for, and the logits of both and of the base alone."""

    folder: Path
    base: Path
    expected: torch.Tensor
    alone: torch.Tensor


def _corda(base: Any, config: LoraConfig) -> None:
    """What preprocess_corda of PEFT leaves, which needs a package that is not installed here."""
    for name, layer in base.named_modules():
        if name.endswith(tuple(QV)):
            u, s, vh = torch.linalg.svd(layer.weight.data @ torch.diag(torch.rand(layer.in_features) + 0.5))
            layer.eigens = SimpleNamespace(U_WC=u[:, :4], S_WC=s[:4], V_WC=vh[:4].T)


def _lora_ga(base: Any, config: LoraConfig) -> None:
    preprocess_loraga(base, config, lambda: base(IDS, labels=IDS).loss.backward())


def _eva(model: Any) -> None:
    batch = {"input_ids": IDS, "labels": IDS, "attention_mask": torch.ones_like(IDS)}
    initialize_lora_eva_weights(model, [batch] * 3)


def _init(name: str, **more: Any) -> dict[str, Any]:
    return {"init_lora_weights": name, **more}


EXAMPLES = {
    "default": Example("plain LoRA"),
    "false": Example("plain LoRA", {"init_lora_weights": False}),
    "gaussian": Example("plain LoRA", _init("gaussian")),
    "orthogonal": Example("plain LoRA", _init("orthogonal")),
    "eva": Example("plain LoRA", _init("eva", eva_config=EvaConfig(rho=1.0)), after=_eva),
    "mica": Example("plain LoRA", _init("mica")),
    "rslora": Example("plain LoRA", {"use_rslora": True}),
    "some layers": Example("plain LoRA", {"layers_to_transform": [1]}),
    "regex": Example("plain LoRA", {"target_modules": r".*layers\.\d\..*(q|v)_proj"}),
    "all-linear": Example("plain LoRA", {"target_modules": "all-linear"}),
    "excluded": Example("plain LoRA", {"exclude_modules": ["layers.0.self_attn.q_proj"]}),
    "no task": Example("plain LoRA", {"task_type": None}),
    "qalora": Example("QA-LoRA", {"use_qalora": True}),
    "head": Example("plain LoRA", {"target_modules": ["q_proj", "lm_head"]}),
    "patterns": Example("differs between layers", {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 4}}),
    "embeddings": Example("LoRA on the embeddings", {"target_modules": ["q_proj", "embed_tokens"]}),
    "pissa": Example("PiSSA", _init("pissa")),
    "pissa, rslora, patterns": Example(
        "PiSSA",
        _init("pissa", use_rslora=True, rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 4}),
    ),
    "pissa on the head": Example("PiSSA", _init("pissa", target_modules=["q_proj", "lm_head"])),
    "pissa, dora": Example("PiSSA", _init("pissa", use_dora=True)),
    "olora": Example("PiSSA", _init("olora")),
    "kasa": Example("KaSA", {"kasa_config": KasaConfig()}),
    "corda": Example("CorDA", _init("corda"), before=_corda),
    "lora_ga": Example("CorDA", _init("lora_ga", lora_ga_config=LoraGAConfig()), before=_lora_ga),
    "loftq": Example("CorDA", edits={"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4, "loftq_iter": 1}}),
    "dora": Example("DoRA", {"use_dora": True}),
    "velora": Example("VeLoRA", {"velora_config": VeloraConfig(num_groups=4)}),
    "monteclora": Example("VeLoRA", {"monteclora_config": MontecloraConfig()}),
    "alora": Example("aLoRA", {"alora_invocation_tokens": [700, 900]}),
    "bdlora": Example(
        "Arrow",
        {"use_bdlora": BdLoraConfig(target_modules_bd_a=["q_proj"], target_modules_bd_b=["v_proj"], nblocks=2)},
    ),
    "layer_replication": Example("Arrow", {"layer_replication": [[0, 2], [1, 2]]}),
    "target_parameters": Example("Arrow", {"target_modules": [], "target_parameters": ["q_proj.weight"]}),
    "arrow": Example("Arrow", edits={"arrow_config": {"top_k": 2}}),
    "megatron": Example("Arrow", edits={"megatron_config": {"hidden_size": 32}}),
    "lora_bias": Example("lora_bias", {"lora_bias": True}),
    "bias all without biases": Example("without biases", {"bias": "all"}),
    "bias all": Example("with biases", {"bias": "all"}, biased=True),
    "bias lora_only": Example("with biases", {"bias": "lora_only", "alpha_pattern": {"v_proj": 4}}, biased=True),
    "another task": Example("nothing of", {"task_type": "SEQ_CLS"}),
    "embeddings and head saved": Example("head, norms", {"modules_to_save": ["embed_tokens", "lm_head"]}),
    "norms saved": Example("head, norms", {"modules_to_save": ["norm", "input_layernorm"]}),
    "linear layers saved": Example("`modules_to_save`: linear", {"modules_to_save": ["o_proj"]}),
    "tokens": Example("`trainable_token_indices`", {"trainable_token_indices": [5, 500, 1300]}),
    "tokens of the head too": Example(
        "`trainable_token_indices`", {"trainable_token_indices": {"embed_tokens": [5, 500], "lm_head": [300, 7]}}
    ),
}


def make_example(name: str, tiny_base: Path, folder: Path) -> Made:
    """Make an adapter in `folder`."""
    example = EXAMPLES[name]
    base = _with_biases(tiny_base) if example.biased else tiny_base
    saved, expected = make_lora(base, folder / name.replace(", ", "-").replace(" ", "-"), example)
    return Made(saved, base, expected, logits(base_model(base)))


def make_lora(base: Path, folder: Path, example: Example) -> tuple[Path, torch.Tensor]:
    """Have PEFT make and save an adapter; the logits of the model that it was saved from."""
    torch.manual_seed(1)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": QV, "task_type": "CAUSAL_LM", **example.settings}
    model, config = base_model(base), LoraConfig(**settings)
    if example.before:
        example.before(model, config)
    model = get_peft_model(model, config)
    if example.after:
        example.after(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    file = folder / "adapter_config.json"
    config = {**json.loads(file.read_text(encoding="utf-8")), **example.edits}
    file.write_text(json.dumps(config), encoding="utf-8")
    return folder, logits(model)


def _with_biases(tiny_base: Path) -> Path:
    """A base like the tiny one, whose attention has biases; beside it."""
    folder = tiny_base.with_name("biased")
    if folder.is_dir():
        return folder
    shutil.copytree(tiny_base, folder)
    config = LlamaConfig.from_pretrained(tiny_base)
    config.attention_bias = True
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    for name, value in model.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(value, std=0.3)
    model.save_pretrained(folder)
    return folder
