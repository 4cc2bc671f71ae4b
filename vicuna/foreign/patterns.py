"""Patterns in files from elsewhere, matched in steps that are bounded by the lengths of pattern and name.

Python's `re` tries every way of taking a pattern apart, and on some short ones does not return. Here all places that a
part of the pattern may have come to are followed at once.
"""

import re
from collections.abc import Callable
from functools import lru_cache

from vicuna.errors import UserError

LONGEST = 500  # signs of a pattern; more than any that people write
MOST_REPEATS = 50  # of `{n}`, each of which is another walk over the name
DEEPEST = 16  # groups in groups
_TOKEN = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]|\\.|\(\?[:=!]|\{\d{1,3}(?:,\d{0,3})?\}\??|[*+?]\??|.", re.DOTALL)
_CLASSES = "dDwWsS"
_REPEAT = re.compile(r"\{(\d+)(,?)(\d*)\}")

Places = frozenset[int]
# (name, places where it may begin) -> places where it may have ended
Part = Callable[[str, Places], Places]


class Pattern:
    """A pattern of those signs that names of modules need: classes, repetitions, alternatives, groups, looking ahead.

    Raises:
        UserError: it is none, or has signs beyond these.
    """

    def __init__(self, text: str):
        self.text = text
        self._tokens, self._at, self._depth = _TOKEN.findall(text), 0, 0
        if len(text) > LONGEST:
            raise self._refusal(f"it has {len(text):,} signs")
        self._part = self._alternatives()
        if self._at < len(self._tokens):
            raise self._refusal("a ) without its (")

    def fits_end(self, name: str) -> bool:
        """Whether it fits a whole name, or what stands behind one of its full stops, as PEFT's keys do."""
        begins = frozenset({0, *(place + 1 for place, sign in enumerate(name) if sign == ".")})
        return len(name) in self._part(name, begins)

    def _refusal(self, why: str) -> UserError:
        return UserError(
            f"the pattern {self.text[:60]!r} is not read here ({why}); expected the name of a module, or a simple "
            "pattern of such names."
        )

    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _alternatives(self) -> Part:
        self._depth += 1
        if self._depth > DEEPEST:
            raise self._refusal("its groups are nested deeply")
        found = [self._sequence()]
        while self._next() == "|":
            self._at += 1
            found.append(self._sequence())
        self._depth -= 1
        return lambda name, places: frozenset().union(*(part(name, places) for part in found))

    def _sequence(self) -> Part:
        found = []
        while self._next() not in ("", "|", ")"):
            found.append(self._repeated(self._single()))

        def follow(name: str, places: Places) -> Places:
            for part in found:
                places = part(name, places)
            return places

        return follow

    def _repeated(self, part: Part) -> Part:
        token = self._next().removesuffix("?") if len(self._next()) > 1 else self._next()
        if token not in ("*", "+", "?") and not _REPEAT.fullmatch(token):
            return part
        self._at += 1
        least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(token) or _counts(token)
        if max(least, most or 0) > MOST_REPEATS:
            raise self._refusal(f"it repeats more than {MOST_REPEATS} times")

        # Once for each place, so that repetitions in repetitions cost no more than the sum of them.
        @lru_cache(maxsize=2 * LONGEST)
        def from_place(name: str, place: int) -> Places:
            places = frozenset({place})
            for _ in range(least):
                places = part(name, places)
            found, new, done = places, places, least
            while new and (most is None or done < most):
                new, done = part(name, new) - found, done + 1
                found |= new
            return found

        return lambda name, places: frozenset().union(*(from_place(name, place) for place in places))

    def _single(self) -> Part:
        token = self._next()
        self._at += 1
        if token in ("(", "(?:", "(?=", "(?!"):
            inner = self._alternatives()
            if self._next() != ")":
                raise self._refusal("a ( without its )")
            self._at += 1
            return inner if token in ("(", "(?:") else _looking_ahead(inner, token == "(?=")
        if token == "^":
            return lambda name, places: places & {0}
        if token in ("$", "\\Z"):
            return lambda name, places: places & {len(name)}
        if token == "\\b":
            return lambda name, places: frozenset(place for place in places if _is_edge(name, place))
        if (
            token[0] in "*+?)"
            or token in ("[", "\\")
            or (len(token) == 2 and token[1].isalnum() and token[1] not in _CLASSES)
        ):
            raise self._refusal(f"{token} in this place")
        return self._sign(token)

    def _sign(self, token: str) -> Part:
        try:
            fits = re.compile(token if len(token) > 1 or token == "." else re.escape(token), re.DOTALL).match
        except re.error as error:
            raise self._refusal(str(error)) from error
        return lambda name, places: frozenset(place + 1 for place in places if place < len(name) and fits(name[place]))


def _counts(token: str) -> tuple[int, int | None]:
    least, comma, most = _REPEAT.fullmatch(token).groups()
    return int(least), int(most) if most else None if comma else int(least)


def _looking_ahead(inner: Part, wanted: bool) -> Part:
    return lambda name, places: frozenset(place for place in places if bool(inner(name, frozenset({place}))) is wanted)


def _is_edge(name: str, place: int) -> bool:
    before, behind = name[place - 1 : place], name[place : place + 1]
    return bool(re.match(r"\w", before)) is not bool(re.match(r"\w", behind))
