"""Rows of embeddings and head for new pieces: the old ones as they are, the new ones made of them.

Nothing is loaded as a model: each table is mapped, its old rows are copied as bytes, and its new ones stand behind.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vicuna.errors import UserError
from vicuna.files.tensors import LazyTensor, row_blocks
from vicuna.model.config import meta_model, quantization_method

INITS = ("subpieces", "mean", "normal")
_PIECES_AT_ONCE = 1024


@dataclass(frozen=True)
class NewPieces:
    """What a base's tokenizer gets in addition.

    Attributes:
        first: id of the first; they follow each other.
        parts: for each the old ids that its text was made of until now; [] for a control piece, which has no text.
    """

    first: int
    parts: list[list[int]]

    @property
    def rows(self) -> range:
        """Their ids, which are rows of the tables."""
        return range(self.first, self.first + len(self.parts))


@dataclass(frozen=True)
class GrownTable:
    """A table with other values in its new rows; rows behind those that its file has hold nothing else."""

    old: LazyTensor
    new: torch.Tensor
    rows: range
    shape: torch.Size

    @property
    def dtype(self) -> torch.dtype:
        return self.old.dtype

    def __getitem__(self, rows: slice) -> torch.Tensor:
        start, end, _ = rows.indices(self.shape[0])
        block = self.old[start : min(end, self.old.shape[0])]
        block = torch.cat([block, block.new_zeros((max(0, end - start - len(block)), *self.shape[1:]))])
        mine = range(max(start, self.rows.start), min(end, self.rows.stop))
        if mine:
            first = self.rows.start
            block[mine.start - start : mine.stop - start] = self.new[mine.start - first : mine.stop - first]
        return block


def grown_config(config: Any, new: NewPieces) -> Any:
    """A config with a row for each piece; the one that is given is not changed.

    Raises:
        UserError: a quantised base, whose tables can not be told from its other weights.
    """
    if method := quantization_method(config):
        raise UserError(
            f"the base is quantised with {method}: enlarge the model that it was made of, and quantise the result."
        )
    grown = copy.deepcopy(config)
    grown.vocab_size = max(config.vocab_size, new.rows.stop)
    return grown


def grow_tensors(
    tensors: Mapping[str, LazyTensor], config: Any, grown: Any, new: NewPieces, init: str, seed: int
) -> dict[str, LazyTensor]:
    """Every tensor of a base, its tables with rows for the new pieces.

    Args:
        config, grown: of the base, and of what becomes of it.
        init: of `INITS`. A head that is tied stays the embeddings.

    Raises:
        UserError: something else than tables would change with the vocabulary.
    """
    tied, tables = tied_heads(config), _tables(config)
    shapes = {name: tensor.shape for name, tensor in meta_model(grown).state_dict().items()}
    found: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        if name in tied:
            continue
        if name in tables:
            values = _new_rows(tensor, new, init, seed, config).to(tensor.dtype)
            found[name] = GrownTable(tensor, values, new.rows, shapes[name])
        elif tensor.shape == shapes[name]:
            found[name] = tensor
        else:
            raise UserError(
                f"{name} is {tuple(tensor.shape)}, and would be {tuple(shapes[name])} with more pieces: such a base "
                "can not be enlarged."
            )
    return found


def tied_heads(config: Any) -> Sequence[str]:
    """Names of the tensors that a base has only as its embeddings."""
    return tuple(meta_model(config).all_tied_weights_keys) if config.tie_word_embeddings else ()


def _tables(config: Any) -> set[str]:
    """Names of what has a row for each piece: embeddings, the head, and its bias if it has one."""
    model = meta_model(config)
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    names = {name: module for name, module in model.named_modules() if module in tables}
    return {f"{name}.{one}" for name, module in names.items() for one, _ in module.named_parameters()}


def _new_rows(table: LazyTensor, new: NewPieces, init: str, seed: int, config: Any) -> torch.Tensor:
    """Values in float32; the mean is that of the rows which have a piece."""
    make: Callable[[], torch.Tensor] = {
        "mean": lambda: _mean(table, new.first).expand(len(new.parts), *table.shape[1:]),
        "subpieces": lambda: _of_parts(table, new),
        "normal": lambda: _normal(table, new, seed, config),
    }[init]
    return make()


def _mean(table: LazyTensor, count: int) -> torch.Tensor:
    count = min(count, table.shape[0])
    total = torch.zeros(table.shape[1:], dtype=torch.float64)
    for start, end in row_blocks(torch.Size((count, *table.shape[1:]))):
        total += table[start:end].double().sum(0)
    return (total / count).float()


def _of_parts(table: LazyTensor, new: NewPieces) -> torch.Tensor:
    """The mean of the rows of each piece's parts; that of all rows for one without."""
    values = torch.empty((len(new.parts), *table.shape[1:]))
    mean = _mean(table, new.first)
    whole = table[0 : table.shape[0]]
    for start in range(0, len(new.parts), _PIECES_AT_ONCE):
        some = new.parts[start : start + _PIECES_AT_ONCE]
        rows = whole[torch.tensor([i for ids in some for i in ids], dtype=torch.long)].float().split([*map(len, some)])
        for place, one in enumerate(rows, start):
            values[place] = one.mean(0) if len(one) else mean
    return values


def _normal(table: LazyTensor, new: NewPieces, seed: int, config: Any) -> torch.Tensor:
    """As a new model begins: the width that the base's config names."""
    shape = (len(new.parts), *table.shape[1:])
    if len(shape) == 1:
        return torch.zeros(shape)
    draw = torch.Generator().manual_seed(seed)
    return torch.empty(shape).normal_(0, getattr(config, "initializer_range", None) or 0.02, generator=draw)
