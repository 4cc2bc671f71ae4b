"""Exact batches: the rows of every optimizer step, their micro batches on each rank, and the tensors of one.

The order of training is a pure function of (seed, epoch, lengths, total batch) and of which rows are of one dialogue:
ranks, micro batches and restarts can not change it.
"""

import math
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Sampler

from vicuna.prompt.templates import IGNORE_INDEX
from vicuna.train.flags import RunFlags
from vicuna.train.last_block import few_that_predict
from vicuna.train.loss import supervised_positions
from vicuna.train.resume import NEW_RUN, StartingPoint, check_order
from vicuna.train.sharing import Operations, lay_out, share_out

NO_ROW = -1  # a rank with no row in a slot takes one of ignored labels, so that all ranks step together
SHOWN_STEPS = 4  # of which the plan says what they share
NO_SLOT = -2  # a slot that no rank needs, since others hold more rows: it is passed over


def epoch_order(
    seed: int, epoch: int, lengths: Sequence[int], total_batch: int, dialogue_rows: Sequence[int] = ()
) -> list[list[int]]:
    """The rows of every optimizer step of an epoch: `total_batch` each, the last takes what is left.

    Rows are drawn at random, those of one dialogue together; within a step they are sorted by length, longest first,
    so that micro batches hold rows of like length. A step's gradient is a sum over its rows, so this order within it
    costs nothing.

    Args:
        dialogue_rows: how many rows each dialogue has become, in the order of the rows; () where each has one.
    """
    draw = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    if dialogue_rows:
        order = _dialogues_drawn(draw, dialogue_rows, total_batch)
    else:
        draw.shuffle(order)
    steps = [order[start : start + total_batch] for start in range(0, len(order), total_batch)]
    return [sorted(step, key=lambda row: (-lengths[row], row)) for step in steps]


def _dialogues_drawn(draw: random.Random, dialogue_rows: Sequence[int], total_batch: int) -> list[int]:
    """All rows, those of one dialogue behind one another and in one step: where the next one drawn has more rows than
    there is room for in a step, the largest of the others for which there is comes before it. Where there is none, the
    end of the step divides it. A dialogue of more rows than a step takes is drawn as several.
    """
    ends = zip(dialogue_rows, accumulate(dialogue_rows), strict=True)
    runs = [
        range(start, min(start + total_batch, end))
        for count, end in ends
        for start in range(end - count, end, total_batch)
    ]
    draw.shuffle(runs)
    waiting: dict[int, deque[int]] = {}  # by the number of their rows, which of `runs`, in the order drawn
    for i, run in enumerate(runs):
        waiting.setdefault(len(run), deque()).append(i)
    order: list[int] = []
    while waiting:
        room = total_batch - len(order) % total_batch
        count = min(waiting, key=lambda count: waiting[count][0])  # of the next one drawn
        if count > room:
            count = max((other for other in waiting if other <= room), default=count)
        i = waiting[count].popleft()
        if not waiting[count]:
            del waiting[count]
        order += runs[i][:room]
        if rest := runs[i][room:]:
            runs[i] = rest
            waiting.setdefault(len(rest), deque()).appendleft(i)
    return order


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

    Every step has `accumulation` slots; a slot without rows for this rank holds NO_ROW. Where rows are laid into one
    another fewer slots hold all of them, the last ones; the others hold NO_SLOT.

    Args:
        rows: a datasets.Dataset with the `input_ids` of each row, where micro batches are to share much; None where
            they are of like length.
        dialogue_rows: see `epoch_order`.

    Raises:
        UserError: it goes on with a run that drew the rows of a dialogue apart.

    Attributes:
        steps: optimizer steps of the run.
        first: steps already done when this process begins.
        data_start: step at which the data began its first epoch; above 0 where a schedule goes on with other data.
    """

    def __init__(
        self,
        lengths: list[int],
        run: RunFlags,
        world_size: int = 1,
        rank: int = 0,
        start: StartingPoint = NEW_RUN,
        rows: Any = None,
        dialogue_rows: Sequence[int] = (),
    ):
        if dialogue_rows:
            check_order(start)
        self._dialogue_rows = dialogue_rows
        self.lengths, self.run, self.world_size, self.rank = lengths, run, world_size, rank
        self._ids = None if rows is None else rows.select_columns("input_ids")
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
            settings = self.lengths, self.run.total_batch, self._dialogue_rows
            self._epoch, self._order = epoch, epoch_order(self.run.seed, epoch, *settings)
        return self._order[at]

    def sharing(self) -> dict[str, int] | None:
        """What rows share in the first steps, in tokens and in micro batches of all ranks; None where they do not."""
        if self._ids is None:
            return None
        steps = range(self.data_start, min(self.data_start + SHOWN_STEPS, self.steps))
        found = {"steps": len(steps), "tokens": 0, "computed": 0, "micro_batches": 0}
        for step in steps:
            rows = self.rows(step)
            ids = dict(zip(rows, self._ids[rows]["input_ids"], strict=True))
            for batch in (batch for slot in self._slots(step) for batch in slot if batch):
                found["computed"] += lay_out([ids[row] for row in batch])[1].tokens
                found["micro_batches"] += 1
            found["tokens"] += sum(map(len, ids.values()))
        return found

    def epochs(self, step: int) -> float:
        """Passes over the data when `step` steps are done."""
        return (step - self.data_start) / self.steps_per_epoch

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, self.first if self._ended else self.steps):
            batches = self.micro_batches(step)
            if self._ids is not None:
                yield from [[NO_SLOT]] * (self.accumulation - len(batches))
                yield from (batch or [NO_ROW] for batch in batches)
                continue
            for slot in range(self.accumulation):
                yield (batches[slot] if slot < len(batches) else []) or [NO_ROW]

    def micro_batches(self, step: int) -> list[list[int]]:
        """This rank's part of a step; one may be empty."""
        if self._ids is None:
            return rank_batches(self.rows(step), self.run.micro_batch, self.world_size, self.rank)
        return [slot[self.rank] for slot in self._slots(step)]

    def _slots(self, step: int) -> list[list[list[int]]]:
        rows = self.rows(step)
        several = bool(self._dialogue_rows)
        return share_out(rows, self._ids[rows]["input_ids"], self.run.micro_batch, self.world_size, several)


