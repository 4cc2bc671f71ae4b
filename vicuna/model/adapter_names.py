"""Names of an adapter's tensors: PEFT's own, whatever wrapped the model that they were saved from."""

from pathlib import Path
from typing import Any

import torch

from vicuna.errors import UserError

PEFT_PREFIX = "base_model.model."  # how PEFT names the base's modules in a file
ROWS = "token_adapter.trainable_tokens_delta"  # ends the name of the rows of trainable_token_indices
# What torch.compile, FSDP, activation checkpointing, Lightning and DDP put into names, before all or at any module.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "module"}
# Behind these a state dict that was not made for saving one adapter has the adapter's name.
_BEFORE_ADAPTER = {"lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector", "lora_diag"}
_BEFORE_ADAPTER |= {"modules_to_save", "trainable_tokens_delta"}
_PARAMETERS = {"weight", "bias"}


def own_names(tensors: dict[str, torch.Tensor], file: Path) -> dict[str, torch.Tensor]:
    """The tensors by the names that PEFT saves them under.

    Raises:
        UserError: two different ones have the same name then, as in a file that holds several adapters.
    """
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        # Where the vocabulary was enlarged, PEFT also saves the base's own embeddings, and the trained ones twice.
        if ".original_module." in name:
            continue
        own = own_name(name)
        if own in found and not torch.equal(found[own], tensor):
            raise UserError(
                f"{file} holds two different {own}, one of them as {name}: save each adapter in a file of its own."
            )
        found[own] = tensor
    return found


def own_name(name: str) -> str:
    """A tensor's name as PEFT saves it."""
    parts = unwrapped(name).split(".")
    if "base_model" in parts:  # what stands before it is not PEFT's
        parts = parts[parts.index("base_model") :]
    elif parts[0] in ("model", "lm_head") and _BEFORE_ADAPTER & set(parts):
        parts = [*PEFT_PREFIX.rstrip(".").split("."), *parts]
    place = next((i for i, part in enumerate(parts) if part in _BEFORE_ADAPTER), len(parts))
    before, kind, behind = parts[:place], parts[place : place + 1], parts[place + 1 :]
    if behind and behind[0] not in _PARAMETERS:
        behind = behind[1:]
    if kind == ["lora_magnitude_vector"]:
        behind = []
    return ".".join([*before, *([] if kind == ["modules_to_save"] else kind), *behind])


def unwrapped(name: str) -> str:
    """The name of a module, or of something in it, without what wrapped it or a module around it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def row_indices(config: Any) -> dict[str, list[int]]:
    """End of a module's name -> its rows that an adapter with trainable_token_indices puts others in place of."""
    said = config.trainable_token_indices or {}
    return said if isinstance(said, dict) else {"embed_tokens": said}
