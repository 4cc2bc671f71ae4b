"""Other keys at the head of a GGUF file, everything else as it was: the keys are spliced as bytes, weights copied."""

import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from tqdm import tqdm

from vicuna.errors import UserError
from vicuna.files.outputs import check_disk_space
from vicuna.gguf_file.header import Head, read_head

_PART = 1 << 24  # bytes copied at once
_TYPES = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}  # by the format's own numbers


def with_keys(source: Path, file: Path, keys: Mapping[str, str | bool | int | None]) -> None:
    """Write `source` as `file` with these keys; one that is None is left out.

    Raises:
        UserError: weights that are not finite; or no room on the disk.
    """
    check_disk_space(file.parent, source.stat().st_size)
    with source.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
        head = read_head(buffer)
        spans = {name: buffer[begin:end] for name, (begin, end) in head.spans.items()}
        for name, value in keys.items():
            spans.pop(name, None)
            if value is not None:
                spans[name] = _packed(name, value)
        begin = struct.pack("<4sIQQ", b"GGUF", head.version, len(head.tensors), len(spans))
        listed = buffer[head.list_begin : head.list_end]
        with file.open("wb") as out:
            out.write(begin + b"".join(spans.values()) + listed)
            out.write(bytes(-out.tell() % head.alignment))
            _copy(buffer, head, out, source)


def _packed(name: str, value: str | bool | int) -> bytes:
    """A key as the format has it."""
    if isinstance(value, str):
        return _text(name) + struct.pack("<I", 8) + _text(value)
    return _text(name) + (struct.pack("<I?", 7, value) if isinstance(value, bool) else struct.pack("<II", 4, value))


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _copy(buffer: mmap.mmap, head: Head, out: BinaryIO, source: Path) -> None:
    """The weights, each looked at on the way."""
    order = sorted(head.tensors, key=lambda name: head.tensors[name].offset)
    ends = [*(head.tensors[name].offset for name in order[1:]), len(buffer) - head.data_begin]
    with tqdm(total=len(buffer) - head.data_begin, desc="Writing", unit="B", unit_scale=True, disable=None) as bar:
        for name, end in zip(order, ends, strict=True):
            tensor = head.tensors[name]
            dtype = _TYPES.get(tensor.kind)
            for at in range(tensor.offset, end, _PART):
                part = buffer[head.data_begin + at : head.data_begin + min(at + _PART, end)]
                whole = len(part) - len(part) % (dtype.itemsize if dtype else 1)
                if dtype and whole and not torch.isfinite(torch.frombuffer(bytearray(part[:whole]), dtype=dtype)).all():
                    raise UserError(
                        f"{name} in {source.name} has values that are not finite, or too large for "
                        f"{str(dtype).removeprefix('torch.')}; take --type bf16 or f32 if the weights themselves are "
                        "sound."
                    )
                out.write(part)
                bar.update(len(part))
