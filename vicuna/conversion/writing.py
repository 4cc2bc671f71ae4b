"""Dialogues -> rows of a file, counted; a part of them drawn by a seed where one is wanted.

Rows go to the disk as they come. Only where each begins is kept, eight bytes a row, so that a set larger than memory
can be drawn from and mixed.
"""

import json
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, BinaryIO

from vicuna.conversion.asking import Asked, ask
from vicuna.conversion.found import Found
from vicuna.data.bad_row import BadRow
from vicuna.files.row_lines import to_json_line
from vicuna.prompt.templates import Message, split_system

CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
LETTERS_A_WORD = 4  # of Latin text, to count beside Chinese characters


@dataclass
class Tally:
    """What became of a set.

    Attributes:
        found: rows that its files hold; usable: rows made of them; written: those that were drawn.
        skipped: reason -> rows left out for it; mended: what was changed -> dialogues in which it was.
    """

    name: str
    found: int = 0
    usable: int = 0
    written: int = 0
    skipped: Counter = field(default_factory=Counter)
    mended: Counter = field(default_factory=Counter)


@dataclass(frozen=True)
class Writing:
    """How dialogues are written.

    Attributes:
        to: instruct or chat.
        prompts: one, mixed or none, see `vicuna.conversion.asking`.
    """

    to: str
    prompts: str
    asked: Asked | None
    language: str
    drop_system: bool
    category: str = ""


def to_row(messages: Sequence[Message], writing: Writing, draw: Random) -> tuple[dict[str, Any], list[str]]:
    """A dialogue as a row, and what was left away of it.

    Raises:
        BadRow: it is not wanted, or the format has no place for something in it.
    """
    if any(one.get("learnt") is False for one in messages):
        raise BadRow(
            "marks an answer as not to be learnt, for which the rows that are written have no place",
            "an answer is not to be learnt",
        )
    if writing.language == "zh" and not mostly_chinese(messages):
        raise BadRow("is not mostly Chinese", "not Chinese")
    system, others = split_system(messages)
    notes = ["a system message left out"] if system and (writing.drop_system or writing.to == "instruct") else []
    if writing.asked is not None:
        others = ask(others, writing.asked, writing.prompts, draw)
    turns = [(others[i], others[i + 1]["content"]) for i in range(0, len(others), 2)]
    if writing.to == "chat":
        row = {"input": [_whole(asked) for asked, _ in turns], "output": [answer for _, answer in turns]}
        row = {"system": system[0]["content"], **row} if system and not notes else row
        return {**row, **_category(writing)}, notes
    last, answer = turns[-1]
    row = {"instruction": last["content"], "input": last.get("input", ""), "output": answer}
    if len(turns) > 1:
        row["history"] = [[_whole(asked), said] for asked, said in turns[:-1]]
    return {**row, **_category(writing)}, notes


def _category(writing: Writing) -> dict[str, str]:
    return {"category": writing.category} if writing.category else {}


def _whole(asked: Message) -> str:
    return "\n".join(part for part in (asked["content"], asked.get("input", "").strip()) if part)


def mostly_chinese(messages: Sequence[Message]) -> bool:
    """Whether a dialogue is Chinese, but for its code: a Chinese character counts as much as a word."""
    text = CODE.sub("", "\n".join(_whole(one) for one in messages))
    chinese = sum("\u3400" <= char <= "\u9fff" for char in text)
    others = sum(char.isalpha() for char in text) - chinese
    return chinese > others / LETTERS_A_WORD


class RowFile:
    """Rows of one set on their way into the output."""

    def __init__(self, file: Path):
        self.file = file
        self.starts = array("Q")
        self._opened: BinaryIO = file.open("wb")

    def add(self, row: dict[str, Any]) -> None:
        self.starts.append(self._opened.tell())
        self._opened.write(to_json_line(row))

    def close(self) -> None:
        self._opened.close()

    def lines(self, chosen: Sequence[int]) -> Iterator[bytes]:
        """The lines of the rows with these numbers, in their order."""
        with self.file.open("rb") as opened:
            for number in chosen:
                opened.seek(self.starts[number])
                yield opened.readline()


def write_rows(
    found: Iterator[Found], rows: RowFile, skipped: BinaryIO, tally: Tally, writing: Writing, draw: Random
) -> Iterator[None]:
    """Write every dialogue that can be, and why the others can not; yields after each row of the files."""
    before = None
    for one in found:
        if (one.path, one.row) != before:
            tally.found, before = tally.found + 1, (one.path, one.row)
        try:
            if isinstance(one.value, BadRow):
                raise one.value
            row, notes = to_row(one.value, writing, draw)
        except BadRow as problem:
            tally.skipped[problem.reason] += 1
            why = {"set": tally.name, "file": str(one.path), "line": one.line, "reason": problem.reason}
            skipped.write(json.dumps({**why, "problem": str(problem)}, ensure_ascii=False).encode() + b"\n")
        else:
            rows.add(row)
            tally.usable += 1
            tally.mended.update([*one.notes, *notes])
        yield


def drawn(count: int, wanted: int, draw: Random) -> list[int]:
    """Numbers of the rows that are taken of so many, in their order; all where `wanted` is 0 or more than there are."""
    return sorted(draw.sample(range(count), wanted)) if 0 < wanted < count else list(range(count))
