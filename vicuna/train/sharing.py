"""What the rows of a micro batch share is computed once: rows laid into one another, and micro batches that share much.

Sorted by their tokens, rows that begin alike stand beside each other. Of each only what the row before it does not have
is laid down, all of it behind one another, as one row without padding; a row is then a way through that. Nothing but
attention looks at more than one token, and it is shown every row whole (`vicuna.train.row_attention`).

Everything here is a function of token ids, flags and the base's shape, so that ranks and restarts agree.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from vicuna.log import log
from vicuna.model.config import head_dim, linear_layers
from vicuna.train.flags import RunFlags

# Kinds of base that hand on what attention needs to know; tests/train/test_shared_rows.py trains each.
KINDS = ("llama", "mistral", "qwen2", "qwen3")
# Operations that a device could have done in the time which a call of attention takes beside its own.
CALL = {"cpu": 4 * 10**6}
CALL_ELSEWHERE = 4 * 10**9
GATHERS = 2  # calls' worth of bringing rows into the form of a batch, and back
# Operations there and back: no gradient of a frozen weight; attention has four products going back, and two there.
LINEAR_PASSES, ATTENTION_PASSES = 2, 3
# Sizes that PyTorch makes a program for, one for each kind of product: 2.4 ms each in bfloat16 on a CPU with AMX.
MULTIPLES = {("cpu", torch.bfloat16): 32}
COPIED = 8  # the keys and values a row has from others are copied, in every block: an eighth of what a token holds


@dataclass(frozen=True)
class Layout:
    """Rows laid into one another. Its rows stand in the order of their tokens.

    Attributes:
        runs: tokens that each row lays down, behind those of the row before it; 0 where an earlier row has them all.
        lengths: tokens of each row.
        pieces: the runs, cut wherever another row turns off.
        paths: the pieces of each row.
        batched: attention takes all rows together, padded, in place of one by one.
    """

    runs: tuple[int, ...]
    lengths: tuple[int, ...]
    pieces: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]
    batched: bool = False

    @property
    def tokens(self) -> int:
        """Tokens that are computed."""
        return sum(self.runs)


@dataclass(frozen=True)
class Operations:
    """What is counted to choose: a run goes on only with the counts it was begun with.

    Attributes:
        token: operations of all linear layers but the head, for a token.
        pair: of attention in all blocks, for a query and a key.
        call: what a call of attention costs beside in all blocks, as operations.
        multiple: the tokens of a micro batch are made a multiple of, so that few sizes come up.
    """

    token: int
    pair: int
    call: int
    multiple: int = 1

    def padded(self, lengths: Sequence[int]) -> int:
        """Of rows padded to the longest; a mask has attention compute what it then hides."""
        rows, width = len(lengths), max(lengths)
        pairs = width * width if min(lengths) < width else _causal(width)
        return rows * (width * self.token + pairs * self.pair) + self.call

    def batched(self, layout: Layout) -> int:
        """Of rows laid into one another, all of them in one call of attention."""
        pairs = len(layout.runs) * _causal(max(layout.lengths))
        return layout.tokens * self.token + pairs * self.pair + (1 + GATHERS) * self.call

    def one_by_one(self, layout: Layout) -> int:
        """The same with a call for each row, of the tokens it lays down alone."""
        runs = [(run, length) for run, length in zip(layout.runs, layout.lengths, strict=True) if run]
        pairs = sum(_causal(length) - _causal(length - run) for run, length in runs)
        return layout.tokens * self.token + pairs * self.pair + len(runs) * self.call


def _causal(length: int) -> int:
    """Pairs of a query and a key that is not behind it."""
    return length * (length + 1) // 2


def count_operations(config: Any, device_type: str, dtype: torch.dtype = torch.float32) -> Operations:
    """The counts of a base on a device."""
    linear = sum(rows * columns for rows, columns in linear_layers(config).values())
    blocks = config.num_hidden_layers
    return Operations(
        token=2 * LINEAR_PASSES * linear,
        pair=2 * 2 * ATTENTION_PASSES * config.num_attention_heads * head_dim(config) * blocks,
        call=CALL.get(device_type, CALL_ELSEWHERE) * blocks,
        multiple=MULTIPLES.get((device_type, dtype), 1),
    )


def operations_to_share(
    config: Any, device_type: str, dtype: torch.dtype, longest: int, run: RunFlags
) -> Operations | None:
    """The counts by which rows are laid into one another, None where they are not; the log says why not."""
    if not run.share_prefix:
        return None
    if why := _why_not(config, longest, run.sharding_flag):
        log.info("each row is computed whole: --share_prefix works %s", why)
        return None
    return count_operations(config, device_type, dtype)


def _why_not(config: Any, longest: int, sharding_flag: str) -> str:
    if sharding_flag:
        return f"not with {sharding_flag}"
    if config.model_type not in KINDS:
        return f"not for bases of type {config.model_type}, but for {', '.join(KINDS)}"
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True) and window < longest:
        return f"not where attention sees {window} tokens, and rows have up to {longest}"
    return ""


def common_beginning(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows have in common before they differ."""
    length = min(len(one), len(other))
    differ = np.flatnonzero(np.asarray(one[:length]) != np.asarray(other[:length]))
    return int(differ[0]) if len(differ) else length


