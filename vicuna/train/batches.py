"""Exact batches: the rows of every optimizer step, their micro batches on each rank, and the tensors of one.

The order of training is a pure function of (seed, epoch, lengths, total batch): ranks, micro batches and restarts can
not change it.
"""

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Sampler

from vicuna.prompt.templates import IGNORE_INDEX
from vicuna.train.flags import RunFlags
from vicuna.train.loss import supervised_positions
from vicuna.train.resume import NEW_RUN, StartingPoint

NO_ROW = -1  # a rank with no row in a slot takes one of ignored labels, so that all ranks step together


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


class StepBatchSampler(Sampler[list[int]]):
    """Batch sampler of one rank over a whole run: in every optimizer step all ranks together take exactly `total_batch`
    rows, and in the last step of an epoch what is left.

    Every step has `accumulation` slots; a slot without rows for this rank holds NO_ROW.

    Attributes:
        steps: optimizer steps of the run.
        first: steps already done when this process begins.
        data_start: step at which the data began its first epoch; above 0 where a schedule goes on with other data.
    """

    def __init__(
        self, lengths: list[int], run: RunFlags, world_size: int = 1, rank: int = 0, start: StartingPoint = NEW_RUN
    ):
        self.lengths, self.run, self.world_size, self.rank = lengths, run, world_size, rank
        self.first, self.data_start = start.step, start.data_start
        self.steps = max(run.max_steps or math.ceil(run.num_epoch * self.steps_per_epoch), start.min_steps)
        self._epoch, self._order = -1, []
        self._ended = False

    def end(self) -> None:
        """Give no rows any more."""
        self._ended = True

    @property
    def accumulation(self) -> int:
        """Micro batches per rank in a step."""
        return math.ceil(self.run.total_batch / (self.run.micro_batch * self.world_size))

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.lengths) / self.run.total_batch)

    def rows(self, step: int) -> list[int]:
        """Rows of one optimizer step over all ranks; steps count from 0."""
        epoch, at = divmod(step - self.data_start, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_order(self.run.seed, epoch, self.lengths, self.run.total_batch)
        return self._order[at]

    def epochs(self, step: int) -> float:
        """Passes over the data when `step` steps are done."""
        return (step - self.data_start) / self.steps_per_epoch

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, self.first if self._ended else self.steps):
            batches = rank_batches(self.rows(step), self.run.micro_batch, self.world_size, self.rank)
            for slot in range(self.accumulation):
                yield (batches[slot] if slot < len(batches) else []) or [NO_ROW]


class RowDataset(Dataset):
    """Rows by index; NO_ROW is a row of one token whose label is ignored."""

    def __init__(self, rows: Any):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": [0], "labels": [IGNORE_INDEX], "record": NO_ROW} if index == NO_ROW else self.rows[index]


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad rows on the right to the longest, (B, T) each.

    `logits_to_keep` is True at the positions whose next token is supervised: the head is computed there alone.
    `record` names the records in the rows, where these do; the model does not take it. Rows of packed documents have
    `position_ids` in place of `attention_mask`: they begin anew with each document and with the padding, by which the
    model tells that these are apart.
    """
    ids, labels = ([torch.as_tensor(row[name], dtype=torch.long) for row in rows] for name in ("input_ids", "labels"))
    batch = {
        "input_ids": pad_sequence(ids, batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
    }
    if "starts" in rows[0]:
        batch["position_ids"] = _position_ids(rows, batch["input_ids"].shape[1])
    else:
        batch["attention_mask"] = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
    batch["logits_to_keep"] = supervised_positions(batch["labels"])
    if "record" in rows[0]:
        found = [row["record"] for row in rows]
        batch["record"] = torch.tensor([one for row in found for one in (row if isinstance(row, list) else [row])])
    return batch


def _position_ids(rows: list[dict[str, Any]], width: int) -> torch.Tensor:
    """(B, T): the place of each token in its part of a document, or in the padding."""
    found = []
    for row in rows:
        ends = [*row["starts"][1:], len(row["input_ids"]), width]
        starts = [*row["starts"], len(row["input_ids"])]
        found.append(torch.cat([torch.arange(end - start) for start, end in zip(starts, ends, strict=True)]))
    return torch.stack(found)
