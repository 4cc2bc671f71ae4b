"""Records -> tokenised examples, and what of an example is learnt.

A record becomes an example of at most `cutoff_len` tokens, a dialogue in some templates one for each answer; what was
cut, shortened or left out is counted.
"""

import hashlib
import sys
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vicuna.data.packing import PackedRow, Packer
from vicuna.data.records import Records
from vicuna.data.spilled import SpilledDialogues, unspilled
from vicuna.data.workers import Workers
from vicuna.errors import UserError
from vicuna.prompt.own_template import split_thought
from vicuna.prompt.templates import BASE, IGNORE_INDEX, Message, encode_all

if TYPE_CHECKING:
    from vicuna.prompt.tokenizer import TextTokenizer

BATCH = 1000  # rows that are written together
IDS, ID_BYTES = ("input_ids", "labels", "starts"), 4  # columns of lists of int32


@dataclass
class Examples:
    """Tokenised records and what became of the others.

    Attributes:
        rows: a datasets.Dataset with input_ids, labels, record (its index in the records), source and line (the index
            of its file, and the line it begins at). Packed, the last three are lists, beside starts: where in the row
            each part of a document begins.
        documents: that are packed; 0 where each record has a row of its own.
        lengths: tokens of each row; supervised: labels that count.
        cut: rows whose answer lost its end; shortened: rows that lost earlier turns; left_out: records with no answer
            token within cutoff_len.
        unknown: tokens that are the tokenizer's unk.
        sha256: of all ids and labels.
        thoughts: records whose answer has thinking before it.
        dialogue_rows: how many rows each dialogue has become, in the order of the rows; empty where each has one.
    """

    rows: Any
    lengths: list[int]
    supervised: int
    cut: int
    shortened: int
    left_out: int
    unknown: int
    sha256: str
    documents: int = 0
    thoughts: int = 0
    dialogue_rows: list[int] = field(default_factory=list)

    def place(self, record: int) -> tuple[int, int]:
        """The index of a record's file, and the line it begins at."""
        column = self.rows["record"][:]
        if not self.documents:
            row = self.rows[column.index(record)]
            return row["source"], row["line"]
        row = self.rows[next(i for i, found in enumerate(column) if record in found)]
        at = row["record"].index(record)
        return row["source"][at], row["line"][at]


def tokenise(
    tokenizer: "TextTokenizer",
    records: Records,
    chosen: Sequence[int],
    prompt_type: str,
    cutoff_len: int,
    train_on_inputs: bool = False,
    train_turns: str = "last",
    pack: bool = False,
    file: Path | None = None,
    workers: Workers | None = None,
) -> Examples:
    """Turn the chosen records into examples, a repeated one into as many rows; a progress bar runs on a terminal.

    Args:
        pack: put them behind each other, whole, in rows of `cutoff_len` tokens.
        file: where the rows are written while they are made, to be mapped; None keeps them in memory.
        workers: tokenise, in place of this process.

    Raises:
        UserError: not one of the chosen records has an answer token within `cutoff_len`.
    """
    from tqdm import tqdm

    rows = _Rows(records, Packer(cutoff_len) if pack else None, file)
    encoder = _Encoder(tokenizer, prompt_type, sys.maxsize if pack else cutoff_len, train_on_inputs, train_turns)
    cut = shortened = unknown = kept = thoughts = 0
    dialogue_rows: list[int] = []
    asked: deque[tuple[int, int]] = deque()  # records that are worked on, and how often each comes

    def dialogues() -> Iterator[list[Message] | bytes]:
        found = records.dialogues
        one = found.as_json if isinstance(found, SpilledDialogues) else found.__getitem__
        for i, run in groupby(chosen):  # repetitions of a record stand beside each other
            asked.append((i, sum(1 for _ in run)))
            yield one(i)

    with tqdm(total=len(chosen), desc="Tokenising", unit="record", disable=None, leave=False) as bar:
        for one in (workers or Workers()).each(encoder, dialogues()):
            i, times = asked.popleft()
            kept += times * bool(one.parts)
            thoughts += times * one.has_thought
            cut += times * one.cut
            shortened += times * one.shortened
            unknown += times * one.unknown
            dialogue_rows += [len(one.parts)] * (times if one.parts else 0)
            for _ in range(times):
                for input_ids, labels in one.parts:
                    rows.add(i, input_ids, labels)
            bar.update(times)
    found = rows.end()
    if chosen and not kept:
        raise UserError(
            f"--cutoff_len {cutoff_len} leaves no answer in any of the {len(chosen)} records: their prompts alone are "
            "longer. Raise it."
        )
    return Examples(
        rows=found,
        lengths=rows.lengths,
        supervised=rows.supervised,
        cut=cut,
        shortened=shortened,
        left_out=len(chosen) - kept,
        unknown=unknown,
        sha256=rows.digest.hexdigest(),
        documents=kept if pack else 0,
        thoughts=thoughts,
        dialogue_rows=dialogue_rows if not pack and max(dialogue_rows, default=1) > 1 else [],
    )


