"""A data file's bytes -> text -> rows, each with the line it begins at.

A row is whatever its JSON says, or a block of a plain text; what can not be parsed is a `BadRow` in its place, so that
a broken line costs no other. What a row means is for vicuna/data/formats.py.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vicuna.data.formats import BadRow
from vicuna.errors import UserError

ENCODINGS = ("utf-8", "gb18030")


def read_text(path: Path, encoding: str | None = None) -> tuple[str, str]:
    """The text of a data file and its encoding, which is found out where none is given.

    Raises:
        UserError: an unknown encoding, or one that the file is not in.
    """
    raw = path.read_bytes()
    if encoding is None and raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    for name in [encoding] if encoding else ENCODINGS:
        try:
            return raw.decode("utf-8-sig" if name == "utf-8" else name), name
        except UnicodeDecodeError:
            continue
        except LookupError:
            raise UserError(f"--encoding {name} is not a known text encoding; try utf-8, utf-16 or gb18030.") from None
    tried = encoding or "UTF-8, UTF-16 with a byte order mark or GB18030"
    raise UserError(f"{path} is not text in {tried}; name its encoding with --encoding, or save it as UTF-8.")


def parse_rows(text: str, suffix: str) -> Iterator[tuple[int, Any]]:
    """(line number, parsed row or BadRow) of every row of a file."""
    if suffix == ".txt":
        yield from _documents(text)
    elif text.lstrip().startswith("["):
        yield from _array_items(text)
    elif (one := _whole_object(text)) is not None:
        yield text[: text.index("{")].count("\n") + 1, one
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError as error:  # not JSON, or a number of thousands of digits
                    yield number, BadRow(f"is not a JSON object: {_where(error)}", "not JSON")


def _whole_object(text: str) -> dict | None:
    """The one object that a file holds on several lines, such as a dialogue of its own file."""
    if text.lstrip().partition("\n")[0].strip() != "{":
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def _where(error: ValueError) -> str:
    return f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)


def _documents(text: str) -> Iterator[tuple[int, dict]]:
    """Blocks of a plain text that blank lines separate."""
    block, start = [], 1
    for number, line in enumerate([*text.replace("\r\n", "\n").split("\n"), ""], 1):
        if line.strip():
            start = start if block else number
            block.append(line)
        elif block:
            yield start, {"text": "\n".join(block)}
            block = []


def _array_items(text: str) -> Iterator[tuple[int, Any]]:
    """The elements of a JSON array, each with the line it begins at."""
    decoder = json.JSONDecoder()
    at, line, counted = text.index("[") + 1, 1, 0
    separator = ""
    while True:
        while at < len(text) and (text[at].isspace() or text[at] == separator):
            separator = "" if text[at] == separator else separator
            at += 1
        line, counted = line + text.count("\n", counted, at), at
        if at < len(text) and text[at] == "]":
            return
        if separator or at >= len(text):
            yield line, BadRow("the JSON array ends here or lacks a comma: expected ',' or ']'", "not JSON")
            return
        try:
            item, end = decoder.raw_decode(text, at)
        except ValueError as error:
            where = error.lineno if isinstance(error, json.JSONDecodeError) else line
            yield where, BadRow(f"is not JSON: {_where(error)}", "not JSON")
            return
        yield line, item
        at, separator = end, ","
