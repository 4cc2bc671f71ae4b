"""The config of a model in Hugging Face format, and what follows from it before any weight is read."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from vicuna.errors import UserError, first_line


def read_config(folder: Path) -> Any:
    """The config of a folder in Hugging Face format.

    Raises:
        UserError: it can not be read.
    """
    try:
        return AutoConfig.from_pretrained(folder)
    except (ValueError, OSError, KeyError) as error:
        raise UserError(f"{folder / 'config.json'} can not be read ({first_line(error)}).") from error


def meta_model(config: Any) -> PreTrainedModel:
    """The model without weights: names and shapes only, at no cost.

    Raises:
        UserError: a model that does not continue text.
    """
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except ValueError as error:
        kind = type(config).__name__.removesuffix("Config")
        raise UserError(
            f"the base is of type {kind}, which does not continue text; expected one like LLaMA."
        ) from error


def head_dim(config: Any) -> int:
    """The width of an attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def quantization_method(config: Any) -> str:
    """What a base's weights were quantised with, "" for a plain one."""
    settings = getattr(config, "quantization_config", None)
    return settings.get("quant_method", "an unknown method") if settings else ""
