"""The order of training: every row once an epoch, the same for any number of ranks."""

import random
from collections import Counter

import pytest

from vicuna.train.batches import epoch_order, rank_batches

LENGTHS = [random.Random(0).randrange(5, 300) for _ in range(111)]


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
