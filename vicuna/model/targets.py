"""Which layers of a base an adapter can be put on, by name, before any weight is read.

PEFT's own all-linear, and names that a mixture's experts had before transformers 5, train routers and experts that are
one tensor for all of them; what is written then opens nowhere else. Here they are never trained.
"""

import warnings
from collections.abc import Sequence
from typing import Any

from peft import LoraConfig, get_peft_model
from torch import nn

from vicuna.errors import UserError
from vicuna.model.config import has_fused_experts, meta_model
from vicuna.model.gptq import keep_peft_silent

ROUTERS = {"router", "gate", "shared_expert_gate"}  # parts of the names of what chooses experts


def all_linear(config: Any) -> list[str]:
    """Names of every linear layer but the head, routers, and what PEFT takes for fused experts.

    Raises:
        UserError: there is none.
    """
    model = meta_model(config)
    names = sorted(_layer_names(model, head=False) - _taken_for_experts(config))
    if not names:
        raise UserError(
            f"--lora_target_modules: this base, of type {config.model_type}, has no linear layers that an adapter "
            "could be put on; expected one like LLaMA."
        )
    return names


def untrained(config: Any) -> str:
    """What all-linear leaves out of a base, in a line; "" for nothing but the head."""
    if not has_fused_experts(meta_model(config)):
        return ""
    names = ", ".join(sorted(_taken_for_experts(config)))
    more = f", nor the linear layers {names}, by whose names PEFT means the experts" if names else ""
    return f"the experts of this base are one tensor for all of them: neither they nor routers are trained{more}"


def check_targets(config: Any, names: Sequence[str]) -> None:
    """Refuse names that no linear layer of a base has, or by which PEFT would train something else.

    Raises:
        UserError: see above, with the names that there are.
    """
    here = _layer_names(meta_model(config), head=True)
    experts = _taken_for_experts(config)
    remedy = f"it has {', '.join(sorted(here - experts))}; all-linear stands for every one but the head"
    if unknown := sorted(set(names) - here):
        raise UserError(f"--lora_target_modules {' '.join(unknown)}: no such linear layers in this base; {remedy}.")
    if taken := sorted(set(names) & experts):
        raise UserError(
            f"--lora_target_modules {' '.join(taken)}: PEFT would train this base's fused experts by these names, not "
            f"its linear layers; {remedy}."
        )


def _layer_names(model: nn.Module, head: bool) -> set[str]:
    """The last parts of the names of its linear layers, routers left out."""
    own = model.get_output_embeddings()
    return {
        name.rsplit(".", 1)[-1]
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and (head or layer is not own) and not ROUTERS & set(name.split("."))
    }


def _taken_for_experts(config: Any) -> set[str]:
    """Names of linear layers that PEFT turns into fused experts: those that it does not leave in its config."""
    model = meta_model(config)
    if not has_fused_experts(model):
        return set()
    keep_peft_silent()
    names = _layer_names(model, head=False)
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules=sorted(names))
    with warnings.catch_warnings(action="ignore"):  # of patterns that it makes for the experts itself
        get_peft_model(model, lora)
    return names - set(lora.target_modules)