class RowDataset(Dataset):
    """Rows by index; NO_ROW and NO_SLOT are a row of one token whose label is ignored."""

    def __init__(self, rows: Any):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": [0], "labels": [IGNORE_INDEX], "record": index} if index < 0 else self.rows[index]


def collate(rows: list[dict[str, Any]], operations: Operations | None = None) -> dict[str, Any]:
    """Pad rows on the right to the longest, (B, T) each; or lay them into one another, where that takes fewer
    `operations`.

    `logits_to_keep` is True at the positions whose next token is supervised: the head is computed there alone.
    `record` names the records in the rows, where these do; the model does not take it. Rows of packed documents have
    `position_ids` in place of `attention_mask`: they begin anew with each document and with the padding, by which the
    model tells that these are apart.
    """
    ids, labels = ([torch.as_tensor(row[name], dtype=torch.long) for row in rows] for name in ("input_ids", "labels"))
    batch: dict[str, Any] = {"labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX)}
    if operations and (laid := _laid_out(rows, operations)):
        batch |= laid
    else:
        batch["input_ids"] = pad_sequence(ids, batch_first=True)
        if "starts" in rows[0]:
            batch["position_ids"] = _position_ids(rows, batch["input_ids"].shape[1])
        else:
            batch["attention_mask"] = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        batch["logits_to_keep"] = supervised_positions(batch["labels"])
    if "record" in rows[0]:
        found = [row["record"] for row in rows]
        batch["record"] = torch.tensor([one for row in found for one in (row if isinstance(row, list) else [row])])
    return batch


def _parts(row: dict[str, Any]) -> list[slice]:
    """The row whole, or each part of a document in it."""
    return [slice(*ends) for ends in pairwise([*row.get("starts", [0]), len(row["input_ids"])])]


def _laid_out(rows: list[dict[str, Any]], operations: Operations) -> dict[str, Any] | None:
    """A batch of rows laid into one another, None where padding them takes no more operations.

    `logits_to_keep` are the places that predict supervised tokens, one that predicts several of them as often; then
    `predicted_by` says which of these each label is for, and `predicting` names each place once, where they are few.
    """
    parts = [(row, part) for row in rows for part in _parts(row)]
    order, layout, places = lay_out([list(row["input_ids"][part]) for row, part in parts])
    one_by_one, together = operations.one_by_one(layout), operations.batched(layout)
    if operations.padded([len(row["input_ids"]) for row in rows]) <= min(one_by_one, together):
        return None
    width = layout.tokens + -layout.tokens % operations.multiple
    ids, positions = (torch.zeros(1, width, dtype=torch.long) for _ in range(2))
    predictions = []
    for (row, part), place in zip(parts, places, strict=True):
        where = torch.from_numpy(place)
        ids[0, where] = torch.as_tensor(row["input_ids"][part], dtype=torch.long)
        positions[0, where] = torch.arange(len(where))
        targets = torch.as_tensor(row["labels"][part], dtype=torch.long)[1:]
        counted = targets != IGNORE_INDEX
        predictions.append(torch.stack([where[:-1][counted], targets[counted]], dim=1))
    ids[0, layout.tokens :] = ids[0, 0]  # the first token once more: nothing that a layer has not seen
    once, predicted_by = torch.cat(predictions).unique(dim=0, return_inverse=True)
    kept = torch.cat([once[:, 0], once[:1, 0].expand(-len(once) % operations.multiple)])
    batch = {
        "input_ids": ids,
        "position_ids": positions,
        "attention_mask": torch.zeros(1, 1, 1, 1),  # four dimensions: transformers hands it on and makes none
        "logits_to_keep": kept,
        "predicted_by": predicted_by,
        "layout": replace(layout, batched=together < one_by_one),
    }
    if (predicting := few_that_predict(once[:, 0], width, operations.multiple)) is not None:
        batch["predicting"] = predicting
    if together < one_by_one:
        row_tokens = pad_sequence([torch.from_numpy(places[i]) for i in order], batch_first=True)
        longest, own = row_tokens.shape[1], zip(layout.runs, layout.lengths, strict=True)
        ends = [(i * longest + length, run) for i, (run, length) in enumerate(own)]
        stands = [torch.arange(end - run, end) for end, run in ends]
        room = torch.zeros(width - layout.tokens, dtype=torch.long)
        batch |= {"row_tokens": row_tokens, "token_places": torch.cat([*stands, room])}
    return batch


def _position_ids(rows: list[dict[str, Any]], width: int) -> torch.Tensor:
    """(B, T): the place of each token in its part of a document, or in the padding."""
    found = []
    for row in rows:
        ends = [*row["starts"][1:], len(row["input_ids"]), width]
        starts = [*row["starts"], len(row["input_ids"])]
        found.append(torch.cat([torch.arange(end - start) for start, end in zip(starts, ends, strict=True)]))
    return torch.stack(found)
