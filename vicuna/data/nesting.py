"""JSON of rows, with a bound on brackets within brackets: what is nested further is one bad row, and not a lost file.

What works on a value step by step (filling, printing, copying) goes as deep as the value, and Python's stack ends at a
thousand steps. Where such a value ends is found without decoding it.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

MOST_NESTED = 100  # brackets within brackets; published rows, schemas of functions included, have fewer than 20
_SIGNS = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|(?P<open>\Z))|[{}\[\]]', re.DOTALL)
_SCALAR = re.compile(r"[^\s,\[\]{}]*")


class Unreadable(ValueError):
    """A value that is not decoded: what it holds, that in a word for counting, and where it ends; -1 if nowhere."""

    def __init__(self, problem: str, reason: str, end: int):
        super().__init__(problem)
        self.reason, self.end = reason, end


def decode(decoder: json.JSONDecoder, text: str, at: int) -> tuple[Any, int]:
    """The JSON value that begins here, and where it ends.

    Raises:
        ValueError: there is none; `Unreadable` for brackets within too many brackets, or a number of thousands of
            digits.
    """
    try:
        value, end = decoder.raw_decode(text, at)
    except RecursionError:
        raise _nested(text, at) from None
    except ValueError as error:
        if type(error) is not ValueError:  # of no JSON, or of the decoder's own
            raise
        raise Unreadable("a number of thousands of digits", "a number too long", value_end(text, at)) from error
    if _may_be_nested(text, at, end) and is_nested(value):
        raise _nested(text, at)
    return value, end


def loads(text: str) -> Any:
    """The JSON value that a text is.

    Raises:
        ValueError: as `decode`.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise _nested(text, 0) from None
    if _may_be_nested(text, 0, len(text)) and is_nested(value):
        raise _nested(text, 0)
    return value


def is_nested(value: Any) -> bool:
    """Whether a value has brackets within more brackets than `MOST_NESTED`."""
    level = [value]
    for _ in range(MOST_NESTED):
        level = [inside for one in level for inside in _values(one)]
    return any(isinstance(one, dict | list) for one in level)


def _values(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def value_end(text: str, at: int) -> int:
    """Where the JSON value ends that begins here, by its brackets alone; -1 where they are not closed."""
    if not text.startswith(("{", "["), at):
        return _SCALAR.match(text, at).end()
    depth = 0
    for sign in _SIGNS.finditer(text, at):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(sign[0], 0)
        if depth == 0:
            return sign.end()
    return -1


def _may_be_nested(text: str, start: int, end: int) -> bool:
    return text.count("[", start, end) + text.count("{", start, end) > MOST_NESTED


def _nested(text: str, at: int) -> Unreadable:
    return Unreadable(f"brackets within more than {MOST_NESTED} brackets", "nested too deeply", value_end(text, at))
