"""Checksums of a .pth file that was filled in place: torch.load does without, other programs do not."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path


def write_crcs(file: Path) -> None:
    """Enter the checksums into a .pth, which is a zip archive; a .safetensors file has none."""
    if file.suffix == ".safetensors":
        return
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
    with file.open("r+b") as opened:
        ends, sums = [], {}
        for info in infos:
            opened.seek(info.header_offset + 26)
            begin = info.header_offset + 30 + sum(struct.unpack("<HH", opened.read(4)))
            sums[info.filename] = _crc(opened, begin, info.file_size)
            ends.append(begin + info.file_size)
            if info.file_size:  # then a signature, the checksum and the sizes stand behind the values
                opened.seek(ends[-1] + 4)
                opened.write(struct.pack("<I", sums[info.filename]))
        opened.seek(max(ends))
        tail = opened.read()
        for place, name in _directory(tail):
            opened.seek(max(ends) + place + 16)
            opened.write(struct.pack("<I", sums[name]))


def _crc(opened, begin: int, size: int) -> int:
    opened.seek(begin)
    value = 0
    while size:
        read = opened.read(min(size, 1 << 22))
        value, size = zlib.crc32(read, value), size - len(read)
    return value


def _directory(tail: bytes) -> Iterator[tuple[int, str]]:
    """Where the entries of a zip archive's directory begin in `tail`, and the names they are for."""
    place = tail.index(b"PK\x01\x02")
    while tail[place : place + 4] == b"PK\x01\x02":
        name, extra, comment = struct.unpack("<HHH", tail[place + 28 : place + 34])
        yield place, tail[place + 46 : place + 46 + name].decode()
        place += 46 + name + extra + comment
