"""Files of weights as memory: .safetensors, .bin and .pth are mapped, read and written one tensor at a time.

A tensor that is read here is a view of its file, and one that is written is a view of a file already of its full
size: copying from the one to the other takes no memory of its own, however large the model and whatever its shards.
No pickle is executed: `torch.load` is always told `weights_only`.
"""

import json
import os
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from mmap import MAP_SHARED
from pathlib import Path
from typing import Any, Protocol

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import safe_open
from torch.serialization import set_default_mmap_options, skip_data
from tqdm import tqdm

from vicuna.errors import UserError, listing
from vicuna.files.outputs import check_disk_space
from vicuna.foreign.archives import check_archive
from vicuna.foreign.libraries import refusals
from vicuna.foreign.odd_files import describe_odd_file, unfinished
from vicuna.foreign.paths import inside, regular_files
from vicuna.foreign.safetensors_header import read_safetensors_header
from vicuna.foreign.typed import Foreign, Name, opens, read_typed
from vicuna.gguf_file.link import LINK
from vicuna.gguf_file.weights import read_gguf_tensors

SHARD_BYTES = 2 * 2**30
INDEX_LIMIT = 64 << 20  # bytes; of 90,000 tensors 9 MB
INDEX_FILE = "model.safetensors.index.json"
# Where a model in Hugging Face format keeps its weights, in the order in which transformers looks.
WEIGHT_SOURCES = ("model.safetensors", INDEX_FILE, "pytorch_model.bin", "pytorch_model.bin.index.json")
# Elements of a block that is worked on as a whole: 256 MiB in float32.
BLOCK_ELEMENTS = 1 << 26
OLD_LLAMA_CPP = (b"lmgg", b"fmgg", b"tjgg")  # "ggml", "ggmf" and "ggjt", as they lie on the disk
_CODES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@opens({"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}})
class WeightIndex(Foreign):
    """Which file holds which tensor."""

    weight_map: dict[Name, Name]


@opens({"transformers_weights": "model.safetensors"})
class NamedWeights(Foreign):
    """Where config.json says that the weights are."""

    transformers_weights: Name | None = None


def weight_paths(folder: Path) -> list[Path]:
    """The files that hold the weights of a model in Hugging Face format.

    Raises:
        UserError: there are none, or some that the index names are missing.
    """
    if (folder / LINK).is_symlink():
        return [folder / LINK]
    config = folder / "config.json"
    named = read_typed(config, NamedWeights, missing=NamedWeights()).transformers_weights
    sources = [inside(folder, name, config) for name in (*([named] if named else []), *WEIGHT_SOURCES)]
    source = next((file for file in sources if file.is_file()), None)
    if source is None:
        refuse_old_llama_cpp(folder)
        refuse_unfinished(folder)
        raise UserError(
            f"{folder} has no weights: expected one of {', '.join(WEIGHT_SOURCES)}, found {listing(folder)}."
        )
    if source.suffix != ".json":
        return [source]
    names = sorted(set(read_typed(source, WeightIndex, limit=INDEX_LIMIT).weight_map.values()))
    paths = [inside(folder, name, source) for name in names]
    missing = [file.name for file in paths if not file.is_file()]
    if missing:
        refuse_unfinished(folder)
        raise UserError(
            f"{folder} lacks {len(missing)} of the {len(names)} files that {source.name} names, such as {missing[0]}: "
            "download or copy them again."
        )
    return paths


def refuse_unfinished(folder: Path) -> None:
    """Refuse a folder with files that lead nowhere, or that a downloader has not finished.

    Raises:
        UserError: which.
    """
    for file in sorted(folder.iterdir()):
        if file.is_symlink() and not file.exists():
            raise UserError(f"{file} {describe_odd_file(file)}")
    if names := unfinished(folder):
        raise UserError(
            f"{folder} holds {', '.join(names[:3])}, which a download has not finished: let it go on, or begin again."
        )


def refuse_old_llama_cpp(folder: Path) -> None:
    """Refuse a folder with a file of llama.cpp from before GGUF.

    Raises:
        UserError: with the command that writes a new one.
    """
    for file in regular_files(folder, "*.bin"):
        with file.open("rb") as opened:
            if opened.read(4) in OLD_LLAMA_CPP:
                raise UserError(
                    f"{file} is in a format that llama.cpp dropped in 2023, and no program of today reads it. Write a "
                    "new one from the model it was made of: python tools/export_gguf.py --model_path MODEL --out_path "
                    f"{file.stem}.gguf"
                )


def check_weight_file(file: Path) -> None:
    """Check by its first bytes and its size that a file can hold weights; none of them is read.

    Raises:
        UserError: what it is instead, or how much of it is missing.
    """
    if file.name == LINK:
        return  # the file was checked when its folder was made
    if file.suffix == ".safetensors":
        read_safetensors_header(file)
    elif odd := describe_odd_file(file):
        raise UserError(f"{file} {odd}")
    else:
        with file.open("rb") as opened:
            archive = opened.read(4) == b"PK\x03\x04"
        if archive and not zipfile.is_zipfile(file):
            raise UserError(
                f"{file} has {file.stat().st_size:,} bytes and no end: the download or the copy was broken off. "
                "Download or copy it again."
            )
        check_archive(file)


def read_tensor_file(file: Path) -> dict[str, Any]:
    """The tensors of one file by their names, mapped; only a .bin of before 2020 is read into memory.

    Those of a GGUF file are dequantised when they are asked for: each is a `LazyTensor`.

    Raises:
        UserError: a file that is broken, or holds anything but named tensors.
    """
    check_weight_file(file)
    if file.name == LINK:
        return read_gguf_tensors(file.resolve())
    with refusals(
        lambda said: (
            f"{file} can not be read as plain tensors ({said[:160]}). It is broken, or a pickle of program objects, "
            "which is never opened."
        )
    ):
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    if not isinstance(tensors, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in tensors.items()
    ):
        raise UserError(f"{file} is no table of named tensors; expected the weights of a model or of an adapter.")
    for name, tensor in tensors.items():
        # A view may repeat what little the file has; whatever copies it would make room for all that it shows.
        if tensor.layout is not torch.strided or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise UserError(
                f"{file}: {name[:100]} says {tuple(tensor.shape)}, of which the file does not hold all values."
            )
    return dict(tensors)


def read_tensor_files(files: Iterable[Path]) -> dict[str, Any]:
    """The tensors of several files of one model.

    Raises:
        UserError: see `read_tensor_file`; or a name that is in two files.
    """
    found: dict[str, Any] = {}
    for file in files:
        tensors = read_tensor_file(file)
        if twice := sorted(found.keys() & tensors.keys()):
            raise UserError(
                f"{file} holds {twice[0]}, which another file of the model holds too: copy the model again."
            )
        found |= tensors
    return found


class LazyTensor(Protocol):
    """A tensor whose rows can be had: a mapped one, or one that is computed when it is asked for."""

    @property
    def shape(self) -> torch.Size: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def __getitem__(self, rows: slice) -> torch.Tensor:
        """Some rows; `rows` has a beginning and an end."""


def meta_tensor(shape: Iterable[int], dtype: torch.dtype) -> torch.Tensor:
    """A tensor that is going to be written: its shape and dtype, without values."""
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def row_blocks(shape: torch.Size | tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Ranges of rows that are worked on together."""
    step = max(1, BLOCK_ELEMENTS // max(1, torch.Size(shape[1:]).numel()))
    for start in range(0, shape[0], step):
        yield start, min(shape[0], start + step)


def bit_equal(one: LazyTensor, other: LazyTensor) -> bool:
    """Whether two tensors are equal bit by bit."""
    return one.shape == other.shape and all(
        torch.equal(one[start:stop], other[start:stop]) for start, stop in row_blocks(one.shape)
    )


def is_finite(rows: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite; whole numbers never are."""
    return not rows.is_floating_point() or not rows.numel() or all(end.isfinite() for end in torch.aminmax(rows))


def main_dtype(tensors: Mapping[str, LazyTensor]) -> torch.dtype:
    """The dtype that most of the weights have, by their size."""
    sizes: dict[torch.dtype, int] = {}
    for tensor in tensors.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.shape.numel()
    return max(sizes, key=lambda dtype: sizes[dtype])


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype as configs name it, such as bfloat16."""
    return str(dtype).removeprefix("torch.")


def write_model(folder: Path, tensors: Mapping[str, LazyTensor]) -> None:
    """Write the weights of a model in Hugging Face format, with a progress bar."""
    places = create_model(folder, {name: meta_tensor(tensor.shape, tensor.dtype) for name, tensor in tensors.items()})
    for name, tensor in progress(tensors):
        for start, stop in row_blocks(tensor.shape):
            places[name][start:stop].copy_(tensor[start:stop])


def progress(tensors: Mapping[str, LazyTensor]) -> Iterable[tuple[str, LazyTensor]]:
    """The tensors and their names, with a progress bar where there is a terminal."""
    return tqdm(tensors.items(), desc="Writing", unit="tensor", disable=None)


def create_model(folder: Path, plan: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Make the .safetensors files of a model, of 2 GiB at most, and their index; the tensors to fill by name.

    Args:
        plan: see `meta_tensor`.
    """
    check_disk_space(folder, sum(tensor.nbytes for tensor in plan.values()))
    split = split_torch_state_dict_into_shards(dict(plan), max_shard_size=SHARD_BYTES)
    tensors = {}
    for name, held in split.filename_to_tensors.items():
        tensors |= create_tensor_file(folder / name, {one: plan[one] for one in held})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return tensors


def create_tensor_file(file: Path, plan: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Make a .safetensors or .pth file of its full size, with room for `plan`; the tensors to fill by name.

    What is copied into them is in the file. Call `write_crcs` once all are filled and dropped.
    """
    return (_create_safetensors if file.suffix == ".safetensors" else _create_pth)(file, plan)


def _create_safetensors(file: Path, plan: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Eight bytes of length, a header of JSON, then the values: the whole of the format."""
    # The widest first, so that each begins at a multiple of its own width.
    order = sorted(plan, key=lambda name: (-plan[name].dtype.itemsize, name))
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name in order:
        tensor, end = plan[name], place + plan[name].nbytes
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    begin = 8 + len(text)
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", len(text)) + text)
        _reserve(opened.fileno(), begin + place)
    whole = torch.from_file(str(file), shared=True, size=begin + place, dtype=torch.uint8)
    return {
        name: whole[begin + header[name]["data_offsets"][0] : begin + header[name]["data_offsets"][1]]
        .view(plan[name].dtype)
        .view(plan[name].shape)
        for name in order
    }


def _create_pth(file: Path, plan: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As torch.save writes it, apart from the values; memory that is never touched is never taken."""
    with skip_data():
        torch.save({name: torch.empty_like(tensor, device="cpu") for name, tensor in plan.items()}, file)
    with file.open("r+b") as opened:
        _reserve(opened.fileno(), file.stat().st_size)
    with set_default_mmap_options(MAP_SHARED):
        return torch.load(file, weights_only=True, mmap=True)


def _reserve(descriptor: int, size: int) -> None:
    """Take the room on the disk now: a mapping that meets a full disk kills the process without a word."""
    os.ftruncate(descriptor, size)
    if size and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
