"""Questions from the files of C-Eval, CMMLU and AGIEval, in the layout in which each is published.

    CMMLU     {dev,test}/SUBJECT.csv                 ,Question,A,B,C,D,Answer
    C-Eval    {dev,val,test}/SUBJECT_{dev,val,test}.csv    id,question,A,B,C,D,answer[,explanation]
    AGIEval   SUBJECT.jsonl                          passage, question, options, label

Known defects are met: labels of several letters, as a list or as text in several spellings, and none at all; options
whose letters are written in several ways, or stand in another order, in which case the label means the letter.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vicuna.errors import UserError, listing
from vicuna.foreign.paths import read_text
from vicuna.foreign.typed import parse

CMMLU, CEVAL, AGIEVAL = "CMMLU", "C-Eval", "AGIEval"
LETTERS = "ABCDEFG"
DEV = "dev"
NO_LABEL, ODD_LABEL = "no right answer is given", "the right answer is none of the options"
_PRINTED = re.compile(r"\s*+(?:[(（]\s*+)?([A-G])(?![A-Za-z])")  # "(A) …", "A．…", "  A …"


@dataclass(frozen=True)
class Question:
    """A question and its options.

    Attributes:
        name: the line that it ends on.
        options: as they stand in the file; letters: by which each is called.
        right: letters of the right ones.
    """

    name: str
    stem: str
    options: tuple[str, ...]
    letters: str
    right: str
    passage: str = ""


@dataclass
class Subject:
    """What is asked about a subject.

    Attributes:
        examples: with their answers, to show before a question.
        left_out: why questions of the files are not asked, counted.
    """

    name: str
    questions: list[Question]
    examples: list[Question] = field(default_factory=list)
    left_out: Counter = field(default_factory=Counter)


@dataclass(frozen=True)
class Suite:
    """An examination: `name` is one of CMMLU, CEVAL, AGIEVAL; `split` the part that is asked."""

    name: str
    split: str
    subjects: list[Subject]
    no_choice: tuple[str, ...] = ()


def check_folder(folder: Path) -> None:
    """See that a folder of questions is there.

    Raises:
        UserError: it is not.
    """
    if not folder.is_dir():
        raise UserError(f"--data_path {folder} is no folder; expected that of C-Eval, CMMLU or AGIEval.")


def read_suite(folder: Path, split: str | None = None, wanted: list[str] | None = None) -> Suite:
    """Read the questions of a folder, in the order of the subjects' names.

    Args:
        split: of C-Eval.
        wanted: subjects, where not all.

    Raises:
        UserError: a folder of another layout; a subject that is not there; files that can not be read.
    """
    check_folder(folder)
    name = _layout(folder)
    if split and name != CEVAL:
        raise UserError(f"--split {split} is for C-Eval, and {folder} holds {name}; leave it out.")
    split = split or {CEVAL: "val", CMMLU: "test"}.get(name, "")
    pattern = {CMMLU: f"{split}/*.csv", CEVAL: f"{split}/*_{split}.csv", AGIEVAL: "*.jsonl"}[name]
    files = {file.stem.removesuffix(f"_{split}"): file for file in sorted(folder.glob(pattern))}
    if not files:
        raise UserError(f"--data_path {folder} has no {pattern}; found {listing(folder)}.")
    if unknown := [one for one in wanted or [] if one not in files]:
        raise UserError(f"--subjects {unknown[0]} is not in {folder}; there are {', '.join(files)}.")
    subjects = [_subject(name, one, file, split) for one, file in files.items() if not wanted or one in wanted]
    chosen = [one for one in subjects if one is not None]
    if not chosen:
        raise UserError(f"--data_path {folder}: none of its files has options to choose from.")
    missing = tuple(one for one in wanted or files if one not in {subject.name for subject in chosen})
    return Suite(name, split, chosen, missing)


def _layout(folder: Path) -> str:
    if any(folder.glob("*/*_val.csv")) or any(folder.glob("test/*_test.csv")):
        return CEVAL
    if any(folder.glob("test/*.csv")):
        return CMMLU
    if any(folder.glob("*.jsonl")):
        return AGIEVAL
    raise UserError(
        f"--data_path {folder} is neither C-Eval (val/SUBJECT_val.csv) nor CMMLU (test/SUBJECT.csv) nor AGIEval "
        f"(SUBJECT.jsonl); found {listing(folder)}."
    )


def _subject(suite: str, name: str, file: Path, split: str) -> Subject | None:
    """None for a file without options, such as AGIEval's mathematics with numbers for answers."""
    found = Subject(name, [])
    if suite == AGIEVAL:
        rows = list(_json_rows(file))
        if not any(row.get("options") for _, row in rows):
            return None
        found.questions = _usable(rows, _agieval, file, found.left_out)
    else:
        found.questions = _usable(_csv_rows(file, split), _spreadsheet, file, found.left_out)
        suffix = f"_{DEV}" if suite == CEVAL else ""
        if (examples := file.parent.parent / DEV / f"{name}{suffix}.csv").is_file():
            found.examples = _usable(_csv_rows(examples, DEV), _spreadsheet, examples, Counter())
    if not found.questions:
        raise UserError(f"{file} has no question with a right answer.")
    return found


