"""Meta's layout of a LLaMA: names, the order of q and k rows, and how tensors are cut into consolidated.NN.pth.

Meta rotates neighbouring values of a head together, Hugging Face the first half with the second; so rows of wq and wk
stand in another order. A tensor is cut by rows or by columns into equal parts, one a shard; the rows of the head may
be uneven, the last shard then has the remainder; norms are in every shard.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vicuna.errors import UserError, listing
from vicuna.export.meta_params import LlamaShape, read_params
from vicuna.files.crcs import write_crcs
from vicuna.files.outputs import check_disk_space
from vicuna.files.tensors import (
    LazyTensor,
    create_tensor_file,
    meta_tensor,
    progress,
    read_tensor_file,
    refuse_old_llama_cpp,
    row_blocks,
)
from vicuna.foreign.paths import regular_files
from vicuna.model.found import RUN_ARGS
from vicuna.model.known_files import copy_known
from vicuna.prompt.tokenizer_files import CHAT_TEMPLATE_FILE as CHAT_TEMPLATE

ROWS, COLUMNS, COPIED = 0, 1, None  # the dimension along which a tensor is cut
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class Placement:
    """Where a tensor of Hugging Face's has its place in Meta's layout."""

    name: str
    cut: int | None
    rotated: bool = False


_OUTSIDE = {
    EMBEDDING: Placement("tok_embeddings.weight", COLUMNS),
    "model.norm.weight": Placement("norm.weight", COPIED),
    HEAD: Placement("output.weight", ROWS),
}
_LAYER = {
    "self_attn.q_proj.weight": Placement("attention.wq.weight", ROWS, rotated=True),
    "self_attn.k_proj.weight": Placement("attention.wk.weight", ROWS, rotated=True),
    "self_attn.v_proj.weight": Placement("attention.wv.weight", ROWS),
    "self_attn.o_proj.weight": Placement("attention.wo.weight", COLUMNS),
    "mlp.gate_proj.weight": Placement("feed_forward.w1.weight", ROWS),
    "mlp.down_proj.weight": Placement("feed_forward.w2.weight", COLUMNS),
    "mlp.up_proj.weight": Placement("feed_forward.w3.weight", ROWS),
    "input_layernorm.weight": Placement("attention_norm.weight", COPIED),
    "post_attention_layernorm.weight": Placement("ffn_norm.weight", COPIED),
}
_SHARD = re.compile(r"consolidated\.(\d+)\.pth")


def placements(layers: int) -> dict[str, Placement]:
    """Every tensor of a LLaMA with so many decoder blocks: Hugging Face's name -> place in Meta's layout."""
    inside = {
        f"model.layers.{i}.{name}": Placement(f"layers.{i}.{place.name}", place.cut, place.rotated)
        for i in range(layers)
        for name, place in _LAYER.items()
    }
    return {**_OUTSIDE, **inside}


@dataclass(frozen=True)
class ShardedTensor:
    """A tensor that lies in parts, in Hugging Face's order of rows unless `head_dim` is None.

    Attributes:
        parts: one a shard, mapped; a single one where all are equal.
        head_dim: rows of a head whose rows are to be put in the other order.
    """

    parts: list[torch.Tensor]
    cut: int | None
    head_dim: int | None = None

    @property
    def shape(self) -> torch.Size:
        size = list(self.parts[0].shape)
        if self.cut is not None:
            size[self.cut] = sum(part.shape[self.cut] for part in self.parts)
        return torch.Size(size)

    @property
    def dtype(self) -> torch.dtype:
        return self.parts[0].dtype

    def __getitem__(self, rows: slice) -> torch.Tensor:
        """Rows of the whole tensor."""
        start, stop = rows.start, rows.stop
        if self.cut == COLUMNS and len(self.parts) > 1:
            return torch.cat([part[start:stop] for part in self.parts], 1)
        if not self.head_dim:
            return self._rows(start, stop)
        # Whole heads, in the other order, and of these the rows that were asked for.
        first = start - start % self.head_dim
        last = stop + -stop % self.head_dim
        pairs = self._rows(first, last).unflatten(0, (-1, self.head_dim // 2, 2))
        return pairs.transpose(1, 2).flatten(0, 2)[start - first : stop - first]

    def _rows(self, start: int, stop: int) -> torch.Tensor:
        found, place = [], 0
        for part in self.parts:
            rows = part[max(0, start - place) : max(0, stop - place)]
            if len(rows):
                found.append(rows)
            place += len(part)
        return found[0] if len(found) == 1 else torch.cat(found)

    def fill(self, whole: torch.Tensor) -> None:
        """Copy a whole tensor into its parts, which hold whole heads; dtypes may differ."""
        place = 0
        for part in self.parts:
            if self.cut is None:
                part.copy_(whole)
                continue
            source = whole.narrow(self.cut, place, part.shape[self.cut])
            place += part.shape[self.cut]
            if self.head_dim:
                halves = source.unflatten(0, (-1, 2, self.head_dim // 2))
                part.unflatten(0, (-1, self.head_dim // 2, 2)).copy_(halves.transpose(1, 2))
            else:
                part.copy_(source)


@dataclass(frozen=True)
class MetaModel:
    """A model in Meta's layout, mapped.

    Attributes:
        params: params.json as it is.
        shape: the sizes, from params.json and the tensors.
        files: the shards, in order.
        tokenizer: tokenizer.model beside the shards or above them, None where there is none.
        shards: the tensors of each shard, by Meta's names.
    """

    folder: Path
    params: dict[str, Any]
    shape: LlamaShape
    files: list[Path]
    tokenizer: Path | None
    shards: list[dict[str, torch.Tensor]]

    def tensors(self, rotated: bool = True) -> dict[str, ShardedTensor]:
        """Every tensor by Hugging Face's name.

        Args:
            rotated: False leaves the rows of q and k in Meta's order.
        """
        places = placements(self.shape.layers)
        return {name: _join(name, place, self.shards, self.shape, rotated) for name, place in places.items()}


def _join(
    name: str, place: Placement, shards: list[dict[str, torch.Tensor]], shape: LlamaShape, rotated: bool = True
) -> ShardedTensor:
    """A tensor of a model, with its part of every shard."""
    parts, cut = [shard[place.name] for shard in shards], place.cut
    if name == EMBEDDING:  # LLaMA 1 and 2 cut it by columns, LLaMA 3 by rows
        cut = ROWS if parts[0].shape[1] == shape.hidden else COLUMNS
    head_dim = shape.head_dim if place.rotated and rotated else None
    return ShardedTensor(parts[:1] if cut is None else parts, cut, head_dim)


def read_meta(folder: Path, size: str = "", flag: str = "--input_dir") -> MetaModel:
    """Open a model in Meta's layout, and check that its shards are whole and belong together.

    Args:
        folder: what holds the shards, or a folder named `size` with them beside tokenizer.model.

    Raises:
        UserError: what is missing or does not fit.
    """
    folder = _shard_folder(folder, size, flag)
    files = _shard_files(folder)
    shards = [read_tensor_file(file) for file in files]
    params = read_params(folder, shards)
    shape = LlamaShape.from_params(params, shards)
    _check_shards(files, shards, shape)
    tokenizer = next(
        (path / "tokenizer.model" for path in (folder, folder.parent) if (path / "tokenizer.model").is_file()), None
    )
    return MetaModel(folder, params, shape, files, tokenizer, shards)


def is_meta(folder: Path) -> bool:
    """Whether the folder holds shards of Meta's layout."""
    return any(_SHARD.fullmatch(file.name) for file in regular_files(folder, "consolidated.*"))


