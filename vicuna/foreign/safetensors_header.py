"""The head of a .safetensors file: names, dtypes and shapes of its tensors, compared with the bytes that it has."""

import math
import struct
from pathlib import Path
from typing import Annotated

from pydantic import Field

from vicuna.errors import UserError
from vicuna.foreign.odd_files import describe_odd_file
from vicuna.foreign.paths import open_regular
from vicuna.foreign.typed import Count, Foreign, Name, opens, parse, typed

HEADER_LIMIT = 64 << 20  # bytes; the format allows 100,000,000, and 3,000 tensors of a shard take 0.4 MB
_LONGEST = 100_000_000
_AGAIN = "Download or copy it again."
# Bits of an element, by the format's names.
_BITS = {
    **{name: 64 for name in ("F64", "I64", "U64", "C64")},
    **{name: 32 for name in ("F32", "I32", "U32")},
    **{name: 16 for name in ("F16", "BF16", "I16", "U16")},
    **{name: 8 for name in ("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0")},
    **{name: 6 for name in ("F6_E2M3", "F6_E3M2")},
    "F4": 4,
}


class TensorEntry(Foreign):
    """A tensor in the head of a file; its values lie from the first offset to the second."""

    dtype: Name
    shape: Annotated[list[Count], Field(max_length=16)]
    data_offsets: Annotated[list[Count], Field(min_length=2, max_length=2)]


@opens({"tensors": {"a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}})
class SafetensorsHeader(Foreign):
    """The head of a file but for its free texts."""

    tensors: dict[Name, TensorEntry]


def read_safetensors_header(file: Path) -> dict[str, TensorEntry]:
    """The tensors of a file by their names; no value is read.

    Raises:
        UserError: what it is instead, how much of it is missing, or which tensor is not what it says.
    """
    with open_regular(file) as opened:
        size = opened.seek(0, 2)
        opened.seek(0)
        begin = opened.read(8)
        length = struct.unpack("<Q", begin)[0] if len(begin) == 8 else size
        text = opened.read(length) if 0 < length <= min(size - 8, HEADER_LIMIT) else b""
    if not text.startswith(b"{"):
        raise UserError(f"{file} {_torn(file, length, size)}")
    try:
        header = parse(text, "its header")
    except UserError as error:
        raise UserError(f"{file} is no .safetensors file: {error}") from error
    header.pop("__metadata__", None)
    tensors = typed({"tensors": header}, SafetensorsHeader, file).tensors
    expected = 8 + length + max((entry.data_offsets[1] for entry in tensors.values()), default=0)
    if size < expected:
        raise UserError(
            f"{file} has {size:,} of its {expected:,} bytes: the download or the copy was broken off. {_AGAIN}"
        )
    for name, entry in tensors.items():
        _check_entry(file, name, entry)
    return tensors


def _check_entry(file: Path, name: str, entry: TensorEntry) -> None:
    bits, (begin, end) = _BITS.get(entry.dtype), entry.data_offsets
    if bits is None:
        raise UserError(
            f"{file}: {name[:100]} has the dtype {entry.dtype[:20]!r}; expected one of {', '.join(_BITS)}. {_AGAIN}"
        )
    if math.prod(entry.shape) * bits != (end - begin) * 8:
        raise UserError(
            f"{file}: {name[:100]} says {entry.dtype} of {tuple(entry.shape)}, and has {end - begin:,} bytes. {_AGAIN}"
        )


def _torn(file: Path, length: int, size: int) -> str:
    if odd := describe_odd_file(file):
        return odd
    if size - 8 < length < _LONGEST:
        return f"has {size:,} bytes, not even those of its header: the download or the copy was broken off. {_AGAIN}"
    return f"is no .safetensors file. {_AGAIN}"
