"""Records on disk -> dialogues -> tokenised examples; the held-out part; the order of training.

A record is checked when it is read, before anything heavy is loaded: what cannot be learnt from is refused with
its file, line and field, or left out and counted. The order of training is a pure function of (seed, epoch,
lengths, total batch): ranks, micro batches and restarts can not change it.
"""

import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vicuna.data.formats import BadRow, to_messages
from vicuna.errors import UserError
from vicuna.prompt.templates import IGNORE_INDEX, Message, encode

if TYPE_CHECKING:
    from vicuna.prompt.tokenizer import TextTokenizer

# The held-out records are the same for every --seed, so that runs can be compared; 42 as in the original.
SPLIT_SEED = 42
SHOWN_BAD_ROWS = 10
ENCODINGS = ("utf-8", "gb18030")


@dataclass
class Source:
    """One data file.

    Attributes:
        weight: how often its training records come in an epoch.
        rows: usable records; bad: reason -> how many malformed rows were left out for it.
        encoding: how the file's bytes became text.
        sha256: of the file's bytes.
    """

    path: Path
    weight: float = 1
    rows: int = 0
    bad: Counter = field(default_factory=Counter)
    encoding: str = ""
    sha256: str = ""


@dataclass
class Records:
    """What the data files hold, in their order.

    Attributes:
        dialogues: one list of messages a record, the last message being the answer to learn.
        lines: line number of each record in its file, from 1.
        source_ids: index in `sources` of each record's file.
    """

    sources: list[Source] = field(default_factory=list)
    dialogues: list[list[Message]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    source_ids: list[int] = field(default_factory=list)

    @property
    def bad(self) -> Counter:
        """Reason -> how many malformed rows were left out for it."""
        return sum((source.bad for source in self.sources), Counter())

    @property
    def encoding(self) -> str:
        return ", ".join(dict.fromkeys(source.encoding for source in self.sources))

    @property
    def sha256(self) -> str:
        """Of all files' bytes, their order and weights; that of the file itself where there is one, of weight 1."""
        parts = [(source.sha256, source.weight) for source in self.sources]
        return parts[0][0] if len(parts) == 1 and parts[0][1] == 1 else hashlib.sha256(repr(parts).encode()).hexdigest()

    def location(self, i: int) -> str:
        """Where record `i` stands, as messages name it."""
        return f"{self.sources[self.source_ids[i]].path} line {self.lines[i]}"

    def resample(self, chosen: Sequence[int]) -> list[int]:
        """The chosen records as often as their files' weights say, a part of a file drawn once for all seeds.

        Raises:
            UserError: a weight so small that nothing of its file is left.
        """
        rows = []
        for number, source in enumerate(self.sources):
            own = [i for i in chosen if self.source_ids[i] == number]
            times, share = divmod(source.weight, 1)
            drawn = random.Random(SPLIT_SEED).sample(own, round(share * len(own)))
            if own and not (times or drawn):
                raise UserError(
                    f"--data_path {source.path}:{source.weight:g} leaves none of the {len(own)} training records of "
                    "that file; raise its weight, or leave it out."
                )
            rows += sorted(own * int(times) + drawn)
        return rows


def read_records(
    paths: str | Path | Sequence[str], prompt_type: str, skip_bad_rows: bool = False, encoding: str | None = None
) -> Records:
    """Read and check data files, each a path or `path:weight`.

    Raises:
        UserError: no such file, an unknown kind of file or encoding, no rows, a weight that is none, or malformed
            rows (the first ten are listed) unless `skip_bad_rows`.
    """
    records, problems = Records(), []
    for source in open_sources(paths):
        text = read_text(source, encoding)
        for line, row in parse_rows(text, source.path.suffix):
            try:
                if isinstance(row, BadRow):
                    raise row
                records.dialogues.append(to_messages(row, prompt_type))
                records.lines.append(line)
            except BadRow as problem:
                problems.append(f"{source.path} line {line}: {problem}")
                source.bad[problem.reason] += 1
        source.rows = len(records.lines) - len(records.source_ids)
        records.source_ids += [len(records.sources)] * source.rows
        records.sources.append(source)
    if problems and not skip_bad_rows:
        shown = "\n  ".join(problems[:SHOWN_BAD_ROWS])
        more = f"\n  … and {len(problems) - SHOWN_BAD_ROWS} more" if len(problems) > SHOWN_BAD_ROWS else ""
        files = records.sources[0].path if len(records.sources) == 1 else f"{len(records.sources)} files"
        raise UserError(
            f"{len(problems)} of {len(problems) + len(records.lines)} rows of {files} can not be used:\n  "
            f"{shown}{more}\n"
            "Mend them, or leave them out with --skip_bad_rows."
        )
    for source in records.sources:
        if not source.rows:
            raise UserError(f"--data_path {source.path} has no usable rows; expected at least one record.")
    return records


def open_sources(paths: str | Path | Sequence[str]) -> list[Source]:
    """The files of --data_path, each a path or `path:weight`, with their hashes.

    Raises:
        UserError: no such file, an unknown kind of file, one named twice, or a weight that is none.
    """
    sources, seen = [], set()
    for name in [paths] if isinstance(paths, str | Path) else paths:
        source = parse_source(str(name))
        path = source.path
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise UserError(f"--data_path {path} {what}; expected a .json, .jsonl or .txt file.")
        if path.suffix not in (".json", ".jsonl", ".txt"):
            raise UserError(f"--data_path {path} ends in {path.suffix!r}; expected a .json, .jsonl or .txt file.")
        if path.resolve() in seen:
            raise UserError(
                f"--data_path names {path} twice, so that records held out could be trained on; name it once, with a "
                f"weight: {path}:2."
            )
        seen.add(path.resolve())
        with path.open("rb") as opened:
            source.sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        sources.append(source)
    return sources


def parse_source(name: str) -> Source:
    """A file and its weight; a path that exists as it is spelt is not taken apart."""
    path, _, weight = name.rpartition(":")
    if Path(name).exists() or not path or not Path(path).is_file():
        return Source(Path(name))
    try:
        found = float(weight)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise UserError(f"--data_path {name}: {weight!r} is not a weight; expected a number above 0, as in {path}:2.")
    return Source(Path(path), found)


def read_text(source: Source, encoding: str | None = None) -> str:
    """The text of a data file; its encoding is noted in `source`.

    Raises:
        UserError: an unknown encoding.
    """
    text, source.encoding = _decode(source.path.read_bytes(), source.path, encoding)
    return text


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
        rows: a datasets.Dataset with input_ids, labels, record (its index in the records), source and line (the index
            of its file, and the line it begins at).
        lengths: tokens of each row; supervised: labels that count.
        cut: rows whose answer lost its end; shortened: rows that lost earlier turns; left_out: records with no answer
            token within cutoff_len.
        unknown: tokens that are the tokenizer's unk.
        sha256: of all ids and labels.
    """

    rows: Any
    lengths: list[int]
    supervised: int
    cut: int
    shortened: int
    left_out: int
    unknown: int
    sha256: str


def tokenise(
    tokenizer: "TextTokenizer",
    records: Records,
    chosen: Sequence[int],
    prompt_type: str,
    cutoff_len: int,
    train_on_inputs: bool = False,
    train_turns: str = "last",
) -> Examples:
    """Turn the chosen records into examples, a repeated one into as many rows; a progress bar runs on a terminal.

    Raises:
        UserError: not one of the chosen records has an answer token within `cutoff_len`.
    """
    import numpy as np
    from datasets import Dataset
    from tqdm import tqdm

    columns: dict[str, list] = {"input_ids": [], "labels": [], "record": [], "source": [], "line": []}
    cut = shortened = unknown = supervised = 0
    digest = hashlib.sha256()
    previous, example = None, None
    for i in tqdm(chosen, desc="Tokenising", unit="record", disable=None, leave=False):
        if i != previous:  # repetitions of a record stand beside each other
            example = encode(tokenizer, prompt_type, records.dialogues[i], cutoff_len, train_on_inputs, train_turns)
            previous = i
        if example is None:
            continue
        cut += example.cut
        shortened += example.shortened
        unknown += example.input_ids.count(tokenizer.unk_id)
        labels = np.asarray(example.labels, dtype=np.int32)
        supervised += int((labels != IGNORE_INDEX).sum())
        ids = np.asarray(example.input_ids, dtype=np.int32)
        for values in (ids, labels):
            digest.update(len(values).to_bytes(8, "little") + values.tobytes())
        columns["input_ids"].append(ids)
        columns["labels"].append(labels)
        columns["record"].append(i)
        columns["source"].append(records.source_ids[i])
        columns["line"].append(records.lines[i])
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
        shortened=shortened,
        left_out=len(chosen) - kept,
        unknown=unknown,
        sha256=digest.hexdigest(),
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


def label_spans(input_ids: Sequence[int], labels: Sequence[int]) -> list[tuple[bool, list[int]]]:
    """An example as runs of ids that are learnt, True, and that are not; BOS is left away."""
    pairs = list(zip(input_ids, labels, strict=True))[1:]
    runs = groupby(pairs, key=lambda pair: pair[1] != IGNORE_INDEX)
    return [(trained, [i for i, _ in run]) for trained, run in runs]
