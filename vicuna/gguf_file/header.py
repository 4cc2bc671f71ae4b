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
_SIZE = struct.Struct("<Q")
_ALIGNMENT = "general.alignment"
# The format has no bounds but those of its numbers; these are several times what any model of today has.
MOST_BYTES = 512 << 20  # of a head: vocabularies of 262,144 pieces take 12 MB
MOST_KEYS, MOST_TENSORS = 1 << 16, 1 << 20
MOST_VALUES = 1 << 23  # of an array
MOST_DIMENSIONS = 4  # llama.cpp has no more
MOST_NESTED = 4  # arrays in arrays


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

    def _taken(self, size: int) -> int:
        """Where the next bytes begin; what the file does not have is never asked for, whatever its head declares."""
        begin, self.at = self.at, self.at + size
        if self.at > len(self.buffer):
            raise ValueError("it ends within its head")
        if self.at > MOST_BYTES:
            raise ValueError(f"its head has more than {MOST_BYTES:,} bytes")
        return begin

    def numbers(self, code: str, count: int = 1) -> tuple:
        begin = self._taken(struct.calcsize(f"<{code}") * count)
        return struct.unpack_from(f"<{count}{code}", self.buffer, begin)

    def string(self) -> str:
        (size,) = self.numbers("Q")
        begin = self._taken(size)
        return self.buffer[begin : begin + size].decode("utf-8")

    def strings(self, count: int) -> list[str]:
        """As `string` so many times; a vocabulary has hundreds of thousands."""
        buffer, size_at, found = self.buffer, _SIZE.unpack_from, []
        for _ in range(count):
            (size,) = size_at(buffer, self._taken(8))
            begin = self._taken(size)
            found.append(buffer[begin : begin + size].decode("utf-8"))
        return found

    def count(self, most: int, what: str, least: int = 0, code: str = "Q") -> int:
        (found,) = self.numbers(code)
        if not least <= found <= most:
            raise ValueError(f"it says that it has {found:,} {what}, expected {least} to {most:,}")
        return found

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            ((inner,), count) = self.numbers("I"), self.count(MOST_VALUES, "values in an array")
            if depth == MOST_NESTED:
                raise ValueError(f"it has more than {MOST_NESTED} arrays in each other")
            if inner in _NUMBERS:
                return list(self.numbers(_NUMBERS[inner], count))
            if inner == _STRING:
                return self.strings(count)
            return [self.value(inner, depth + 1) for _ in range(count)]
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
    tensor_count, key_count = cursor.count(MOST_TENSORS, "tensors"), cursor.count(MOST_KEYS, "keys")
    keys, spans = {}, {}
    for _ in range(key_count):
        begin = cursor.at
        name = cursor.string()
        if name in keys:
            raise ValueError(f"it has {name[:80]} twice")
        keys[name] = cursor.value(cursor.numbers("I")[0])
        spans[name] = (begin, cursor.at)
    tensors, list_begin = {}, cursor.at
    for _ in range(tensor_count):
        name = cursor.string()
        shape = cursor.numbers("Q", cursor.count(MOST_DIMENSIONS, "dimensions of a tensor", 1, "I"))[::-1]
        if name in tensors or not all(shape):
            raise ValueError(f"it has {name[:80]} {'twice' if name in tensors else f'of {shape}'}")
        kind, offset = cursor.numbers("I") + cursor.numbers("Q")
        tensors[name] = TensorInfo(kind, shape, offset)
    alignment = keys.get(_ALIGNMENT, 32)
    if type(alignment) is not int or not 0 < alignment <= 1 << 16:
        raise ValueError(f"its {_ALIGNMENT} is {str(alignment)[:60]}, expected a number up to {1 << 16}")
    return Head(version, alignment, keys, spans, tensors, list_begin, cursor.at)
