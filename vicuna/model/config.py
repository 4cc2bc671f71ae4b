"""The config of a model in Hugging Face format, and what follows from it before any weight is read."""

from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel

from vicuna.errors import UserError
from vicuna.foreign.libraries import refusals
from vicuna.foreign.odd_files import NEVER_RUN, describe_odd_file
from vicuna.foreign.typed import read_object, typed
from vicuna.model.base_files import BaseConfig


def read_config(folder: Path) -> Any:
    """The config of a folder in Hugging Face format.

    Raises:
        UserError: it can not be read, or would have code run that is not transformers' own.
    """
    file = folder / "config.json"
    settings = read_object(file)
    declared = typed(settings, BaseConfig, file)
    with refusals(lambda said: _unreadable(file, declared, said)):
        config = AutoConfig.from_pretrained(folder, **NEVER_RUN)
    if getattr(config, "quantization_config", None) is not None and not quantization_method(config):
        raise UserError(
            f"{file} has a quantization_config that names no quant_method: remove it where the weights are plain, or "
            "copy the file again."
        )
    if kernel := _hub_kernel(settings):
        raise UserError(
            f"{file} has parts of the model computed by {kernel}, compiled code of the hub, which is never fetched: "
            "remove that line, and transformers computes them itself."
        )
    return config


def _unreadable(file: Path, declared: BaseConfig, said: str) -> str:
    if declared.auto_map:
        return (
            f"{file} is of a kind of model that transformers does not know, and names Python code of its own "
            "(auto_map), which is never run; expected a kind like LLaMA. Some models have a copy in its format."
        )
    if odd := describe_odd_file(file, is_text=True):
        return f"{file} {odd}"
    return f"{file} can not be read ({said})."


def _hub_kernel(settings: dict[str, Any]) -> str:
    """The first repository of compiled code that a config names for attention or experts, "" for none."""
    for key, value in settings.items():
        if isinstance(value, dict) and (found := _hub_kernel(value)):
            return found
        if key.removesuffix("_internal").endswith("_implementation") and "/" in str(value):
            return str(value)
    return ""


def meta_model(config: Any) -> PreTrainedModel:
    """The model without weights: names and shapes only, at no cost.

    Raises:
        UserError: a model that does not continue text.
    """
    kind = type(config).__name__.removesuffix("Config")

    def refused(said: str) -> str:
        return f"no model of type {kind} can be made of {config.name_or_path}/config.json ({said}). Correct it."

    try:
        with torch.device("meta"), refusals(refused):
            return AutoModelForCausalLM.from_config(config, **NEVER_RUN)
    except UserError as error:
        if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise
        raise UserError(
            f"the base is of type {kind}, which does not continue text; expected one like LLaMA."
        ) from error


def linear_layers(config: Any) -> dict[str, tuple[int, int]]:
    """Every linear layer but the head -> its columns and rows."""
    model = meta_model(config)
    head = model.get_output_embeddings()
    return {
        name: (layer.in_features, layer.out_features)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and layer is not head
    }


def has_fused_experts(model: torch.nn.Module) -> bool:
    """Whether some weights are stacked: a matrix for each expert in one tensor."""
    return any(
        parameter.dim() == 3
        for module in model.modules()
        if not isinstance(module, torch.nn.Conv1d)
        for parameter in module.parameters(recurse=False)
    )


def head_dim(config: Any) -> int:
    """The width of an attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def quantization_method(config: Any) -> str:
    """What a base's weights were quantised with, "" for a plain one."""
    settings = getattr(config, "quantization_config", None) or {}
    if settings.get("load_in_8bit") or settings.get("load_in_4bit"):  # all that configs of 2023 say
        return "bitsandbytes"
    return settings.get("quant_method") or ""
