"""Archives of PyTorch, .bin and .pth, before `torch.load` sees them: nothing in one is larger than the file itself.

What is packed in one is read without being executed: numbers that sizes could be, and the names of what it would call.
"""

import io
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

from vicuna.errors import UserError, first_line
from vicuna.foreign.paths import open_regular

PICKLE_LIMIT = 64 << 20  # bytes; 10,000 tensors take 2 MB
_LEGACY_PARTS = 4  # pickles of a file of before 2020: a magic number, a version, the system, the tensors
# What torch would call with a size in place of values; no weights have them.
_ALLOCATE = ("builtins bytearray", "__builtin__ bytearray", "torch Tensor")
_UNREADABLE = (ValueError, zipfile.BadZipFile, EOFError, NotImplementedError, OverflowError)
_AGAIN = "Download or copy it again."


def check_archive(file: Path) -> None:
    """Check that the parts of an archive lie in it, unpacked, and that what it says of its tensors is no larger.

    Raises:
        UserError: which part does not.
    """
    with open_regular(file) as opened:
        size = opened.seek(0, io.SEEK_END)
        opened.seek(0)
        archived = opened.read(4) == b"PK\x03\x04"
        opened.seek(0)
        if not archived:
            _check_legacy(file, opened.read(PICKLE_LIMIT), size)
            return
        try:
            _check_members(file, opened, size)
        except _UNREADABLE as error:
            raise UserError(f"{file} is no file of PyTorch ({first_line(error)[:100]}). {_AGAIN}") from error


def _check_members(file: Path, opened: BinaryIO, size: int) -> None:
    """The directory of an archive, and then what is packed in it."""
    with zipfile.ZipFile(opened) as archive:
        infos = archive.infolist()
        for one in infos:
            if one.compress_type != zipfile.ZIP_STORED or one.header_offset + one.file_size > size:
                raise UserError(
                    f"{file} says that its part {one.filename[:60]!r} has {one.file_size:,} bytes, in {size:,} bytes "
                    f"of the file; expected parts that lie in it as they are. {_AGAIN}"
                )
        if (total := sum(one.file_size for one in infos)) > size:
            raise UserError(f"{file} has {size:,} bytes, and its parts {total:,}: some lie over others. {_AGAIN}")
        for one in infos:
            if one.filename.rsplit("/", 1)[-1] == "data.pkl":
                if one.file_size > PICKLE_LIMIT:
                    raise UserError(
                        f"{file}: the list of its tensors has {one.file_size:,} bytes; expected fewer. {_AGAIN}"
                    )
                _check_pickle(file, io.BytesIO(_stored(opened, one)), size)


def _stored(opened: BinaryIO, one: zipfile.ZipInfo) -> bytes:
    """A part as it lies in the archive; its checksum, which torch can leave out, is not asked."""
    opened.seek(one.header_offset + 26)
    lengths = opened.read(4)
    opened.seek(one.header_offset + 30 + sum(struct.unpack("<HH", lengths)) if len(lengths) == 4 else one.header_offset)
    return opened.read(one.file_size)


def _check_legacy(file: Path, begin: bytes, size: int) -> None:
    """What stands before the values of a file of old; torch.load says of what is no pickle that it is none."""
    opened = io.BytesIO(begin)
    try:
        for part in range(_LEGACY_PARTS):
            _check_pickle(file, opened, size if part == _LEGACY_PARTS - 1 else None)
    except _UNREADABLE as error:
        if opened.tell() == len(begin) < size:
            raise UserError(f"{file}: the list of its tensors has no end in {len(begin):,} bytes. {_AGAIN}") from error


def _check_pickle(file: Path, pickled: io.BytesIO, most: int | None) -> None:
    """Read a pickle to its end.

    Args:
        most: no number in it may be larger; None where it holds no sizes.
    """
    for opcode, value, _ in pickletools.genops(pickled):
        if opcode.name in ("GLOBAL", "INST") and value in _ALLOCATE:
            raise UserError(f"{file} would have {value.replace(' ', '.')} make room; expected tensors alone. {_AGAIN}")
        if most is not None and type(value) is int and opcode.name not in _PLACES and value > max(most, 1 << 16):
            raise UserError(
                f"{file} has {most:,} bytes, and a size of {value:,} in the list of its tensors; expected one that the "
                f"file holds. {_AGAIN}"
            )


_PLACES = ("PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET", "PROTO", "FRAME")
