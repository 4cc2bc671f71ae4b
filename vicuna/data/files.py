"""A data file of any kind -> rows, each with its line: JSON, plain text, tables, and compressed ones of these."""

import csv
import io
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vicuna.data.bad_row import BadRow
from vicuna.data.encodings import decode_text
from vicuna.data.fields import parse_fields, pick
from vicuna.data.parsing import parse_rows
from vicuna.data.pieces import (
    BETWEEN_ROWS,
    array_pieces,
    blocks,
    holds_array,
    inner_kind,
    large_encoding,
    lines,
    pieces,
    texts,
)
from vicuna.errors import UserError

TABLES = {".csv": "excel", ".tsv": "excel-tab"}
KINDS = (".json", ".jsonl", ".txt", *TABLES)
COMPRESSED = (".gz", ".zst")
PARQUET = ".parquet"
EXPECTED = f"a {', '.join(KINDS)} or {PARQUET} file; all but the last also with {' or '.join(COMPRESSED)} behind"


def file_kind(path: Path) -> str:
    """The ending that tells how a file is read, `.jsonl.gz` for one; "" where it is unknown."""
    ending = path.suffix.lower()
    inner = Path(path.stem).suffix.lower() if ending in COMPRESSED else ending
    known = inner in KINDS or ending == PARQUET
    return (inner + ending if ending in COMPRESSED else ending) if known else ""


def read_rows(
    path: Path, encoding: str | None = None, fields: Sequence[str] = ()
) -> tuple[str, Iterator[tuple[int, Any]]]:
    """The encoding of a file, and (line number, row or BadRow) of each of its rows; of Parquet the number of the row.

    Raises:
        UserError: it can not be decompressed, or is in no encoding that is found out.
    """
    kind = file_kind(path)
    if kind == PARQUET:
        name, rows = "parquet", _parquet(path)
    elif name := large_encoding(path, kind, encoding):
        rows = _large(path, kind, name, found=encoding is None)
    else:
        inner = inner_kind(kind)
        text, name = decode_text(_unpacked(path, kind), path, encoding)
        rows = _table(io.StringIO(text, newline=""), TABLES[inner]) if inner in TABLES else parse_rows(text, inner)
    paths = parse_fields(fields)
    return name, ((line, pick(row, paths)) for line, row in rows)


def _large(path: Path, kind: str, encoding: str, found: bool) -> Iterator[tuple[int, Any]]:
    """The rows of a large file, of which no more than a piece is in memory.

    Args:
        found: the encoding was not given.
    """
    source, inner = (path, kind, encoding), inner_kind(kind)
    if found and encoding == "utf-8":
        decode_text(next(texts(*source)).encode(), path)  # refuses what is UTF-8 only by chance
    if inner in TABLES:
        yield from _table(lines(*source), TABLES[inner])
        return
    is_array = inner == ".json" and holds_array(*source)
    line, inner = 0, inner if is_array or inner in BETWEEN_ROWS else ".jsonl"
    for text in array_pieces(*source) if is_array else pieces(*source):  # each is parsed as a file of its own
        if inner == ".txt":
            yield from ((line + own, row) for own, row in parse_rows(text, inner))
        else:  # problems name lines too
            yield from parse_rows("\n" * line + text, inner)
        line += text.count("\n")


def _unpacked(path: Path, kind: str) -> bytes:
    """The bytes of a file, decompressed where its name says that it is compressed."""
    what = {".gz": "gzip", ".zst": "Zstandard"}.get(kind[kind.rfind(".") :])
    if not what:
        return path.read_bytes()
    try:
        return b"".join(blocks(path, kind))
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a whole {what} file: {error}. Make or copy it again.") from error


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} can not be read as Parquet: {error}. Make or copy it again.") from error


def _table(text: Iterable[str], dialect: str) -> Iterator[tuple[int, Any]]:
    """Rows of a table, of which lines are given and the first names the columns; every cell is text.

    Python's own reader, because it knows the line of each row and takes any encoding; Arrow's guesses types and tells
    no lines.
    """
    reader = csv.reader(text, dialect, strict=True)
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, BadRow(f"is no row of a table: {error}", "not a row of the table")
            continue
        if not cells:
            continue
        if not header:
            header = [cell.strip() for cell in cells]
            if twice := [name for name, count in Counter(header).items() if count > 1]:
                yield (
                    line,
                    BadRow(
                        f"names the column {twice[0]!r} twice, so no row is read; expected the names of the columns",
                        "columns without names",
                    ),
                )
                return
        elif len(cells) != len(header):
            yield line, BadRow(f"has {len(cells)} cells; the first line names {len(header)}", "not a row of the table")
        else:
            yield line, dict(zip(header, cells, strict=True))