def _shard_folder(folder: Path, size: str, flag: str) -> Path:
    if not folder.is_dir():
        raise UserError(f"{flag} {folder} is no folder; expected one with consolidated.00.pth and params.json.")
    if is_meta(folder):
        return folder
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and is_meta(path))
    named = [path for path in inside if path.name == size] if size else inside
    if len(named) == 1:
        return named[0]
    refuse_old_llama_cpp(folder)
    if inside:
        sizes = ", ".join(path.name for path in inside)
        raise UserError(
            f"{flag} {folder} holds the sizes {sizes}: pass the folder of one of them, such as {inside[0]}."
        )
    where = f"it or its folder {size}" if size else "it"
    raise UserError(
        f"{flag} {folder}: expected consolidated.00.pth and params.json in {where}, found {listing(folder)}."
    )


def _shard_files(folder: Path) -> list[Path]:
    """The shards by number, so that 10 comes after 9 however they are written."""
    numbered = {}
    for file in regular_files(folder, "consolidated.*.pth"):
        if match := _SHARD.fullmatch(file.name):
            if int(match[1]) in numbered:
                raise UserError(f"{folder} holds both {numbered[int(match[1])].name} and {file.name}: remove one.")
            numbered[int(match[1])] = file
    lacking = [i for i in range(max(numbered) + 1) if i not in numbered]
    if lacking:
        raise UserError(
            f"{folder} has consolidated.{max(numbered):02d}.pth but no consolidated.{lacking[0]:02d}.pth: shards are "
            "missing, copy them too."
        )
    return [numbered[i] for i in sorted(numbered)]


