"""Adapters added into a base's weights: computed in float32 when rows are asked for, and cast once.

Several adapters change a weight in the order in which they are given.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch

from vicuna.errors import UserError
from vicuna.export.updates import AdapterUpdate, Update
from vicuna.files.tensors import LazyTensor, bit_equal, dtype_name, is_finite


@dataclass(frozen=True)
class MergedTensor:
    """A weight with what adapters add to it, as rows of the dtype it is to be written in.

    Raises:
        UserError: from the rows, a value that this dtype can not hold.
    """

    name: str
    source: LazyTensor
    dtype: torch.dtype
    added: list[Update] = field(default_factory=list)

    @property
    def shape(self) -> torch.Size:
        return self.source.shape

    def __getitem__(self, rows: slice) -> torch.Tensor:
        block = self.source[rows]
        if not self.added and block.dtype == self.dtype:
            if not is_finite(block):
                raise UserError(f"{self.name} has values that are not finite: the base is broken. Copy it again.")
            return block
        summed = block.to(torch.float32, copy=True) if self.added else block
        for one in self.added:
            one.apply(summed, rows)
        return self._cast(summed)

    def _cast(self, summed: torch.Tensor) -> torch.Tensor:
        written = summed.to(self.dtype)
        if not is_finite(written):
            low, high = (end.item() for end in torch.aminmax(summed))
            largest = max(abs(low), abs(high))
            if largest < float("inf"):
                raise UserError(
                    f"{self.name} has values up to {largest:.4g}, and {dtype_name(self.dtype)} ends at "
                    f"{torch.finfo(self.dtype).max:.4g}: pass --dtype bfloat16 or --dtype float32."
                )
            raise UserError(f"{self.name} has values that are not finite: the base or an adapter is broken.")
        return written


def merge(
    base: Mapping[str, LazyTensor], updates: Iterable[AdapterUpdate], dtype: torch.dtype | None
) -> dict[str, MergedTensor]:
    """Every weight of a base with the adapters merged into it, in order.

    Args:
        base: see `vicuna.model.base_tensors.read_base_tensors`.
        dtype: of all weights; None keeps that of each.

    Raises:
        UserError: an adapter that changes a weight the base does not have.
    """
    merged = {name: MergedTensor(name, rows, dtype or rows.dtype) for name, rows in base.items()}
    for update in updates:
        for name, tensor in update.whole.items():
            merged[name] = MergedTensor(name, tensor, merged[name].dtype)
        for name, change in update.added.items():
            before = merged[name]
            merged[name] = MergedTensor(name, before.source, before.dtype, [*before.added, change])
    return merged


def stays_tied(head: MergedTensor, embedding: MergedTensor) -> bool:
    """Whether a head is still the embeddings, bit by bit."""
    untouched = head.source is embedding.source and not head.added and not embedding.added
    return untouched or bit_equal(head, embedding)