def _usable(rows: Any, make: Callable[[int, Mapping[str, Any]], Question], file: Path, left_out: Counter) -> list:
    found = []
    for line, row in rows:
        try:
            question = make(line, row)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise UserError(f"{file} line {line} lacks a question, its options or its answer ({error!r}).") from error
        if not question.right:
            left_out[NO_LABEL] += 1
        elif not set(question.right) <= set(question.letters):
            left_out[ODD_LABEL] += 1
        else:
            found.append(question)
    return found


def _spreadsheet(line: int, row: Mapping[str, Any]) -> Question:
    """A row of C-Eval or CMMLU, its columns in lower case but for the options'."""
    options = tuple(row[letter].strip() for letter in "ABCD")
    return Question(str(line), row["question"].strip(), options, "ABCD", read_label(row["answer"]))


def _agieval(line: int, row: Mapping[str, Any]) -> Question:
    options = tuple(row["options"])
    letters = option_letters(options)
    return Question(str(line), row["question"], options, letters, read_label(row["label"]), row["passage"] or "")


def read_label(label: Any) -> str:
    """Letters of the right options, in their order: of `"A"`, `"A B D"`, `"ACD"`, `["A", "C"]`; "" of none."""
    text = "".join(label) if isinstance(label, list) else label or ""
    return "".join(sorted(set(re.sub(r"[\s,，、]+", "", text))))


def option_letters(options: tuple[str, ...]) -> str:
    """What each option is called: by the letter that it begins with, where all do, and by its place otherwise."""
    expected = LETTERS[: len(options)]
    printed = "".join(found[1] for one in options if (found := _PRINTED.match(one)))
    return printed if sorted(printed) == list(expected) else expected


def _csv_rows(file: Path, split: str) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(io.StringIO(_text(file), newline=""))
    heads = {name: name if name in tuple(LETTERS) else name.lower() or "id" for name in reader.fieldnames or ()}
    if "question" in heads.values() and "answer" not in heads.values() and split == "test":
        raise UserError(
            f"{file} has no answers, as C-Eval's test files had none until 2025: take --split val, or files of test "
            "with a column answer."
        )
    for row in reader:
        yield reader.line_num, {heads[name]: value for name, value in row.items() if name in heads}


def _json_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in enumerate(_text(file).split("\n"), 1):
        if not text.strip():
            continue
        row = parse(text.encode("utf-8"), f"{file} line {line}")
        if not isinstance(row, dict):
            raise UserError(f"{file} line {line} is not a JSON object.")
        yield line, row


def _text(file: Path) -> str:
    return read_text(file)