def lay_out(rows: Sequence[Sequence[int]]) -> tuple[list[int], Layout, list[np.ndarray]]:
    """Lay rows into one another.

    Returns: (the numbers of the rows in the layout's order, the layout, each row's places of its tokens in the
        layout, in the order given).
    """
    order = sorted(range(len(rows)), key=rows.__getitem__)
    places: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(rows)
    runs, cuts, end = [], set(), 0
    before: Sequence[int] = ()
    places_before = np.empty(0, dtype=np.int64)
    for i in order:
        shared = common_beginning(before, rows[i])
        if shared > 0:
            cuts.add(int(places_before[shared - 1]) + 1)
        run = len(rows[i]) - shared
        cuts.add(end)
        places[i] = np.concatenate([places_before[:shared], np.arange(end, end + run)])
        runs.append(run)
        end += run
        before, places_before = rows[i], places[i]
    edges = np.array(sorted({*cuts, end}))
    piece_of = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
    layout = Layout(
        runs=tuple(runs),
        lengths=tuple(len(rows[i]) for i in order),
        pieces=tuple(np.diff(edges).tolist()),
        paths=tuple(tuple(dict.fromkeys(piece_of[places[i]].tolist())) for i in order),
    )
    return order, layout, places


def share_out(
    step: Sequence[int], ids: Sequence[Sequence[int]], micro_batch: int, world_size: int, dialogues: bool = False
) -> list[list[list[int]]]:
    """The micro batches of a step: a slot holds one for each rank, of like size; a rank of the last may have none.

    There are as few slots as memory allows: no micro batch holds more than `micro_batch` rows of the step's longest
    would, counted in tokens that are kept for the backward pass.

    Args:
        step: the rows' numbers; ids: their tokens.
        dialogues: some have several rows, which share more than like size is worth: they are kept together.
    """
    order = sorted(range(len(step)), key=lambda i: (ids[i], step[i]))
    lengths = [len(ids[i]) for i in order]
    shared = [0, *(common_beginning(ids[one], ids[other]) for one, other in pairwise(order))]
    room = micro_batch * max(lengths)
    slots = -(-len(_fill(lengths, shared, room)) // world_size)
    if dialogues:
        starts = _fill_with_least_twice(lengths, shared, room)
    else:
        starts = _fill_alike(lengths, shared, room, slots * world_size)
    bounds = [*starts, len(order)]
    found = [order[start:end] for start, end in pairwise(bounds)]
    loads = [sum(lengths[start:end]) - sum(shared[start + 1 : end]) for start, end in pairwise(bounds)]
    largest_first = [found[i] for i in sorted(range(len(found)), key=lambda i: (-loads[i], i))]
    numbers = [[step[i] for i in sorted(group)] for group in largest_first]
    numbers += [[]] * (slots * world_size - len(numbers))
    return [numbers[start : start + world_size] for start in range(0, len(numbers), world_size)]


def _fill(lengths: Sequence[int], shared: Sequence[int], room: int) -> list[int]:
    """Where micro batches begin when each takes rows as long as there is room."""
    starts, held = [], room
    for i, (length, common) in enumerate(zip(lengths, shared, strict=True)):
        load = _load(length, common)
        if held + load > room:
            starts.append(i)
            held, load = 0, length
        held += load
    return starts


def _load(length: int, common: int) -> int:
    """Tokens kept of a row behind another one."""
    return min(length, length - common + (length // COPIED if common else 0))


def _fill_alike(lengths: Sequence[int], shared: Sequence[int], room: int, count: int) -> list[int]:
    """The same with the least room for which there are at most `count` of them."""
    low = max(lengths)
    while low < room:
        middle = (low + room) // 2
        if len(_fill(lengths, shared, middle)) <= count:
            room = middle
        else:
            low = middle + 1
    return _fill(lengths, shared, room)


def _fill_with_least_twice(lengths: Sequence[int], shared: Sequence[int], room: int) -> list[int]:
    """The same, as few as `_fill` makes, where the fewest tokens are computed once more because another one begins."""
    best = [(0, 0, 0)]  # of the first rows: how many micro batches, tokens computed once more, where the last begins
    for end in range(1, len(lengths) + 1):
        found, behind = [], 0
        for start in range(end - 1, -1, -1):
            if lengths[start] + behind > room:
                break
            count, again, _ = best[start]
            found.append((count + 1, again + shared[start], start))
            behind += _load(lengths[start], shared[start])
        best.append(min(found))
    starts, end = [], len(lengths)
    while end:
        end = best[end][2]
        starts.append(end)
    return starts[::-1]


def as_json(operations: Operations | None) -> dict[str, int] | None:
    """The counts, as run_args.json keeps them."""
    if operations is None:
        return None
    found = asdict(operations)
    if operations.multiple == 1:  # as it was before there were others
        del found["multiple"]
    return found
