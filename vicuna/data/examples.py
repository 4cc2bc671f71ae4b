"""Records -> tokenised examples, and what of an example is learnt.

Every record becomes at most one example of at most `cutoff_len` tokens; what was cut, shortened or left out is counted.
"""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from vicuna.data.packing import PackedRow, Packer
from vicuna.data.records import Records
from vicuna.errors import UserError
from vicuna.prompt.templates import IGNORE_INDEX, Encoded, encode

if TYPE_CHECKING:
    from vicuna.prompt.tokenizer import TextTokenizer


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
) -> Examples:
    """Turn the chosen records into examples, a repeated one into as many rows; a progress bar runs on a terminal.

    Args:
        pack: put them behind each other, whole, in rows of `cutoff_len` tokens.

    Raises:
        UserError: not one of the chosen records has an answer token within `cutoff_len`.
    """
    from datasets import Dataset
    from tqdm import tqdm

    rows = _Rows(records, Packer(cutoff_len) if pack else None)
    longest = sys.maxsize if pack else cutoff_len
    cut = shortened = unknown = kept = 0
    previous, example = None, None
    for i in tqdm(chosen, desc="Tokenising", unit="record", disable=None, leave=False):
        if i != previous:  # repetitions of a record stand beside each other
            example = encode(tokenizer, prompt_type, records.dialogues[i], longest, train_on_inputs, train_turns)
            previous = i
        if example is None:
            continue
        cut += example.cut
        shortened += example.shortened
        unknown += example.input_ids.count(tokenizer.unk_id)
        kept += 1
        rows.add(i, example)
    rows.end()
    if chosen and not kept:
        raise UserError(
            f"--cutoff_len {cutoff_len} leaves no answer in any of the {len(chosen)} records: their prompts alone are "
            "longer. Raise it."
        )
    return Examples(
        rows=Dataset.from_dict(rows.columns),
        lengths=[len(ids) for ids in rows.columns["input_ids"]],
        supervised=rows.supervised,
        cut=cut,
        shortened=shortened,
        left_out=len(chosen) - kept,
        unknown=unknown,
        sha256=rows.digest.hexdigest(),
        documents=kept if pack else 0,
    )


class _Rows:
    """Rows by column, each record one, or packed; with the labels that count in them, and a digest of all."""

    def __init__(self, records: Records, packer: Packer | None):
        self.records, self.packer = records, packer
        names = ("input_ids", "labels", "record", "source", "line", *["starts"] * bool(packer))
        self.columns: dict[str, list] = {name: [] for name in names}
        self.supervised, self.digest = 0, hashlib.sha256()

    def add(self, record: int, example: Encoded) -> None:
        """Take an example in."""
        if self.packer:
            for row in self.packer.add(record, example.input_ids, example.labels):
                self._take_packed(row)
            return
        self._take(example.input_ids, example.labels)
        values = (record, self.records.source_ids[record], self.records.lines[record])
        for name, value in zip(("record", "source", "line"), values, strict=True):
            self.columns[name].append(value)

    def end(self) -> None:
        """There are no more examples."""
        for row in self.packer.end() if self.packer else ():
            self._take_packed(row)

    def _take_packed(self, row: PackedRow) -> None:
        self._take(row.input_ids, row.labels, row.starts)
        self.columns["record"].append(row.documents)
        self.columns["source"].append([self.records.source_ids[one] for one in row.documents])
        self.columns["line"].append([self.records.lines[one] for one in row.documents])

    def _take(self, *values: list[int]) -> None:
        import numpy as np

        for name, found in zip(("input_ids", "labels", "starts"), values, strict=False):
            array = np.asarray(found, dtype=np.int32)
            self.digest.update(len(array).to_bytes(8, "little") + array.tobytes())
            self.columns[name].append(array)
        self.supervised += int((self.columns["labels"][-1] != IGNORE_INDEX).sum())


def label_spans(input_ids: Sequence[int], labels: Sequence[int]) -> list[tuple[bool, list[int]]]:
    """An example as runs of ids that are learnt, True, and that are not; BOS is left away."""
    pairs = list(zip(input_ids, labels, strict=True))[1:]
    runs = groupby(pairs, key=lambda pair: pair[1] != IGNORE_INDEX)
    return [(trained, [i for i, _ in run]) for trained, run in runs]
