"""What config.json declares, compared with what the weights beside it hold, before room is made for any of it.

A config of a few KB can name a million layers; a model takes no more of a machine than its files have values for.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from vicuna.errors import UserError
from vicuna.files.weight_heads import Head
from vicuna.foreign.typed import read_typed
from vicuna.model.base_files import BaseConfig, Dimensions
from vicuna.model.config import quantization_method

_NUMBERS = re.compile(r"(?<![^.])\d{1,9}(?=\.)")
_MARKS = (".SCB", ".qweight", "bitsandbytes__")  # in names of quantised weights, see `stored.check_marks`
# Tables of positions, and masks, that classes of old make beside the weights.
_BUFFER_BYTES = 200 << 20
_OTHER = "config and weights are of different models."


def check_counts(folder: Path, heads: Mapping[str, Head], weights: str = "the weights beside it") -> None:
    """Check that the weights have the layers and experts that config.json declares; each is built one by one.

    Args:
        weights: which they are, in words.

    Raises:
        UserError: they have fewer.
    """
    file = folder / "config.json"
    declared = read_typed(file, BaseConfig)
    layers, experts = _counted(heads)
    for part in declared.parts:
        for name, said in _declared_layers(part):
            if said > layers:
                raise UserError(f"{file} says {name} {said}, and {weights} have {layers}: {_OTHER}")
        for name, said in _declared_experts(part):
            # Stacked experts are a dimension of a tensor, and no part of a name.
            if said > experts and all(said not in head.shape for head in heads.values()):
                raise UserError(f"{file} says {name} {said}, and no tensor of {weights} has them: {_OTHER}")
            deepest = max((said for _, said in _declared_layers(part)), default=layers)
            if said * deepest > 64 * len(heads) + 4096:
                raise UserError(
                    f"{file} says {name} {said} in each of {deepest} layers, and {weights} have {len(heads)} "
                    f"tensors: {_OTHER}"
                )


def check_shapes(folder: Path, config: Any, model: nn.Module, heads: Mapping[str, Head]) -> None:
    """Check that the weights can fill the model that config.json describes: sizes, shapes and kinds of numbers.

    Args:
        model: without weights, as `meta_model` makes it.

    Raises:
        UserError: what is larger than they, or of another shape or kind.
    """
    quantised = bool(quantization_method(config)) or any(mark in name for name in heads for mark in _MARKS)
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    parameters = {name: one for name, one in model.named_parameters(remove_duplicate=False) if name not in tied}
    for name, parameter in {} if quantised else parameters.items():
        head = heads.get(name)
        if head is None or not parameter.is_floating_point():
            continue
        if not head.is_float:
            raise UserError(f"{name} in {folder} is {head.dtype}; expected numbers of floating point. Copy it again.")
        if parameter.dim() <= 2 and head.shape != tuple(parameter.shape):
            raise UserError(
                f"{name} in {folder} is {head.shape}, but {tuple(parameter.shape)} follows from config.json: {_OTHER}"
            )
    needed = sum(one.numel() for one in parameters.values())
    held = sum(head.bits if quantised else head.elements for head in heads.values())
    if needed > held:
        if not quantised and (lacking := sorted(parameters.keys() - heads.keys())):
            raise UserError(
                f"the weights in {folder} lack {len(lacking)} tensors, such as {lacking[0]}. Copy the folder again."
            )
        raise UserError(
            f"config.json in {folder} describes a model of {needed:,} values, and the weights beside it have room for "
            f"{held:,}: {_OTHER}"
        )
    room = sum(one.nbytes for one in model.buffers())
    if room > _BUFFER_BYTES + sum(head.bits for head in heads.values()) // 8:
        raise UserError(
            f"config.json in {folder} has tables of {room / 2**20:,.0f} MB computed beside the weights: correct its "
            "number of positions."
        )


def _counted(heads: Mapping[str, Head]) -> tuple[int, int]:
    """How many layers, and how many experts, the names of tensors number."""
    outer, inner = defaultdict(set), 0
    for name in heads:
        numbers = list(_NUMBERS.finditer(name))
        if numbers:
            outer[name[: numbers[0].start()]].add(int(numbers[0][0]))
        inner = max([inner, *(int(one[0]) + 1 for one in numbers[1:])])
    return max(map(len, outer.values()), default=0), inner


def _declared_layers(part: Dimensions) -> list[tuple[str, int]]:
    names = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "decoder_layers", "num_nextn_predict_layers")
    return [(name, said) for name in names if (said := getattr(part, name))]


def _declared_experts(part: Dimensions) -> list[tuple[str, int]]:
    names = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    return [(name, max(said)) for name in names if (said := getattr(part, name))]
