"""Records on disk -> dialogues -> tokenised examples; the held-out part; the order of training.

A record is checked when it is read, before anything heavy is loaded: what cannot be learnt from is refused with
its file, line and field, or left out and counted. The order of training is a pure function of (seed, epoch,
lengths, total batch): ranks, micro batches and restarts can not change it.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vicuna.errors import UserError
from vicuna.prompt import IGNORE_INDEX, Message, encode

if TYPE_CHECKING:
    from vicuna.tokenizer import TextTokenizer

# The held-out records are the same for every --seed, so that runs can be compared; 42 as in the original.
SPLIT_SEED = 42
SHOWN_BAD_ROWS = 10
ENCODINGS = ("utf-8", "gb18030")


@dataclass
class Records:
    """What one data file holds.

    Attributes:
        dialogues: one list of messages a record, the last message being the answer to learn.
        lines: line number of each record in the file, from 1.
        encoding: how the file's bytes became text.
        bad: reason -> how many malformed rows were left out for it.
        sha256: of the file's bytes.
    """

    path: Path
    dialogues: list[list[Message]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    encoding: str = ""
    bad: Counter = field(default_factory=Counter)
    sha256: str = ""


class BadRow(Exception):
    """Why a row can not be used: what was found in which field, and the reason in a word or two for counting."""

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


def read_records(
    path: str | Path, prompt_type: str, skip_bad_rows: bool = False, encoding: str | None = None
) -> Records:
    """Read and check a data file.

    Raises:
        UserError: no such file, an unknown kind of file or encoding, no rows, or malformed rows (the first ten
            are listed) unless `skip_bad_rows`.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"--data_path {path} {what}; expected a .json, .jsonl or .txt file.")
    if path.suffix not in (".json", ".jsonl", ".txt"):
        raise UserError(f"--data_path {path} ends in {path.suffix!r}; expected a .json, .jsonl or .txt file.")
    raw = path.read_bytes()
    text, used = _decode(raw, path, encoding)
    records, problems = Records(path, encoding=used, sha256=hashlib.sha256(raw).hexdigest()), []
    for line, row in _rows(text, path.suffix):
        try:
            if isinstance(row, BadRow):
                raise row
            records.dialogues.append(dialogue(row, prompt_type))
            records.lines.append(line)
        except BadRow as problem:
            problems.append(f"{path} line {line}: {problem}")
            records.bad[problem.reason] += 1
    if problems and not skip_bad_rows:
        shown = "\n  ".join(problems[:SHOWN_BAD_ROWS])
        more = f"\n  … and {len(problems) - SHOWN_BAD_ROWS} more" if len(problems) > SHOWN_BAD_ROWS else ""
        raise UserError(
            f"{len(problems)} of {len(problems) + len(records.lines)} rows of {path} can not be used:\n  "
            f"{shown}{more}\n"
            "Mend them, or leave them out with --skip_bad_rows."
        )
    if not records.dialogues:
        raise UserError(f"--data_path {path} has no usable rows; expected at least one record.")
    return records


def _decode(raw: bytes, path: Path, encoding: str | None) -> tuple[str, str]:
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


def _rows(text: str, suffix: str) -> Iterator[tuple[int, Any]]:
    """(line number, parsed row or BadRow) of every row of a file."""
    if suffix == ".txt":
        yield from _documents(text)
    elif text.lstrip().startswith("["):
        yield from _array_items(text)
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError as error:  # not JSON, or a number of thousands of digits
                    yield number, BadRow(f"is not a JSON object: {_where(error)}", "not JSON")


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


def dialogue(row: Any, prompt_type: str) -> list[Message]:
    """The messages of one parsed row, told by its keys.

    Raises:
        BadRow: what is wrong with the row.
    """
    if not isinstance(row, dict):
        raise BadRow(f"is a {_kind(row)}; expected an object with instruction and output", "not an object")
    if "text" in row and "instruction" not in row:
        if prompt_type != "text":
            raise BadRow("has a field text, which is learnt as it is: use --prompt_type text", "plain text")
        return [{"role": "assistant", "content": _string(row, "text")}]
    if "instruction" not in row or "output" not in row:
        keys = ", ".join(map(repr, row)) or "no fields"
        raise BadRow(f"has {keys}; expected instruction, optional input, and output", "fields missing")
    if row.get("history"):
        raise BadRow("field history holds earlier turns, which an instruction record can not keep", "history")
    question: Message = {"role": "user", "content": _string(row, "instruction")}
    if not (row.get("input") is None or (isinstance(row["input"], str) and not row["input"].strip())):
        question["input"] = _string(row, "input")
    return [question, {"role": "assistant", "content": _string(row, "output")}]


