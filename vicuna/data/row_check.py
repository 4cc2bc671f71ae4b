"""A row by itself -> a dialogue, or why it is none: what can be done to many rows at once, in any order."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from vicuna.data.bad_row import BadRow
from vicuna.data.fills import fill
from vicuna.data.formats import to_messages
from vicuna.data.spilled import spilled
from vicuna.data.suspicions import suspicions
from vicuna.prompt.templates import Message


class CheckedRow(NamedTuple):
    """What becomes of a row: a dialogue, or why it is none.

    Attributes:
        messages: as a list, or as `vicuna.data.spilled` writes it; None for a malformed row.
        suspicious: kinds of what probably no one wants to teach.
        problem, reason: of a malformed row, see `BadRow`.
        filled: placeholders that were there.
    """

    line: int
    messages: list[Message] | bytes | None
    suspicious: tuple[str, ...] = ()
    problem: str = ""
    reason: str = ""
    filled: tuple[str, ...] = ()


@dataclass(frozen=True)
class RowCheck:
    """Makes a row a dialogue, by itself; see `read_records`."""

    prompt_type: str
    places: dict[str, str]
    refuse: Callable[[list[Message]], str] | None
    spills: bool

    def __call__(self, numbered: tuple[int, Any]) -> CheckedRow:
        line, row = numbered
        filled: set[str] = set()
        try:
            messages = to_messages(fill(row, self.places, filled) if self.places else row, self.prompt_type)
            if self.refuse and (why := self.refuse(messages)):
                raise BadRow(why, "does not fit the base's chat template")
        except BadRow as problem:
            return CheckedRow(line, None, (), str(problem), problem.reason, tuple(filled))
        kinds = tuple(suspicions(messages))
        return CheckedRow(line, spilled(messages) if self.spills else messages, kinds, filled=tuple(filled))
