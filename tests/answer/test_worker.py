"""The one thread that runs the model: whose turn it is, what may wait, and what it survives."""

import itertools
import logging
import random
import threading
import time
import weakref
from collections import Counter
from types import SimpleNamespace

import pytest

from tests.served import at_work
from vicuna.answer.worker import QueueFull, Worker
from vicuna.errors import UserError


@pytest.fixture
def ran():
    """The names of the calls in the order in which they ran."""
    return []


@pytest.fixture
def add(ran):
    """add(worker, "a1"): submit a call that notes its name; its letter is the client."""
    return lambda worker, name: worker.submit(lambda: ran.append(name), name[0])


def finish(calls) -> None:
    for call in calls:
        call.done.wait()


def test_clients_take_turns_and_each_keeps_its_order(add, ran):
    worker = Worker()
    with at_work(worker):
        calls = [add(worker, name) for name in ("a1", "a2", "a3", "b1", "b2", "c1")]
    finish(calls)
    assert ran == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_a_client_that_comes_while_another_is_served_is_next(add, ran):
    worker = Worker()
    with at_work(worker, "a"):
        calls = [add(worker, name) for name in ("a1", "a2", "b1")]
    finish(calls)
    assert ran == ["b1", "a1", "a2"]


def test_a_client_that_always_asks_again_lets_the_others_through(ran):
    worker, enough = Worker(), threading.Event()

    def greedy() -> None:
        ran.append("a")
        if ran.count("a") < 8:
            worker.submit(greedy, "a")
        else:
            enough.set()

    with at_work(worker):
        for work, client in [(greedy, "a")] * 2 + [(lambda: ran.append("b"), "b")] * 3:
            worker.submit(work, client)
    enough.wait()
    assert "".join(ran).startswith("ababab")


def test_one_call_runs_at_a_time(ran):
    worker, running = Worker(), []

    def work() -> None:
        running.append(1)
        ran.append(len(running))
        time.sleep(0.002)
        running.pop()

    finish([worker.submit(work, str(i % 3)) for i in range(20)])
    assert ran == [1] * 20


def test_many_threads_at_once_lose_no_call():
    worker, ran, calls, lock = Worker(max_queue=10_000), Counter(), [], threading.Lock()

    def client(name: str) -> None:
        draw = random.Random(name)
        for i in range(100):
            call = worker.submit(lambda i=i: ran.update([(name, i)]), name)
            kept = draw.random() < 0.7 or not call.cancel()
            with lock:
                calls.append((call, name, i, kept))

    threads = [threading.Thread(target=client, args=(str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    finish([call for call, *_ in calls])
    assert ran == Counter((name, i) for _, name, i, kept in calls if kept)
    assert worker.waiting == 0


def test_a_waiting_call_can_be_taken_back(add, ran):
    worker = Worker()
    with at_work(worker):
        calls = [add(worker, name) for name in ("a1", "a2", "b1")]
        assert worker.waiting == 3
        assert calls[0].cancel()
        assert calls[2].cancel()
        assert calls[0].done.is_set()
        assert worker.waiting == 1
        assert not calls[0].cancel()
    finish(calls)
    assert ran == ["a2"]


def test_a_call_that_runs_or_has_run_cannot_be_taken_back(add, ran):
    worker = Worker()
    with at_work(worker) as running:
        assert not running.cancel()
        assert not running.done.is_set()
    call = add(worker, "a1")
    finish([call])
    assert not call.cancel()
    assert ran == ["a1"]


def test_a_full_queue_refuses_and_takes_again_when_there_is_room(add, ran):
    worker = Worker(max_queue=2)
    with at_work(worker):  # runs: it waits no longer
        calls = [add(worker, "a1"), add(worker, "b1")]
        with pytest.raises(QueueFull, match="2 requests are waiting already; try again") as refused:
            add(worker, "c1")
        assert isinstance(refused.value, UserError)
        assert refused.value.retry_s >= 1
        assert worker.waiting == 2
        calls[0].cancel()
        calls.append(add(worker, "c2"))
    finish(calls)
    assert ran == ["b1", "c2"]


@pytest.mark.parametrize(("call_s", "retry_s"), [(0.01, 1), (10, 7)])  # 10 - 9 * 0.8**4 seconds is the mean of four
def test_the_refusal_says_when_to_come_again(monkeypatch, call_s, retry_s):
    clock = itertools.count(0, call_s)
    monkeypatch.setattr("vicuna.answer.worker.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    worker = Worker(max_queue=1)
    for _ in range(4):
        finish([worker.submit(lambda: None)])
    with at_work(worker):
        waiting = worker.submit(lambda: None)
        with pytest.raises(QueueFull) as refused:
            worker.submit(lambda: None)
        assert refused.value.retry_s == retry_s
    finish([waiting])


@pytest.mark.parametrize("error", [ValueError("broken"), SystemExit(3), KeyboardInterrupt()])
def test_the_thread_outlives_what_a_call_raises(add, ran, caplog, error):
    worker = Worker()

    def fail() -> None:
        raise error

    with caplog.at_level(logging.ERROR, logger="vicuna"):
        logging.getLogger("vicuna").addHandler(caplog.handler)
        try:
            finish([worker.submit(fail, "a"), add(worker, "a1")])
        finally:
            logging.getLogger("vicuna").removeHandler(caplog.handler)
    assert ran == ["a1"]
    assert "a call of the model failed" in caplog.text


def test_a_call_that_is_done_is_not_held():
    class Large:
        pass

    worker, large, gone = Worker(), Large(), threading.Event()
    weakref.finalize(large, gone.set)
    call = worker.submit(lambda large=large: None)
    finish([call])
    del call, large
    assert gone.wait(60)
