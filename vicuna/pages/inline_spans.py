"""Where maths, code, escapes and signs that could become markup stand in a paragraph, found in one walk.

A text of two megabytes may be nothing but marks that open and are never closed. So a mark's end is not looked for from
each mark anew: what was found, or found missing, holds for every mark before it.
"""

import re
import string
from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple

from vicuna.answer import leaving

MARKS_AT_ONCE = 4096  # between two looks whether anybody still waits for the text
_MARK = re.compile(r"[$\\`<&!:~%]")
_TICKS = re.compile("`+")
_TILDES = re.compile("~{3,}")
_SIGNS = re.compile("[<&]+")
_ESCAPABLE = frozenset(string.punctuation)


class Kind(Enum):
    """What a span is: maths of its own or in a line, code, an escaped sign, or a sign that markup could begin with."""

    BLOCK = auto()
    INLINE = auto()
    CODE = auto()
    ESCAPED = auto()
    SPECIAL = auto()


class Span(NamedTuple):
    """A part of a text; `mark` is the length of what opens it, and of what closes it."""

    kind: Kind
    start: int
    end: int
    mark: int = 0


class Ends:
    """The next place of a mark behind a position, for positions that only grow.

    Attributes:
        steps: characters that were gone through.
    """

    def __init__(self, text: str):
        self.text, self.steps = text, 0
        self._found: dict[str, int] = {}
        self._runs: dict[int, list[int]] | None = None

    def next(self, mark: str, start: int) -> int:
        """Where `mark` stands next from `start` on, -1 for nowhere."""
        found = self._found.get(mark, start - 1)
        if found == -1 and mark in self._found:
            return -1
        if found < start:
            found = self.text.find(mark, start)
            self.steps += (len(self.text) if found < 0 else found + len(mark)) - start
            self._found[mark] = found
        return found

    def next_ticks(self, count: int, start: int) -> int:
        """Where a run of exactly so many ticks stands next, -1 for nowhere."""
        if self._runs is None:
            self._runs = {}
            self.steps += len(self.text)
            for run in _TICKS.finditer(self.text):
                self._runs.setdefault(run.end() - run.start(), []).append(run.start())
            for places in self._runs.values():
                places.reverse()
        places = self._runs.get(count, [])
        while places and places[-1] < start:
            places.pop()
        return places[-1] if places else -1


def inline_spans(text: str, ends: Ends | None = None) -> Iterator[Span]:
    """The spans of a paragraph, in order; none overlap."""
    ends = ends or Ends(text)
    at = marks = 0
    while found := _MARK.search(text, at):
        if not marks % MARKS_AT_ONCE:
            leaving.check()
        marks += 1
        span = _span(text, found.start(), ends)
        at = span.end if span else found.end()
        if span:
            yield span


def _span(text: str, at: int, ends: Ends) -> Span | None:
    """What begins at a mark; None for nothing."""
    sign, following = text[at], text[at + 1 : at + 2]
    match sign:
        case "$":
            if following == "$" and (end := ends.next("$$", at + 3)) >= 0:
                return Span(Kind.BLOCK, at, end + 2, 2)
            return _dollars(text, at, ends)
        case "\\":
            return _backslash(following, at, ends)
        case "`":
            return _ticks(text, at, ends)
        case "<" | "&":
            return Span(Kind.SPECIAL, at, _SIGNS.match(text, at).end())
        case "!":
            return Span(Kind.SPECIAL, at, at + 1) if following == "[" else None
        case ":":
            return Span(Kind.SPECIAL, at, at + 1) if text[at - 1 : at] == "]" else None
        case "~":
            run = _TILDES.match(text, at)
            return Span(Kind.SPECIAL, at, run.end()) if run else None
    return Span(Kind.SPECIAL, at, at + 1) if text.startswith("%%LATEX", at + 1) else None


def _backslash(following: str, at: int, ends: Ends) -> Span | None:
    if following == "[" and (end := ends.next("\\]", at + 3)) >= 0:
        return Span(Kind.BLOCK, at, end + 2, 2)
    if following == "(" and (end := ends.next("\\)", at + 3)) >= 0:
        return Span(Kind.INLINE, at, end + 2, 2)
    return Span(Kind.ESCAPED, at, at + 2) if following in _ESCAPABLE else None


def _dollars(text: str, at: int, ends: Ends) -> Span | None:
    """Maths between two dollars of a line, of which prices are told by blanks and digits beside them."""
    end = ends.next("$", at + 1)
    if end < at + 2 or text[at + 1].isspace() or text[end - 1].isspace() or text[end + 1 : end + 2].isdecimal():
        return None
    line_end = ends.next("\n", at + 1)
    return Span(Kind.INLINE, at, end + 1, 1) if not at < line_end < end else None


def _ticks(text: str, at: int, ends: Ends) -> Span:
    """Code, or ticks that no others close."""
    run = _TICKS.match(text, at)
    count = run.end() - at
    if text[at - 1 : at] != "`" or not at:
        end = ends.next_ticks(count, run.end() + 1)
        if end >= 0:
            return Span(Kind.CODE, at, end + count, count)
    return Span(Kind.SPECIAL, at, run.end())
