"""Answers that models have given, read from files: those of generate.py --data_path, and those of an evaluation."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vicuna.data.bad_row import BadRow
from vicuna.data.questions import to_question
from vicuna.errors import UserError
from vicuna.evaluation.journal import ROWS
from vicuna.foreign.paths import MOST_TEXT, read_bounded
from vicuna.prompt.templates import Message


@dataclass(frozen=True)
class Answer:
    """An answer to a question.

    Attributes:
        record: number of the question, the same for every model.
        question: what was asked, in a later turn at first; [] where the file does not say.
        said: in a later turn, the model's own answers so far, and what was asked behind each.
        reference: "" where there is none.
    """

    record: int
    question: list[Message]
    answer: str
    reference: str
    said: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Answers:
    """All answers of a model, by the number of the question."""

    model: str
    sha256: str
    rows: dict[int, Answer]


def read_answers(
    paths: list[str], flag: str, answer_field: str = "answer", reference_field: str = "reference"
) -> list[Answers]:
    """The answers of each model in the files.

    Raises:
        UserError: a file that can not be read or is not of that form; one that is named twice.
    """
    found: list[Answers] = []
    for name in paths:
        path = Path(name).expanduser()
        path = path / ROWS if path.is_dir() else path
        lines, sha256 = _read(path, name, flag)
        models = list(dict.fromkeys(line.get("model", "") for line in lines))
        for model in models:
            label = f"{name}: {model}" if model and len(paths) > 1 else model or name
            own = [(number, line) for number, line in enumerate(lines, 1) if line.get("model", "") == model]
            rows = [_answer(line, f"{flag} {name} line {number}", answer_field, reference_field)
                    for number, line in own]  # fmt: skip
            rows = _with_turns(rows, [line for _, line in own])
            by_record = {row.record: row for row in rows}
            if len(by_record) < len(rows):
                raise UserError(
                    f"{flag} {name} answers a record twice: give each answer a file or a record of its own."
                )
            found.append(Answers(label, sha256, by_record))
    if twice := {one.model for one in found if [other.model for other in found].count(one.model) > 1}:
        raise UserError(f"{flag} names {twice.pop()} twice; name it once.")
    return found


def _with_turns(rows: list[Answer], lines: list[dict[str, Any]]) -> list[Answer]:
    """The rows, those of later turns with the first question and what was said since."""
    by_record, found = {row.record: row for row in rows}, []
    for row, line in zip(rows, lines, strict=True):
        first, turn = line.get("question"), line.get("turn")
        before = [by_record.get(first + n) for n in range(turn)] if type(first) is int and type(turn) is int else []
        if not before or None in before:
            found.append(row)
            continue
        said: list[Message] = []
        for one, following in zip(before, [*before[1:], row], strict=True):
            said += [{"role": "assistant", "content": one.answer}, *following.question]
        found.append(replace(row, question=before[0].question, said=tuple(said)))
    return found


def _read(path: Path, name: str, flag: str) -> tuple[list[dict[str, Any]], str]:
    try:
        raw = read_bounded(path, MOST_TEXT, pipes=True)
        lines = [json.loads(line) for line in raw.decode("utf-8-sig").splitlines() if line.strip()]
    except UserError as error:
        raise UserError(f"{flag} {error} Expected a file of answers.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{flag} {name} is no file of JSON lines: expected answers as generate.py writes them."
        ) from error
    if not lines or not all(isinstance(line, dict) for line in lines):
        raise UserError(f"{flag} {name} holds no answers: expected lines as generate.py --data_path writes them.")
    return lines, hashlib.sha256(raw).hexdigest()


def _answer(line: dict[str, Any], where: str, answer_field: str, reference_field: str) -> Answer:
    answer, reference = line.get(answer_field), line.get(reference_field)
    if not isinstance(answer, str):
        has = ", ".join(line)
        raise UserError(f"{where} has no text in {answer_field}; it has {has}. Name its field by --answer_field.")
    number = line.get("record") if type(line.get("record")) is int else line.get("row")
    if type(number) is not int:
        raise UserError(f"{where} has no number in row or record, by which answers of other models are found.")
    return Answer(number, _question(line), answer, reference if isinstance(reference, str) else "")


def _question(line: dict[str, Any]) -> list[Message]:
    """What was asked: the messages, or those of the record as it stood in its file."""
    if isinstance(line.get("messages"), list):
        return line["messages"]
    try:
        return to_question(line.get("record"), "chat")[0]
    except BadRow:
        return []
