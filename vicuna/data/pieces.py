"""A large text file, a piece at a time: cut where no row is, so that a piece is read as a file of its own would be."""

import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from vicuna.data.encodings import is_surely_gb18030, marked_encoding
from vicuna.data.nesting import Unreadable, decode

PIECE = 64 << 20  # bytes; a file of no more is read at once
# Where a piece may end, and how much of it belongs to the piece: behind a document, and between two objects.
BETWEEN_ROWS = {
    ".txt": (("\n\n", 1), ("\n\r\n", 1)),
    ".jsonl": (("}\n{", 2), ("}\r\n{", 3)),
}
LONGEST_MARK = 4  # characters
DECODER = json.JSONDecoder()
# How the array of a .json begins, and what stands between its elements.
ARRAY = re.compile(r"\s*\[")
BETWEEN_ELEMENTS = re.compile(r"\s*,?\s*")
BETWEEN_ROWS_OF_ARRAY = re.compile(r"(\s*),")


def large_encoding(path: Path, kind: str, encoding: str | None) -> str | None:
    """The encoding of a file that is read in pieces: too large to be read at once, and in UTF-8 or the encoding that is
    given or marked, to its end, or beyond doubt in GB18030; else None.

    Args:
        kind: its ending, `.jsonl.gz` for one.
    """
    if not kind or (kind == inner_kind(kind) and path.stat().st_size <= PIECE):
        return None
    size, decoder, is_found = 0, None, encoding is None
    try:
        for block in blocks(path, kind):
            if decoder is None:
                is_found = is_found and not marked_encoding(block)
                encoding = encoding or marked_encoding(block) or "utf-8"
                " ".encode(encoding)  # refuses a codec that is none of texts
                decoder = codecs.getincrementaldecoder(encoding)()
            decoder.decode(block)
            size += len(block)
        if decoder:
            decoder.decode(b"", final=True)
    except (UnicodeDecodeError, LookupError, OSError, EOFError, zlib.error) as error:
        # What may be a character that breaks off at the end is said by who reads it at once, as all else is.
        inside = isinstance(error, UnicodeDecodeError) and len(error.object) - error.start >= LONGEST_MARK
        return "gb18030" if is_found and inside and _is_large_gb18030(path, kind) else None
    return encoding if size > PIECE else None


def _is_large_gb18030(path: Path, kind: str) -> bool:
    size = 0

    def counted() -> Iterator[bytes]:
        nonlocal size
        for block in blocks(path, kind):
            size += len(block)
            yield block

    try:
        return is_surely_gb18030(counted()) and size > PIECE
    except (OSError, EOFError, zlib.error):
        return False


def inner_kind(kind: str) -> str:
    """The ending without that of the compression."""
    return f".{kind.split('.')[1]}" if kind else ""


def blocks(path: Path, kind: str, size: int | None = None) -> Iterator[bytes]:
    """The bytes of a file, decompressed where its ending says that it is compressed.

    Args:
        size: of a block, in bytes; default PIECE.

    Raises:
        OSError, EOFError, zlib.error: it is not whole.
    """
    size = size or PIECE
    if kind.endswith(".zst"):
        import pyarrow

        try:
            with pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd") as stream:
                while block := stream.read(size):
                    yield block
        except pyarrow.ArrowException as error:
            raise OSError(str(error)) from error
        return
    with gzip.open(path) if kind.endswith(".gz") else path.open("rb") as stream:
        while block := stream.read(size):
            yield block


def texts(path: Path, kind: str, encoding: str, size: int | None = None) -> Iterator[str]:
    """The text of a file in blocks of `size` bytes, cut anywhere."""
    decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)()
    for block in blocks(path, kind, size):
        yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


def _part() -> int:
    """Bytes that are read at a time: as characters they take up to four times as many, and are copied."""
    return max(1, PIECE // 4)


def pieces(path: Path, kind: str, encoding: str) -> Iterator[str]:
    """The text of a file of documents or of objects in pieces; larger than what is read at a time where nothing tells
    two rows apart for as long."""
    between = BETWEEN_ROWS.get(inner_kind(kind), BETWEEN_ROWS[".jsonl"])
    parts: list[str] = []  # of what nothing was found in that tells two rows apart
    for text in texts(path, kind, encoding, _part()):
        end = parts.pop() if parts else ""  # in which a mark may begin
        text = end + text
        cuts = (at + own for mark, own in between if (at := text.rfind(mark)) >= 0)
        if cut := max(cuts, default=0):
            yield "".join([*parts, text[:cut]])
            parts, text = [], text[cut:]
        parts += [text[:-LONGEST_MARK], text[-LONGEST_MARK:]]
    if rest := "".join(parts):
        yield rest


def lines(path: Path, kind: str, encoding: str) -> Iterator[str]:
    """The lines of a file, each with its own end."""
    parts: list[str] = []  # of a line that goes on
    for text in texts(path, kind, encoding, _part()):
        if "\n" not in text and "\r" not in text and not (parts and parts[-1].endswith("\r")):
            parts.append(text)
            continue
        # The last may go on in the next block, and so may its end.
        *whole, rest = io.StringIO("".join([*parts, text]), newline="").readlines() or [""]
        parts = [rest]
        yield from whole
    yield from io.StringIO("".join(parts), newline="")


def holds_array(path: Path, kind: str, encoding: str) -> bool:
    """Whether a .json begins with an array; others are read as .jsonl is."""
    return ARRAY.match(next(texts(path, kind, encoding, 1 << 12))) is not None


def array_pieces(path: Path, kind: str, encoding: str) -> Iterator[str]:
    """The text of a .json that begins with an array, as arrays with every line break between them.

    From where something is not JSON, and behind the array's end, the rest is one piece.
    """
    text, whole, again = "", 0, 0  # up to where whole elements go; how long the text has to be to look further
    for block in texts(path, kind, encoding, _part()):
        text += block
        whole = whole or text.find("[") + 1
        if len(text) < again:
            continue
        before = whole
        while True:
            try:
                _, end = decode(DECODER, text, BETWEEN_ELEMENTS.match(text, whole).end())
            except Unreadable as error:
                end = error.end
            except ValueError:  # it goes on in the next block, or is not JSON
                break
            if end < 0 or end == len(text):  # a number may go on, too
                break
            whole = end
        # An element that takes several blocks is not read from its beginning with each.
        again = 2 * len(text) if whole == before else 0
        comma = BETWEEN_ROWS_OF_ARRAY.match(text, whole)
        if comma and whole > 1:
            yield f"{text[:whole]}]"
            text, whole = f"[{comma[1]}{text[comma.end() :]}", 1
    yield text
