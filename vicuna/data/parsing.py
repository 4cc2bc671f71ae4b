"""Text of a data file -> rows, each with the line it begins at.

A row is whatever its JSON says, or a block of a plain text; what can not be parsed is a `BadRow` in its place, so that
a broken line costs no other. Every character of the text is part of a row, of a `BadRow`, or white space and commas
between them: files are often several ones that were joined, or one that was not written whole. What a row means is
for vicuna/data/formats.py.
"""

import json
import re
from collections.abc import Generator, Iterator
from typing import Any

from vicuna.data.bad_row import BadRow
from vicuna.data.nesting import Unreadable, decode, value_end

# What may stand between two values: white space, and the byte order marks of files that were joined.
BETWEEN = re.compile(r"[\s\ufeff]*")
# Strings and brackets of one line, by which the end of an object on several lines is found.
PIECES = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\Z)|[{}\[\]]')
# How a row begins: JSON that is written on several lines has nothing behind the bracket that opens an object.
ROW_BEGINS = re.compile(r'[{\[]\s*["{]')
MESSAGE_FIELDS = ({"role", "content"}, {"from", "value"})
SHOWN_CHARACTERS = 40
# How many times the length of a text may be looked through for the ends of objects over several lines that are broken.
MOST_LOOKED_THROUGH = 20


def parse_rows(text: str, suffix: str) -> Iterator[tuple[int, Any]]:
    """(line number, parsed row or BadRow) of every row of a file."""
    if suffix == ".txt":
        yield from _documents(text)
        return
    at, line, in_vain, begin = 0, 1, 0, BETWEEN.match(text).end()
    if (one := _whole_object(text)) is not None:
        yield text[: text.index("{")].count("\n") + 1, one
        return
    while True:
        start, at = at, BETWEEN.match(text, at).end()
        line += text.count("\n", start, at)
        if at == len(text):
            return
        start = at
        if _holds_rows(text, at, suffix, at == begin):
            at = yield from _array(text, at, line)
        else:
            at, looked = yield from _values(text, at, line, in_vain < MOST_LOOKED_THROUGH * len(text))
            in_vain += looked
        line += text.count("\n", start, at)


def _documents(text: str) -> Iterator[tuple[int, Any]]:
    """Blocks of a plain text that blank lines separate."""
    block, start = [], 1
    for number, line in enumerate([*text.replace("\r\n", "\n").split("\n"), ""], 1):
        if line.strip():
            start = start if block else number
            block.append(line)
        elif block:
            document = "\n".join(block)
            yield start, BadRow(_nul_bytes(document), "NUL bytes") if "\0" in document else {"text": document}
            block = []


# --- JSON -----------------------------------------------------------------------------------------------------------


