"""A queue that no client gets more of by the names it invents."""

import random
from collections import Counter

import pytest

from tests.served import at_work, wait_for
from vicuna.answer.fair_queue import Client, FairQueue, QueueFull
from vicuna.answer.worker import Worker


def filled(queue: FairQueue[str], *items: str) -> FairQueue[str]:
    """Items such as a.x1: of share a, client x."""
    for item in items:
        queue.add(item, client_of(item))
    return queue


def client_of(item: str) -> Client:
    share, _, name = item.partition(".")
    return Client(share, name[:1])


def emptied(queue: FairQueue[str]) -> list[str]:
    return list(iter(queue.take, None))


def test_turns_go_by_shares_and_within_one_by_clients():
    queue = filled(FairQueue(9), "a.x1", "a.x2", "a.y1", "a.z1", "b.x1", "b.x2")
    assert emptied(queue) == ["a.x1", "b.x1", "a.y1", "b.x2", "a.z1", "a.x2"]
    assert len(queue) == 0


def test_who_was_just_served_comes_behind_those_who_came_meanwhile():
    queue = filled(FairQueue(9), "a.x1", "a.y1", "b.x1")
    assert queue.take(Client("a", "x")) == "b.x1"
    assert queue.take(Client("b", "x")) == "a.y1"


def test_a_share_whose_turn_it_can_not_be_is_passed_over_and_keeps_its_place():
    queue = filled(FairQueue(9), "a.x1", "b.x1", "a.x2")
    assert queue.take(may=lambda share: share != "a") == "b.x1"
    assert queue.take(may=lambda share: share != "a") is None
    assert emptied(queue) == ["a.x1", "a.x2"]


def test_in_a_full_queue_who_has_most_gives_up_its_latest_to_who_has_less():
    queue = filled(FairQueue(5), "a.x1", "a.x2", "a.y1", "a.z1", "b.x1")
    assert queue.add("c.x1", client_of("c.x1")) == "a.x2"  # of the client with most of that share
    assert queue.add("c.x2", client_of("c.x2")) in ("a.x1", "a.y1", "a.z1")
    for item in ("a.x9", "b.y1", "c.x3"):  # two of a and c each, one of b: nobody has more than these would
        with pytest.raises(QueueFull, match="5 requests are waiting already"):
            queue.add(item, client_of(item))
    assert len(queue) == 5


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_or_given_twice_and_a_full_queue_is_shared_evenly(seed):
    chance, queue = random.Random(seed), FairQueue(12)
    waiting: dict[str, Client] = {}
    for n in range(500):
        client = Client(chance.choice("aaaaaabc"), chance.choice("xyz"))
        try:
            lost = queue.add(f"{n}", client)
        except QueueFull:
            counts = Counter(one.share for one in waiting.values())
            assert counts[client.share] + 1 >= max(counts.values())
        else:
            waiting[f"{n}"] = client
            if lost:
                del waiting[lost]
        if chance.random() < 0.2 and waiting:
            taken = chance.choice(list(waiting))
            assert queue.remove(taken, waiting.pop(taken))
        if chance.random() < 0.2 and (taken := queue.take()):
            del waiting[taken]
        assert len(queue) == len(waiting) <= 12
    assert sorted(emptied(queue)) == sorted(waiting)


def test_a_call_that_lost_its_place_is_done_and_says_why():
    worker = Worker(max_queue=3)
    with at_work(worker, Client("somebody")):
        greedy = [worker.submit(lambda: None, Client("a", f"name{n}")) for n in range(3)]
        worker.submit(lambda: None, Client("b"))
        assert [one.refused is not None for one in greedy] == [False, False, True]
        assert greedy[2].done.is_set()
        assert not greedy[2].cancel()
        assert isinstance(greedy[2].refused, QueueFull)
        assert greedy[2].refused.retry_s >= 1
    wait_for(lambda: all(one.done.is_set() for one in greedy))
    assert greedy[0].refused is None