class _Encoded(NamedTuple):
    """The examples of a record, each its ids and its labels as bytes of int32, and what became of it."""

    parts: list[tuple[bytes, bytes]]
    cut: bool
    shortened: bool
    unknown: int
    has_thought: bool


@dataclass(frozen=True)
class _Encoder:
    """Makes a dialogue its examples, by itself; see `tokenise`."""

    tokenizer: "TextTokenizer"
    prompt_type: str
    longest: int
    train_on_inputs: bool
    train_turns: str

    def __call__(self, dialogue: list[Message] | bytes) -> _Encoded:
        messages = unspilled(dialogue) if isinstance(dialogue, bytes) else dialogue
        options = (self.longest, self.train_on_inputs, self.train_turns)
        examples = encode_all(self.tokenizer, self.prompt_type, messages, *options)
        answers = messages if self.prompt_type == BASE else ()
        return _Encoded(
            [(_as_bytes(one.input_ids), _as_bytes(one.labels)) for one in examples],
            any(one.cut for one in examples),
            any(one.shortened for one in examples),
            sum(one.input_ids.count(self.tokenizer.unk_id) for one in examples),
            any(split_thought(one)[1] for one in answers if one["role"] == "assistant"),
        )


def _as_bytes(values: Sequence[int]) -> bytes:
    return array("i", values).tobytes()


def _as_list(values: bytes) -> list[int]:
    return array("i", values).tolist()


class _Rows:
    """Rows on their way into an Arrow file, each record one, or packed; a digest of all, and how many labels count.

    Args:
        file: the file, None for one in memory.
    """

    def __init__(self, records: Records, packer: Packer | None, file: Path | None):
        import pyarrow

        self.records, self.packer, self.file = records, packer, file
        ids, number = pyarrow.list_(pyarrow.int32()), pyarrow.int64()
        place = pyarrow.list_(number) if packer else number
        types = {"input_ids": ids, "labels": ids, "record": place, "source": place, "line": place}
        self._schema = pyarrow.schema({**types, "starts": ids} if packer else types)
        self._sink = pyarrow.OSFile(str(file), "wb") if file else pyarrow.BufferOutputStream()
        self._writer = pyarrow.ipc.new_stream(self._sink, self._schema)
        self._columns: dict[str, list] = {name: [] for name in self._schema.names}
        self.lengths: list[int] = []
        self.supervised, self.digest = 0, hashlib.sha256()

    def add(self, record: int, input_ids: bytes, labels: bytes) -> None:
        """Take an example in."""
        if self.packer:
            for row in self.packer.add(record, _as_list(input_ids), _as_list(labels)):
                self._take_packed(row)
            return
        place = (record, self.records.source_ids[record], self.records.lines[record])
        self._take(place, input_ids, labels)

    def end(self) -> Any:
        """There are no more examples: the rows as a datasets.Dataset."""
        from datasets import Dataset

        for row in self.packer.end() if self.packer else ():
            self._take_packed(row)
        self._write()
        self._writer.close()
        if self.file:
            self._sink.close()
            return Dataset.from_file(str(self.file))
        return Dataset.from_buffer(self._sink.getvalue())

    def _take_packed(self, row: PackedRow) -> None:
        sources, lines = ([of[one] for one in row.documents] for of in (self.records.source_ids, self.records.lines))
        self._take((row.documents, sources, lines), *map(_as_bytes, (row.input_ids, row.labels, row.starts)))

    def _take(self, place: tuple, *values: bytes) -> None:
        for name, found in zip(IDS, values, strict=False):
            self.digest.update((len(found) // ID_BYTES).to_bytes(8, "little"))
            self.digest.update(found)
            self._columns[name].append(found)
        for name, value in zip(("record", "source", "line"), place, strict=True):
            self._columns[name].append(value)
        self.lengths.append(len(values[0]) // ID_BYTES)
        if len(self._columns["record"]) == BATCH:
            self._write()

    def _write(self) -> None:
        import numpy as np
        import pyarrow

        arrays = []
        for kind in self._schema:
            column = self._columns[kind.name]
            if kind.name not in IDS:
                arrays.append(pyarrow.array(column, kind.type))
                continue
            values = np.frombuffer(b"".join(column), dtype=np.int32)
            ends = np.cumsum([0, *(len(one) // ID_BYTES for one in column)], dtype=np.int32)
            arrays.append(pyarrow.ListArray.from_arrays(pyarrow.array(ends), pyarrow.array(values)))
            self.supervised += int((values != IGNORE_INDEX).sum()) if kind.name == "labels" else 0
        self._writer.write_batch(pyarrow.record_batch(arrays, self._schema))
        self._columns = {name: [] for name in self._columns}


def label_spans(input_ids: Sequence[int], labels: Sequence[int], beginning: int = 1) -> list[tuple[bool, list[int]]]:
    """An example as runs of ids that are learnt, True, and that are not; BOS, its `beginning`, is left away."""
    pairs = list(zip(input_ids, labels, strict=True))[beginning:]
    runs = groupby(pairs, key=lambda pair: pair[1] != IGNORE_INDEX)
    return [(trained, [i for i, _ in run]) for trained, run in runs]
