"""Records: what the data files hold, how often each file counts, and which of them are held out.

A record is checked when it is read, before anything heavy is loaded: what cannot be learnt from is refused with its
file, line and field, or left out and counted.
"""

import hashlib
import math
import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, MutableSequence, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vicuna.data.bad_row import SHOWN_BAD_ROWS, told_once
from vicuna.data.files import EXPECTED, file_kind, read_rows
from vicuna.data.fills import check_fills, parse_fills
from vicuna.data.row_check import CheckedRow, RowCheck
from vicuna.data.spilled import SpilledDialogues
from vicuna.data.suspicions import suspicions
from vicuna.data.workers import Workers
from vicuna.errors import UserError
from vicuna.foreign.paths import open_regular, what_stands_there
from vicuna.prompt.templates import BASE, Message, with_tools

if TYPE_CHECKING:
    from vicuna.prompt.tokenizer import TextTokenizer

# The held-out records are the same for every --seed, so that runs can be compared; 42 as in the original.
SPLIT_SEED = 42
FIRST_LOOK_BYTES = 16 << 20  # of files whose rows are read before anything heavy is loaded: a second or two
# Rows that records are repeated to, and how often they may be at any number of rows: all of them are written to the
# cache, and a day of training sees fewer.
MOST_ROWS, MOST_TIMES = 20_000_000, 100


@dataclass
class Source:
    """One data file.

    Attributes:
        weight: how often its training records come in an epoch.
        rows: usable records; bad: reason -> how many malformed rows were left out for it.
        suspicious: kind -> how many usable records hold something of it, see `vicuna.data.suspicions`.
        encoding: how the file's bytes became text.
        sha256: of the file's bytes.
    """

    path: Path
    weight: float = 1
    rows: int = 0
    bad: Counter = field(default_factory=Counter)
    suspicious: Counter = field(default_factory=Counter)
    encoding: str = ""
    sha256: str = ""

    def as_json(self) -> dict[str, Any]:
        """The same in types that JSON has."""
        return {**vars(self), "path": str(self.path), "bad": dict(self.bad), "suspicious": dict(self.suspicious)}


@dataclass
class Records:
    """What the data files hold, in their order.

    Attributes:
        dialogues: one list of messages a record, the last message being the answer to learn.
        lines: line number of each record in its file, from 1.
        source_ids: index in `sources` of each record's file.
    """

    sources: list[Source] = field(default_factory=list)
    dialogues: list[list[Message]] | SpilledDialogues = field(default_factory=list)
    lines: MutableSequence[int] = field(default_factory=list)
    source_ids: MutableSequence[int] = field(default_factory=list)

    def add(self, messages: list[Message], line: int) -> dict[str, str]:
        """Add a record of the last of the sources; what is suspicious in it."""
        self.dialogues.append(messages)
        found = suspicions(messages)
        self._count(line, found.keys())
        return found

    def take(self, row: CheckedRow) -> None:
        """Add a record of the last of the sources, or count it as malformed."""
        if row.reason:
            self.sources[-1].bad[row.reason] += 1
            return
        if isinstance(row.messages, bytes):
            self.dialogues.append_json(row.messages)
        else:
            self.dialogues.append(row.messages)
        self._count(row.line, row.suspicious)

    def _count(self, line: int, suspicious: Iterable[str]) -> None:
        self.lines.append(line)
        self.source_ids.append(len(self.sources) - 1)
        self.sources[-1].rows += 1
        self.sources[-1].suspicious.update(suspicious)

    @property
    def bad(self) -> Counter:
        """Reason -> how many malformed rows were left out for it."""
        return sum((source.bad for source in self.sources), Counter())

    @property
    def suspicious(self) -> Counter:
        """Kind -> how many usable records hold something of it."""
        return sum((source.suspicious for source in self.sources), Counter())

    @property
    def encoding(self) -> str:
        return ", ".join(dict.fromkeys(source.encoding for source in self.sources))

    @property
    def sha256(self) -> str:
        """Of all files' bytes, their order and weights; that of the file itself where there is one, of weight 1."""
        parts = [(source.sha256, source.weight) for source in self.sources]
        return parts[0][0] if len(parts) == 1 and parts[0][1] == 1 else hashlib.sha256(repr(parts).encode()).hexdigest()

    def resample(self, chosen: Sequence[int]) -> list[int]:
        """The chosen records as often as their files' weights say, a part of a file drawn once for all seeds.

        Raises:
            UserError: a weight so small that nothing of its file is left, or so large that no run would end.
        """
        rows: list[int] = []
        by_source: list[list[int]] = [[] for _ in self.sources]
        for i in chosen:
            by_source[self.source_ids[i]].append(i)
        for source, own in zip(self.sources, by_source, strict=True):
            if source.weight > MOST_TIMES and source.weight * len(own) > MOST_ROWS:
                raise UserError(
                    f"--data_path {source.path}:{source.weight:g} gives {source.weight * len(own):.4g} training rows "
                    f"of the {len(own)} records of that file; expected at most {MOST_ROWS:,}. Lower its weight."
                )
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
    paths: str | Path | Sequence[str],
    prompt_type: str,
    skip_bad_rows: bool = False,
    encoding: str | None = None,
    fields: Sequence[str] = (),
    dialogues: SpilledDialogues | None = None,
    fills: Sequence[str] = (),
    refuse: Callable[[list[Message]], str] | None = None,
    workers: Workers | None = None,
) -> Records:
    """Read and check data files, each a path or `path:weight`; `fields` are those of `vicuna.data.fields`.

    Args:
        dialogues: takes them, in place of memory.
        fills: of placeholders, see `vicuna.data.fills`.
        refuse: what further is wrong with a dialogue, "" for nothing; see `refusal`.
        workers: check the rows, in place of this process.

    Raises:
        UserError: no such file, an unknown kind of file or encoding, no rows, a weight that is none, malformed rows
            (the first ten are listed) unless `skip_bad_rows`, or a placeholder that is in none of them.
    """
    records, problems = Records(), []
    if dialogues is not None:  # of very many: eight bytes each in place of a number of its own
        records = Records(dialogues=dialogues, lines=array("q"), source_ids=array("i"))
    filled: set[str] = set()
    check = RowCheck(prompt_type, parse_fills(fills), refuse, spills=dialogues is not None)
    for source in open_sources(paths):
        source.encoding, rows = read_rows(source.path, encoding, fields)
        records.sources.append(source)
        for row in (workers or Workers()).each(check, rows):
            records.take(row)
            filled.update(row.filled)
            if row.reason and len(problems) < SHOWN_BAD_ROWS:
                problems.append(f"{source.path} line {row.line}: {row.problem}")
    if not skip_bad_rows:
        bad = sum(records.bad.values())
        check_problems(problems, bad, bad + len(records.lines), records.sources)
    for source in records.sources:
        if not source.rows:
            raise UserError(f"--data_path {source.path} has no usable rows; expected at least one record.")
    check_fills(fills, filled)
    return records


