"""The order of training: every row once an epoch, the same for any number of ranks, a dialogue's rows together."""

import hashlib
import json
import random
from collections import Counter
from itertools import accumulate

import pytest

from vicuna.train.batches import epoch_order, rank_batches

LENGTHS = random.Random(0).choices(range(5, 300), k=111)


@pytest.mark.parametrize(("rows", "total_batch"), [(111, 16), (111, 111), (111, 200), (7, 1), (1, 4), (32, 16)])
def test_an_epoch_takes_every_row_once_and_every_step_exactly_total_batch(rows, total_batch):
    steps = epoch_order(42, 0, LENGTHS[:rows], total_batch)

    assert Counter(row for step in steps for row in step) == Counter(range(rows))
    assert [len(step) for step in steps[:-1]] == [total_batch] * (len(steps) - 1)
    assert len(steps[-1]) == (rows - 1) % total_batch + 1


def test_the_order_is_a_pure_function_of_its_arguments():
    random.seed(1)
    state = random.getstate()
    first = epoch_order(42, 3, LENGTHS, 16)
    assert random.getstate() == state
    random.seed(2)
    for epoch in range(3):
        epoch_order(42, epoch, LENGTHS, 16)

    assert epoch_order(42, 3, LENGTHS, 16) == first


def test_the_order_changes_with_epoch_and_seed():
    orders = [epoch_order(*key, LENGTHS, 16) for key in [(42, 0), (42, 1), (43, 0), (4, 20), (42, 10)]]

    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])
    assert all({*a[0]} != {*b[0]} for i, a in enumerate(orders) for b in orders[:i])


def test_rows_of_a_step_are_sorted_by_length_longest_first():
    for step in epoch_order(42, 0, LENGTHS, 16):
        lengths = [LENGTHS[row] for row in step]
        assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("rows", [1, 3, 15, 16, 17])
@pytest.mark.parametrize("micro_batch", [1, 3, 4])
def test_all_ranks_have_equally_many_slots_and_share_the_step(world_size, rows, micro_batch):
    step = list(range(100, 100 + rows))
    dealt = [rank_batches(step, micro_batch, world_size, rank) for rank in range(world_size)]

    assert len({len(batches) for batches in dealt}) == 1
    assert sorted(row for batches in dealt for batch in batches for row in batch) == step
    assert all(len(batch) <= micro_batch for batches in dealt for batch in batches)


# --- dialogues of several rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "epoch", "total_batch", "expected"),
    [(42, 0, 16, "1dd67d6975759f20"), (43, 1, 128, "0e2430df78ed942e"), (0, 7, 1, "2e5add3696501d3b")],
)
def test_rows_that_no_dialogue_has_several_of_are_drawn_as_ever(seed, epoch, total_batch, expected):
    """As the version drew them that knew no dialogues, so that what it began goes on."""
    for dialogues in ((), [1] * len(LENGTHS)):
        steps = epoch_order(seed, epoch, LENGTHS, total_batch, dialogues)
        assert hashlib.sha256(json.dumps(steps).encode()).hexdigest()[:16] == expected


def runs_of(dialogue_rows):
    """The rows of each dialogue."""
    ends = accumulate(dialogue_rows)
    return [range(end - count, end) for count, end in zip(dialogue_rows, ends, strict=True)]


def torn(steps, dialogue_rows):
    """Dialogues whose rows stand in more steps than they need."""
    step_of = {row: number for number, step in enumerate(steps) for row in step}
    found = [(run, {step_of[row] for row in run}) for run in runs_of(dialogue_rows)]
    return [run for run, places in found if len(places) > -(-len(run) // len(steps[0]))]


@pytest.mark.parametrize("total_batch", [1, 3, 16, 50, 500])
@pytest.mark.parametrize("most", [1, 3, 7, 40])
def test_rows_of_a_dialogue_stand_in_one_step_as_far_as_steps_are_full(most, total_batch):
    draw = random.Random(f"{most}/{total_batch}")
    dialogue_rows = [draw.randint(1, most) for _ in range(90)]
    rows = sum(dialogue_rows)
    lengths = [draw.randrange(5, 300) for _ in range(rows)]
    for epoch in range(3):
        steps = epoch_order(42, epoch, lengths, total_batch, dialogue_rows)
        assert Counter(row for step in steps for row in step) == Counter(range(rows))
        assert [len(step) for step in steps[:-1]] == [total_batch] * (len(steps) - 1)
        assert len(torn(steps, dialogue_rows)) < len(steps)
        if 1 in dialogue_rows and max(dialogue_rows) < 4 <= total_batch:
            assert len(torn(steps, dialogue_rows)) <= len(steps) / 4


def test_only_what_no_order_could_keep_together_is_torn():
    dialogue_rows, lengths = [3] * 20, [9] * 60
    assert torn(epoch_order(1, 0, lengths, 6, dialogue_rows), dialogue_rows) == []
    assert len(torn(epoch_order(1, 0, lengths, 7, dialogue_rows), dialogue_rows)) == 8 - 2  # of seven rows, two threes


def test_dialogues_are_drawn_at_random_and_anew_in_every_epoch():
    dialogue_rows, lengths = [2] * 300, [9] * 600
    first, second = (epoch_order(42, epoch, lengths, 20, dialogue_rows) for epoch in range(2))
    assert first == epoch_order(42, 0, lengths, 20, dialogue_rows)
    assert first != second
    assert all(not set(first[0]) <= set(step) for step in second)
    assert len({row // 60 for row in first[0]}) > 3  # from everywhere in the file