def _string(row: dict, name: str) -> str:
    value = row[name]
    if not isinstance(value, str):
        raise BadRow(f"field {name} is a {_kind(value)}: {str(value)[:40]!r}; expected text", f"{name} is not text")
    if not value.strip():
        raise BadRow(f"field {name} is empty; expected text", f"{name} is empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"\\u{ord(value[error.start]):04x}"
        raise BadRow(
            f"field {name} holds half a character ({found}); expected whole text", "half a character"
        ) from None
    return value


def _kind(value: Any) -> str:
    names = {list: "list", dict: "object", str: "text", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def hold_out(count: int, test_size: int | None) -> tuple[list[int], list[int]]:
    """Indices of the training and of the held-out records, each in file order.

    Args:
        test_size: records to hold out; None for 5 % of them, at most 200.

    Raises:
        UserError: nothing would be left to train on.
    """
    if test_size is None:
        test_size = min(200, count * 5 // 100)
    if test_size >= count:
        raise UserError(
            f"--test_size {test_size} leaves nothing to train on: there are {count} records. Lower it, or pass "
            "--test_size 0."
        )
    held = set(random.Random(SPLIT_SEED).sample(range(count), test_size))
    return [i for i in range(count) if i not in held], sorted(held)


@dataclass
class Examples:
    """Tokenised records and what became of the others.

    Attributes:
        rows: a datasets.Dataset with input_ids, labels and record (its index in the file).
        lengths: tokens of each row; supervised: labels that count.
        cut: records whose answer lost its end; left_out: records with no answer token within cutoff_len.
        unknown: tokens that are the tokenizer's unk.
    """

    rows: Any
    lengths: list[int]
    supervised: int
    cut: int
    left_out: int
    unknown: int


def tokenise(
    tokenizer: "TextTokenizer",
    records: Records,
    chosen: Sequence[int],
    prompt_type: str,
    cutoff_len: int,
    train_on_inputs: bool = False,
) -> Examples:
    """Turn the chosen records into examples; a progress bar runs on a terminal.

    Raises:
        UserError: not one of the chosen records has an answer token within `cutoff_len`.
    """
    import numpy as np
    from datasets import Dataset
    from tqdm import tqdm

    columns: dict[str, list] = {"input_ids": [], "labels": [], "record": []}
    cut = unknown = supervised = 0
    for i in tqdm(chosen, desc="Tokenising", unit="record", disable=None, leave=False):
        example = encode(tokenizer, prompt_type, records.dialogues[i], cutoff_len, train_on_inputs)
        if example is None:
            continue
        cut += example.cut
        unknown += example.input_ids.count(tokenizer.unk_id)
        labels = np.asarray(example.labels, dtype=np.int32)
        supervised += int((labels != IGNORE_INDEX).sum())
        columns["input_ids"].append(np.asarray(example.input_ids, dtype=np.int32))
        columns["labels"].append(labels)
        columns["record"].append(i)
    kept = len(columns["record"])
    if chosen and not kept:
        raise UserError(
            f"--cutoff_len {cutoff_len} leaves no answer in any of the {len(chosen)} records: their prompts alone are "
            "longer. Raise it."
        )
    return Examples(
        rows=Dataset.from_dict(columns),
        lengths=[len(ids) for ids in columns["input_ids"]],
        supervised=supervised,
        cut=cut,
        left_out=len(chosen) - kept,
        unknown=unknown,
    )


def epoch_order(seed: int, epoch: int, lengths: Sequence[int], total_batch: int) -> list[list[int]]:
    """The rows of every optimizer step of an epoch: `total_batch` each, the last takes what is left.

    Rows are drawn at random; within a step they are sorted by length, longest first, so that micro batches hold
    rows of like length. A step's gradient is a sum over its rows, so this order within it costs nothing.
    """
    order = list(range(len(lengths)))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    steps = [order[start : start + total_batch] for start in range(0, len(order), total_batch)]
    return [sorted(step, key=lambda row: (-lengths[row], row)) for step in steps]


def rank_batches(step: Sequence[int], micro_batch: int, world_size: int, rank: int) -> list[list[int]]:
    """This rank's micro batches of a step; every rank has equally many, and one may be empty.

    Slot k holds the next `micro_batch * world_size` rows, dealt to the ranks in turn: neighbours in length run
    at the same time.
    """
    width = micro_batch * world_size
    return [list(step[start : start + width][rank::world_size]) for start in range(0, len(step), width)]
