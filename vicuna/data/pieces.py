"""A large text file, a piece at a time: cut where no row is, so that a piece is read as a file of its own would be."""

import codecs
from collections.abc import Iterator
from pathlib import Path

PIECE = 64 << 20  # bytes; a file of no more is read at once
# Where a piece may end, and how much of it belongs to the piece: behind a document, and between two objects.
BETWEEN_ROWS = {
    ".txt": ((b"\n\n", 1), (b"\n\r\n", 1)),
    ".jsonl": ((b"}\n{", 2), (b"}\r\n{", 3)),
}


def is_large(path: Path, kind: str, encoding: str | None) -> bool:
    """Whether a file is read in pieces: it is too large to be read at once, of such a kind, and UTF-8 to its end."""
    if kind not in BETWEEN_ROWS or encoding not in (None, "utf-8") or path.stat().st_size <= PIECE:
        return False
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as file:
            while block := file.read(PIECE):
                decoder.decode(block)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def pieces(path: Path, kind: str) -> Iterator[bytes]:
    """The bytes of a file in pieces of about PIECE; larger where nothing tells two rows apart for as long."""
    rest = b""
    with path.open("rb") as file:
        while block := file.read(PIECE):
            rest += block
            cuts = (at + own for mark, own in BETWEEN_ROWS[kind] if (at := rest.rfind(mark)) >= 0)
            if cut := max(cuts, default=0):
                yield rest[:cut]
                rest = rest[cut:]
    if rest:
        yield rest
