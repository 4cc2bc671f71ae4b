"""A large text file, a piece at a time: cut where no row is, so that a piece is read as a file of its own would be."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path

PIECE = 64 << 20  # bytes; a file of no more is read at once
# Where a piece may end, and how much of it belongs to the piece: behind a document, and between two objects.
BETWEEN_ROWS = {
    ".txt": ((b"\n\n", 1), (b"\n\r\n", 1)),
    ".jsonl": ((b"}\n{", 2), (b"}\r\n{", 3)),
}


# How the array of a .json begins, and what stands between its elements.
ARRAY = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[")
BETWEEN_ELEMENTS = re.compile(r"\s*,?\s*")
BETWEEN_ROWS_OF_ARRAY = re.compile(r"(\s*),")


def is_large(path: Path, encoding: str | None) -> bool:
    """Whether a file is read in pieces: it is too large to be read at once, and UTF-8 to its end."""
    if encoding not in (None, "utf-8") or path.stat().st_size <= PIECE:
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


def holds_array(path: Path) -> bool:
    """Whether a .json begins with an array; others are read as .jsonl is."""
    with path.open("rb") as file:
        return ARRAY.match(file.read(1 << 12)) is not None


def array_pieces(path: Path) -> Iterator[str]:
    """The text of a .json that begins with an array, as arrays of about PIECE with every line break between them.

    From where something is not JSON, and behind the array's end, the rest is one piece.
    """
    scan = json.JSONDecoder().raw_decode
    text, whole = "", 0  # up to where whole elements go
    with path.open(encoding="utf-8-sig", newline="") as file:
        while block := file.read(max(1, PIECE // 4)):  # characters, of up to four bytes
            text += block
            whole = whole or text.find("[") + 1
            while True:
                try:
                    _, end = scan(text, BETWEEN_ELEMENTS.match(text, whole).end())
                except (ValueError, RecursionError):  # it goes on in the next block, or is not JSON
                    break
                if end == len(text):  # a number may go on, too
                    break
                whole = end
            comma = BETWEEN_ROWS_OF_ARRAY.match(text, whole)
            if comma and whole > 1:
                yield f"{text[:whole]}]"
                text, whole = f"[{comma[1]}{text[comma.end() :]}", 1
    yield text