def refusal(tokenizer: "TextTokenizer", prompt_type: str) -> Callable[[list[Message]], str] | None:
    """What the base's own chat template has against a dialogue, which is known only when it is rendered.

    Returns:
        What tells why a dialogue can not be learnt, "" where it can; None for prompt types of our own.

    Raises:
        UserError: there is no template, or one that renders no question at all.
    """
    if prompt_type != BASE or tokenizer.chat is None:
        return None
    if tokenizer.chat.problem:
        raise UserError(f"{tokenizer.chat.problem} Take another --prompt_type, such as chat.")
    return Refusal(tokenizer)


@dataclass(frozen=True)
class Refusal:
    """See `refusal`."""

    tokenizer: "TextTokenizer"

    def __call__(self, messages: list[Message]) -> str:
        view = with_tools(self.tokenizer, messages)
        if (messages[0].get("tools") or any(one.get("tool_calls") for one in messages)) and not view.chat.knows_tools:
            return f"calls functions, which the chat template in {view.chat.path} does not know"
        try:
            view.chat.turn(messages)
        except UserError as error:
            return f"does not fit: {error}"
        return ""


def check_problems(problems: Sequence[str], bad: int, rows: int, sources: Sequence[Source]) -> None:
    """Refuse files some of whose rows can not be used.

    Args:
        problems: place and reason of such rows, of the first ten at least.
        bad: how many such rows there are; rows: how many there are together.

    Raises:
        UserError: with the first ten.
    """
    if not problems:
        return
    more = f"\n  … and {bad - SHOWN_BAD_ROWS} more" if bad > SHOWN_BAD_ROWS else ""
    files = sources[0].path if len(sources) == 1 else f"{len(sources)} files"
    raise UserError(
        f"{bad} of {rows} rows of {files} can not be used:\n{told_once(problems, '  ')}{more}\n"
        "Mend them, or leave them out with --skip_bad_rows."
    )


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
            raise UserError(f"--data_path {path} {what_stands_there(path)}; expected {EXPECTED}.")
        if not file_kind(path):
            raise UserError(f"--data_path {path} ends in {path.suffix!r}; expected {EXPECTED}.")
        if path.resolve() in seen:
            raise UserError(
                f"--data_path names {path} twice, so that records held out could be trained on; name it once, with a "
                f"weight: {path}:2."
            )
        seen.add(path.resolve())
        with open_regular(path) as opened:
            source.sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        sources.append(source)
    return sources


def quick_to_read(sources: Sequence[Source]) -> bool:
    """Whether all rows can be looked at first, and be read again later."""
    return sum(source.path.stat().st_size for source in sources) <= FIRST_LOOK_BYTES


def parse_source(name: str) -> Source:
    """A file and its weight; a path that exists as it is spelt is not taken apart."""
    path, _, weight = name.rpartition(":")
    if Path(name).exists() or not path or not Path(path).is_file():
        return Source(Path(name))
    try:
        found = float(weight)
    except ValueError:
        found = math.nan
    if not 0 < found <= MOST_ROWS:
        raise UserError(
            f"--data_path {name}: {weight!r} is not a weight; expected a number above 0 and at most {MOST_ROWS:,}, as "
            f"in {path}:2."
        )
    return Source(Path(path), found)


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
