"""Records -> tokenised examples, and what of an example is learnt.

Every record becomes at most one example of at most `cutoff_len` tokens; what was cut, shortened or left out is counted.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from vicuna.data.records import Records
from vicuna.errors import UserError
from vicuna.prompt.templates import IGNORE_INDEX, encode

if TYPE_CHECKING:
    from vicuna.prompt.tokenizer import TextTokenizer


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


def label_spans(input_ids: Sequence[int], labels: Sequence[int]) -> list[tuple[bool, list[int]]]:
    """An example as runs of ids that are learnt, True, and that are not; BOS is left away."""
    pairs = list(zip(input_ids, labels, strict=True))[1:]
    runs = groupby(pairs, key=lambda pair: pair[1] != IGNORE_INDEX)
    return [(trained, [i for i, _ in run]) for trained, run in runs]
