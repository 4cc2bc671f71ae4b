"""Records -> tokenised examples, and what of an example is learnt.

Every record becomes at most one example of at most `cutoff_len` tokens; what was cut, shortened or left out is counted.
"""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vicuna.data.packing import PackedRow, Packer
from vicuna.data.records import Records
from vicuna.errors import UserError
from vicuna.prompt.own_template import split_thought
from vicuna.prompt.templates import BASE, IGNORE_INDEX, Encoded, encode_all

if TYPE_CHECKING:
    from vicuna.prompt.tokenizer import TextTokenizer

BATCH = 1000  # rows that are written together


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
) -> Examples:
    """Turn the chosen records into examples, a repeated one into as many rows; a progress bar runs on a terminal.

    Args:
        pack: put them behind each other, whole, in rows of `cutoff_len` tokens.
        file: where the rows are written while they are made, to be mapped; None keeps them in memory.

    Raises:
        UserError: not one of the chosen records has an answer token within `cutoff_len`.
    """
    from tqdm import tqdm

    rows = _Rows(records, Packer(cutoff_len) if pack else None, file)
    longest = sys.maxsize if pack else cutoff_len
    options = (train_on_inputs, train_turns)
    cut = shortened = unknown = kept = thoughts = 0
    previous, examples = None, []
    for i in tqdm(chosen, desc="Tokenising", unit="record", disable=None, leave=False):
        if i != previous:  # repetitions of a record stand beside each other
            examples = encode_all(tokenizer, prompt_type, records.dialogues[i], longest, *options)
            previous = i
        kept += bool(examples)
        thoughts += prompt_type == BASE and any(
            split_thought(one)[1] for one in records.dialogues[i] if one["role"] == "assistant"
        )
        cut += any(one.cut for one in examples)
        shortened += any(one.shortened for one in examples)
        for example in examples:
            unknown += example.input_ids.count(tokenizer.unk_id)
            rows.add(i, example)
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
    )


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

    def add(self, record: int, example: Encoded) -> None:
        """Take an example in."""
        if self.packer:
            for row in self.packer.add(record, example.input_ids, example.labels):
                self._take_packed(row)
            return
        place = (record, self.records.source_ids[record], self.records.lines[record])
        self._take(place, example.input_ids, example.labels)

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
        self._take((row.documents, sources, lines), row.input_ids, row.labels, row.starts)

    def _take(self, place: tuple, *values: list[int]) -> None:
        import numpy as np

        for name, found in zip(("input_ids", "labels", "starts"), values, strict=False):
            array = np.asarray(found, dtype=np.int32)
            self.digest.update(len(array).to_bytes(8, "little") + array.tobytes())
            self._columns[name].append(array)
        for name, value in zip(("record", "source", "line"), place, strict=True):
            self._columns[name].append(value)
        self.lengths.append(len(values[0]))
        self.supervised += int((self._columns["labels"][-1] != IGNORE_INDEX).sum())
        if len(self._columns["record"]) == BATCH:
            self._write()

    def _write(self) -> None:
        import pyarrow

        arrays = [pyarrow.array(self._columns[field.name], field.type) for field in self._schema]
        self._writer.write_batch(pyarrow.record_batch(arrays, self._schema))
        self._columns = {name: [] for name in self._columns}


def label_spans(input_ids: Sequence[int], labels: Sequence[int], beginning: int = 1) -> list[tuple[bool, list[int]]]:
    """An example as runs of ids that are learnt, True, and that are not; BOS, its `beginning`, is left away."""
    pairs = list(zip(input_ids, labels, strict=True))[beginning:]
    runs = groupby(pairs, key=lambda pair: pair[1] != IGNORE_INDEX)
    return [(trained, [i for i, _ in run]) for trained, run in runs]
