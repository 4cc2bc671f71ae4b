"""What the weights of a model hold, without their values: the head of each tensor, from the heads of the files."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vicuna.files.tensors import read_tensor_file
from vicuna.foreign.safetensors_header import read_safetensors_header


@dataclass(frozen=True)
class Head:
    """A tensor's shape, the name of its dtype as its file has it, and the bits of all its values."""

    shape: tuple[int, ...]
    dtype: str
    is_float: bool
    bits: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_heads(files: Iterable[Path]) -> dict[str, Head]:
    """The tensors of a model's files by their names.

    Raises:
        UserError: a file is not what its name says, or not whole.
    """
    found: dict[str, Head] = {}
    for file in files:
        if file.suffix == ".safetensors":
            for name, entry in read_safetensors_header(file).items():
                begin, end = entry.data_offsets
                is_float = entry.dtype.startswith(("F", "BF"))
                found[name] = Head(tuple(entry.shape), entry.dtype, is_float, 8 * (end - begin))
            continue
        found |= heads_of(read_tensor_file(file))
    return found


def heads_of(tensors: Mapping[str, Any]) -> dict[str, Head]:
    """The heads of tensors that were opened already."""
    found = {}
    for name, tensor in tensors.items():
        bits = 8 * tensor.dtype.itemsize * tensor.shape.numel()
        dtype = str(tensor.dtype).removeprefix("torch.")
        found[name] = Head(tuple(tensor.shape), dtype, tensor.dtype.is_floating_point, bits)
    return found