def _check_shards(files: list[Path], shards: list[dict[str, torch.Tensor]], shape: LlamaShape) -> None:
    """Every tensor in every shard, equal copies equal, parts that together have the model's shape."""
    known = {place.name for place in placements(shape.layers).values()}
    for file, shard in zip(files, shards, strict=True):
        if lacking := sorted(known - shard.keys()):
            raise UserError(f"{file} lacks {len(lacking)} tensors, such as {lacking[0]}. Copy the file again.")
        if odd := sorted(name for name in shard.keys() - known if not name.endswith("rope.freqs")):
            raise UserError(f"{file} holds {odd[0]}, which is no tensor of a LLaMA of {shape.layers} blocks.")
    whole = expected_shapes(shape)
    for name, place in placements(shape.layers).items():
        parts, joined = [shard[place.name] for shard in shards], _join(name, place, shards, shape)
        found = joined.shape
        if found != whole[name] or sum(part.numel() for part in joined.parts) != found.numel():
            raise UserError(
                f"the shards in {files[0].parent} hold a {place.name} of {tuple(found)}, but {tuple(whole[name])} "
                "follows from params.json: shards are missing, or belong to another model."
            )
        if len({part.dtype for part in parts}) > 1 or (
            joined.cut is None and not all(torch.equal(parts[0], part) for part in parts[1:])
        ):
            raise UserError(f"the shards in {files[0].parent} differ in {place.name}: they are not of one model.")


def expected_shapes(shape: LlamaShape) -> dict[str, torch.Size]:
    """The shape of every tensor, by Hugging Face's name."""
    kv = shape.kv_heads * shape.head_dim
    inside = {
        "q_proj": (shape.hidden, shape.hidden), "k_proj": (kv, shape.hidden), "v_proj": (kv, shape.hidden),
        "o_proj": (shape.hidden, shape.hidden), "gate_proj": (shape.ffn, shape.hidden),
        "up_proj": (shape.ffn, shape.hidden), "down_proj": (shape.hidden, shape.ffn),
        "embed_tokens": (shape.vocab, shape.hidden), "lm_head": (shape.vocab, shape.hidden),
    }  # fmt: skip
    return {name: torch.Size(inside.get(name.split(".")[-2], (shape.hidden,))) for name in placements(shape.layers)}


def write_meta(
    folder: Path, shape: LlamaShape, tensors: Mapping[str, LazyTensor], count: int, rotated: bool = True
) -> None:
    """Write `count` shards, with a progress bar.

    Args:
        tensors: by Hugging Face's names; a dtype for each.
        rotated: False where the rows of q and k come in Meta's order.
    """
    found = placements(shape.layers)
    check_disk_space(folder, sum(math.prod(tensors[name].shape) * tensors[name].dtype.itemsize for name in found))
    shards = []
    for i in range(count):
        plan = {
            place.name: meta_tensor(_part(tensors[name].shape, place.cut, i, count), tensors[name].dtype)
            for name, place in found.items()
        }
        shards.append(create_tensor_file(folder / f"consolidated.{i:02d}.pth", plan))
    for name, tensor in progress({name: tensors[name] for name in found}):
        place = found[name]
        head_dim = shape.head_dim if place.rotated and rotated else None
        ShardedTensor([shard[place.name] for shard in shards], place.cut, head_dim).fill(_whole(tensor))
    del shards
    for file in regular_files(folder, "consolidated.*.pth"):
        write_crcs(file)


def _whole(tensor: LazyTensor) -> torch.Tensor:
    """A tensor in one piece: as it is mapped, or in memory where it has to be computed."""
    if isinstance(tensor, torch.Tensor):
        return tensor
    whole = torch.empty(tensor.shape, dtype=tensor.dtype)
    for start, stop in row_blocks(tensor.shape):
        whole[start:stop] = tensor[start:stop]
    return whole


def _part(shape: torch.Size, cut: int | None, i: int, count: int) -> list[int]:
    """The shape of part `i`: equal parts, and what does not divide goes to the last."""
    size = list(shape)
    if cut is not None:
        size[cut] = shape[cut] // count + (shape[cut] % count if i == count - 1 else 0)
    return size


def copy_template(source: Path, folder: Path) -> None:
    """Take a model's template along to another layout, and its run_args.json, which names it."""
    copy_known(source, folder, [CHAT_TEMPLATE, RUN_ARGS])
