"""The head of a GGUF file: its keys and its list of tensors, in the format's own words.

`gguf.GGUFReader` gives the same, at four seconds for a vocabulary of 55,000 pieces, since it makes an array of every
number and string.
"""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAGIC = b"GGUF"
VERSIONS = (2, 3)
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = "general.alignment"


@dataclass(frozen=True)
class TensorInfo:
    """An entry of the list: its type's number, (rows, columns) or (n,), and where its bytes begin behind the head."""

    kind: int
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Header:
    """All keys with their values, arrays among them; and the tensors by name.

    Attributes:
        data: bytes of the file that stand behind the head.
    """

    keys: dict[str, Any]
    tensors: dict[str, TensorInfo]
    data: int


@dataclass(frozen=True)
class Head:
    """A head with the places of its parts, in bytes from the beginning of the file.

    Attributes:
        spans: key -> where it begins and ends, its name included.
        list_begin, list_end: of the list of tensors; data_begin: of what stands behind the head.
    """

    version: int
    alignment: int
    keys: dict[str, Any]
    spans: dict[str, tuple[int, int]]
    tensors: dict[str, TensorInfo]
    list_begin: int
    list_end: int

    @property
    def data_begin(self) -> int:
        return -(-self.list_end // self.alignment) * self.alignment


class _Cursor:
    """Reads little-endian values one after the other."""

    def __init__(self, buffer: mmap.mmap):
        self.buffer, self.at = buffer, 0

    def numbers(self, code: str, count: int = 1) -> tuple:
        size = struct.calcsize(f"<{code}") * count
        if self.at + size > len(self.buffer):
            raise ValueError("it ends within its head")
        found = struct.unpack_from(f"<{count}{code}", self.buffer, self.at)
        self.at += size
        return found

    def string(self) -> str:
        (size,) = self.numbers("Q")
        if self.at + size > len(self.buffer):
            raise ValueError("it ends within its head")
        found = self.buffer[self.at : self.at + size]
        self.at += size
        return found.decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            ((inner,), (count,)) = self.numbers("I"), self.numbers("Q")
            if inner in _NUMBERS:
                return list(self.numbers(_NUMBERS[inner], count))
            return [self.value(inner) for _ in range(count)]
        if kind not in _NUMBERS:
            raise ValueError(f"it has a value of type {kind}, which GGUF does not know")
        return self.numbers(_NUMBERS[kind])[0]


def read_header(path: Path) -> Header:
    """Read a file's head.

    Raises:
        ValueError: not a GGUF file, one of another version, or one that ends too early.
    """
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
        head = read_head(buffer)
        return Header(head.keys, head.tensors, len(buffer) - head.data_begin)


def read_head(buffer: mmap.mmap) -> Head:
    """The head of a file that is mapped.

    Raises:
        ValueError: see `read_header`.
    """
    cursor = _Cursor(buffer)
    if buffer[:4] != MAGIC:
        raise ValueError("it does not begin with GGUF")
    cursor.at = 4
    (version,) = cursor.numbers("I")
    if version not in VERSIONS:
        raise ValueError(f"its version is {version}, expected one of {VERSIONS}")
    tensor_count, key_count = cursor.numbers("Q", 2)
    keys, spans = {}, {}
    for _ in range(key_count):
        begin = cursor.at
        name = cursor.string()
        keys[name] = cursor.value(cursor.numbers("I")[0])
        spans[name] = (begin, cursor.at)
    tensors, list_begin = {}, cursor.at
    for _ in range(tensor_count):
        name = cursor.string()
        shape = cursor.numbers("Q", cursor.numbers("I")[0])[::-1]
        kind, offset = cursor.numbers("I") + cursor.numbers("Q")
        tensors[name] = TensorInfo(kind, shape, offset)
    return Head(version, keys.get(_ALIGNMENT, 32), keys, spans, tensors, list_begin, cursor.at)
