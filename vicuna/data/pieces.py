"""A large text file, a piece at a time: cut where no row is, so that a piece is read as a file of its own would be."""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from vicuna.data.encodings import marked_encoding

PIECE = 64 << 20  # bytes; a file of no more is read at once
# Where a piece may end, and how much of it belongs to the piece: behind a document, and between two objects.
BETWEEN_ROWS = {
    ".txt": (("\n\n", 1), ("\n\r\n", 1)),
    ".jsonl": (("}\n{", 2), ("}\r\n{", 3)),
}


def large_encoding(path: Path, kind: str, encoding: str | None) -> str | None:
    """The encoding of a file that is read in pieces: too large to be read at once, of such a kind, and in UTF-8 or the
    encoding that is given or marked, to its end; else None.

    Args:
        kind: its ending, `.jsonl.gz` for one.
    """
    plain = kind in BETWEEN_ROWS
    if inner_kind(kind) not in BETWEEN_ROWS or (plain and path.stat().st_size <= PIECE):
        return None
    size, decoder = 0, None
    try:
        for block in blocks(path, kind):
            if decoder is None:
                encoding = encoding or marked_encoding(block) or "utf-8"
                " ".encode(encoding)  # refuses a codec that is none of texts
                decoder = codecs.getincrementaldecoder(encoding)()
            decoder.decode(block)
            size += len(block)
        if decoder:
            decoder.decode(b"", final=True)
    except (UnicodeDecodeError, LookupError, OSError, EOFError, zlib.error):
        return None  # said by who reads it at once
    return encoding if size > PIECE else None


def inner_kind(kind: str) -> str:
    """The ending without that of the compression."""
    return f".{kind.split('.')[1]}" if kind else ""


def blocks(path: Path, kind: str) -> Iterator[bytes]:
    """The bytes of a file, decompressed where its ending says that it is compressed.

    Raises:
        OSError, EOFError, zlib.error: it is not whole.
    """
    if kind.endswith(".zst"):
        import pyarrow

        try:
            with pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd") as stream:
                while block := stream.read(PIECE):
                    yield block
        except pyarrow.ArrowException as error:
            raise OSError(str(error)) from error
        return
    with gzip.open(path) if kind.endswith(".gz") else path.open("rb") as stream:
        while block := stream.read(PIECE):
            yield block


def pieces(path: Path, kind: str, encoding: str) -> Iterator[str]:
    """The text of a file in pieces of about PIECE; larger where nothing tells two rows apart for as long."""
    decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)()
    rest = ""
    for block in blocks(path, kind):
        rest += decoder.decode(block)
        cuts = (at + own for mark, own in BETWEEN_ROWS[inner_kind(kind)] if (at := rest.rfind(mark)) >= 0)
        if cut := max(cuts, default=0):
            yield rest[:cut]
            rest = rest[cut:]
    if rest := rest + decoder.decode(b"", final=True):
        yield rest