class _Twice(ValueError):
    """A field that an object gives twice, with two values: one of them would be lost."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        for name, value in pairs:
            if found[name] != value:
                raise _Twice(f"has the field {name!r} twice, with different values")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _decode(text: str, at: int, decoder: json.JSONDecoder = DECODER) -> tuple[Any, int]:
    """As `vicuna.data.nesting.decode`, for a value with no field twice."""
    return decode(decoder, text, at)


def _whole_object(text: str) -> dict | None:
    """The one object that a file holds on several lines, such as a dialogue of its own file."""
    begin = BETWEEN.match(text).end()
    if text[begin : _line_end(text, begin)].strip() != "{":
        return None
    try:
        value, end = _decode(text, begin)
    except ValueError:
        return None
    return value if BETWEEN.match(text, end).end() == len(text) else None


def _holds_rows(text: str, at: int, suffix: str, is_first: bool) -> bool:
    """Whether an array begins here whose elements are rows, rather than an array that is a row itself.

    [question, answer] and an array of messages are rows. So is an array of pairs on its own line of a .jsonl.

    Args:
        is_first: nothing stands before it.
    """
    if text[at] != "[":
        return False
    first = BETWEEN.match(text, at + 1).end()
    if text.startswith('"', first):
        return len(_decoded(text, at) or ()) != 2
    if text.startswith("[", first) and suffix == ".jsonl":
        end = _line_end(text, at)
        alone = is_first and BETWEEN.match(text, end).end() == len(text)
        return alone or (found := _decoded_to(text, at)) is None or found > end
    item = _decoded(text, first) if text.startswith("{", first) else None
    return not isinstance(item, dict) or not any(
        keys <= item.keys() for keys in ({"role", "content"}, {"from", "value"})
    )


def _decoded(text: str, at: int) -> Any:
    """The value that begins here, None where it is not JSON."""
    try:
        return _decode(text, at)[0]
    except ValueError:
        return None


def _decoded_to(text: str, at: int) -> int | None:
    """Where the value ends that begins here, None where it is not JSON."""
    try:
        return _decode(text, at)[1]
    except ValueError:
        return None


def _array(text: str, at: int, line: int) -> Generator[tuple[int, Any], None, int]:
    """The elements of a JSON array, each with the line it begins at; where it ends, or everything where it breaks."""
    at, counted = at + 1, at
    separator = ""
    while True:
        while at < len(text) and (text[at].isspace() or text[at] == separator):
            separator = "" if text[at] == separator else separator
            at += 1
        line, counted = line + text.count("\n", counted, at), at
        if at < len(text) and text[at] == "]":
            return _behind(text, at + 1)
        if separator or at >= len(text):
            yield line, _broken_array(text, line, "the JSON array ends here or lacks a comma: expected ',' or ']'")
            return len(text)
        try:
            item, end = _decode(text, at)
        except _Twice as error:
            item, end = BadRow(str(error), "a field twice"), value_end(text, at)
        except Unreadable as error:
            item, end = BadRow(f"holds {error}", error.reason), error.end
        except ValueError as error:
            item, end = error, -1
        if end < 0:
            where = item.lineno if isinstance(item, json.JSONDecodeError) else line
            told = f"{item.msg} at column {item.colno}" if isinstance(item, json.JSONDecodeError) else item
            yield where, _broken_array(text, where, f"is not JSON: {told}")
            return len(text)
        yield line, item
        at, separator = end, ","


def _broken_array(text: str, line: int, problem: str) -> BadRow:
    last = text.rstrip().count("\n") + 1
    unread = f"; nothing from here to line {last} is read" if last > line else ""
    return BadRow(problem + unread, "not JSON")


def _values(text: str, at: int, line: int, blocks: bool) -> Generator[tuple[int, Any], None, tuple[int, int]]:
    """The values that begin on this line: one, several, or, if `blocks`, one or more objects over several lines.

    Returns:
        Where they end, and how many characters behind it were looked through for the end of an object.
    """
    looked = 0
    column = at - text.rfind("\n", 0, at) - 1
    end = _line_end(text, at)
    found, problem = _decode_all(text[at:end], line, column)
    if problem and blocks and text[at] in "{[" and (longer := _block_end(text, at, column)) > end:
        found, problem = _decode_all(text[at:longer], line, column)
        end = _broken_end(text, at, longer, column) if problem else longer
        looked = longer - end
    if problem:
        lines = text.count("\n", at, end)
        more = f"; it takes lines {line} to {line + lines}" if lines else ""
        yield line, BadRow(f"{problem}{more}", problem.reason)
    else:
        counted = 0
        for start, value in found:
            line, counted = line + text.count("\n", at + counted, at + start), start
            yield line, value
    return end, looked


def _decode_all(text: str, line: int, column: int) -> tuple[list[tuple[int, Any]], BadRow | None]:
    """Every JSON value of a text with its place in it; or why it is not only such values.

    Args:
        line, column: where the text begins in its file, the column from 0.
    """
    found, at = [], 0
    while at < len(text):
        if found and text[at] not in "{[":
            rest = repr(text[at : _line_end(text, at)][:SHOWN_CHARACTERS])
            return [], BadRow(f"is not only a JSON object: {rest} stands behind it", "not JSON")
        try:
            value, end = _decode(text, at)
        except _Twice as error:
            return [], BadRow(str(error), "a field twice")
        except ValueError as error:
            if "\0" in text:
                return [], BadRow(_nul_bytes(text), "NUL bytes")
            if not isinstance(error, Unreadable) or error.end < 0:
                return [], BadRow(f"is not a JSON object: {_where(error, line, column)}", "not JSON")
            value, end = BadRow(f"holds {error}", error.reason), error.end
        found.append((at, value))
        at = BETWEEN.match(text, _behind(text, end)).end()
    return found, None


def _behind(text: str, at: int) -> int:
    """Where the text goes on behind a value: a comma there is forgiven, as behind the last element of an array."""
    comma = BETWEEN.match(text, at).end()
    return comma + 1 if text.startswith(",", comma) else at


def _block_end(text: str, start: int, indent: int) -> int:
    """End of the lines that an object over several lines takes: where its brackets are closed at the end of a line.

    One that is never closed ends where another row begins, as far to the left or further.
    """
    at, depth = start, 0
    while at < len(text):
        end = _line_end(text, at)
        line = text[at:end]
        here = len(line) - len(line.lstrip())
        if at > start and here <= indent and ROW_BEGINS.match(line, here):
            return at - 1
        for piece in PIECES.findall(line):
            depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(piece, 0)
        if depth <= 0:
            return end
        at = end + 1
    return len(text)


def _broken_end(text: str, start: int, end: int, indent: int) -> int:
    """End of the lines that belong to what begins at `start`: those further to the right, or with closing brackets."""
    at = _line_end(text, start)
    while at < end:
        following = _line_end(text, at + 1)
        line = text[at + 1 : following]
        here = len(line) - len(line.lstrip())
        if line.strip() and here <= indent and line[here] not in "}]":
            break
        at = following
    return at


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _where(error: ValueError, line: int = 1, column: int = 0) -> str:
    """What is wrong and where, in a text that begins at a line and a column of its file."""
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    if error.lineno == 1:
        return f"{error.msg} at column {error.colno + column}"
    return f"{error.msg} at line {line + error.lineno - 1}, column {error.colno}"


def _nul_bytes(text: str) -> str:
    return f"holds {text.count(chr(0))} NUL bytes, as a file does that was not written whole; expected text"
