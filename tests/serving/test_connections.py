"""Connections that ask nothing, ask slowly or do not read: each is ended in its time, and never keeps others out."""

import asyncio
import socket
import threading
from contextlib import contextmanager

import pytest

from tests.served import wait_for
from vicuna.serving import connections as module
from vicuna.serving.connections import Connections, Limits, Phase, Seldom, network_of
from vicuna.serving.server import make_server

ASK = b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n"


class Clock:
    """Seconds that pass when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def served(limits: Limits, shared=()):
    """A server whose paths are answered at once, once somebody lets it, or with more than anybody reads."""
    clock, go = Clock(), threading.Event()

    async def app(scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        while scope["path"] == "/later" and not go.is_set():
            await asyncio.sleep(0.01)
        size = 2**26 if scope["path"] == "/much" else 2
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": b"x" * size})

    connections = Connections(limits, shared, clock)
    server = make_server(app, connections)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    server.clock, server.go, server.connections = clock, go, connections
    opened = []

    def connect(sent: bytes = b"", address: str = "127.0.0.1", until: object = None) -> socket.socket:
        """A connection from an address, once it is in this phase."""
        known = set(connections)
        one = socket.create_connection(listening.getsockname(), 60, source_address=(address, 0))
        opened.append(one)
        one.sendall(sent)
        if until is not None:
            wait_for(lambda: any(new.phase is until for new in set(connections) - known))
        return one

    server.connect = connect
    try:
        yield server
    finally:
        go.set()
        server.should_exit = True
        for one in opened:
            one.close()
        thread.join(60)


def is_closed(one: socket.socket) -> bool:
    """Whether the server ends it; waits for that, or for a byte."""
    try:
        return not one.recv(1)
    except ConnectionError:
        return True


def is_answered(one: socket.socket) -> bool:
    one.sendall(ASK % b"")
    return whole_answer(one).startswith(b"HTTP/1.1 200")


def whole_answer(one: socket.socket) -> bytes:
    answer = b""
    while not answer.endswith(b"\r\n\r\nxx") and (part := one.recv(65536)):
        answer += part
    return answer


LATER, SLOW_BODY = ASK % b"later", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nx"


@pytest.fixture
def often(monkeypatch):
    """The server looks for who is late as often as it can; what is late a test's own clock says."""
    monkeypatch.setattr(module, "SWEEP_S", 0.01)


def test_who_asks_nothing_or_slowly_is_ended_and_who_waits_for_an_answer_is_not(often):
    with served(Limits(20, 20)) as server:
        waiting = server.connect(LATER, until=Phase.ANSWER)
        silent = server.connect(until=Phase.HEAD)
        half = server.connect(b"GET / HTTP/1.1\r\nHost:", until=Phase.HEAD)
        body = server.connect(SLOW_BODY, until=Phase.BODY)
        again = server.connect(until=Phase.HEAD)
        server.clock.now += 15
        assert is_answered(again)
        wait_for(lambda: [one.phase for one in server.connections].count(Phase.HEAD) == 3)
        again.sendall(b"G")  # from here on uvicorn waits for ever
        half.sendall(b" a")
        server.clock.now += 10
        assert is_closed(silent)
        assert is_closed(half)  # whatever came meanwhile
        server.clock.now += 11
        assert is_closed(again)
        assert sorted(one.phase for one in server.connections) == [Phase.BODY, Phase.ANSWER]
        server.clock.now += 30
        assert is_closed(body)
        server.clock.now += 1e6
        server.go.set()
        assert whole_answer(waiting).startswith(b"HTTP/1.1 200")


def test_a_body_that_keeps_coming_may_take_longer(often):
    with served(Limits(20, 20, rate=1000)) as server:
        body = server.connect(SLOW_BODY, until=Phase.BODY)
        (connection,) = server.connections
        body.sendall(b"x" * 30_000)
        wait_for(lambda: connection.received > 30_000)
        server.clock.now += 89
        silent = server.connect(until=Phase.HEAD)
        server.clock.now += 0.5
        assert connection in server.connections
        server.clock.now += 1
        assert is_closed(body)
        assert is_answered(silent)


def test_who_does_not_read_an_answer_is_ended(often):
    with served(Limits(20, 20)) as server:
        deaf = server.connect(ASK % b"much")
        wait_for(lambda: any(one.taken_at for one in server.connections))
        server.clock.now += 59
        reading = server.connect(ASK % b"much")
        rest = 2**26
        while rest > 2**25:
            rest -= len(reading.recv(2**20))
        server.clock.now += 2
        wait_for(lambda: len(server.connections) == 1)
        while rest > 0:
            rest -= len(reading.recv(2**20))
        got = 0
        while part := deaf.recv(2**20):
            got += len(part)
        assert got < 2**26


@pytest.mark.parametrize("kept", [b"", SLOW_BODY])
def test_an_address_that_has_as_many_as_it_may_loses_what_asks_nothing(kept):
    with served(Limits(20, 3)) as server:
        until = Phase.BODY if kept else Phase.HEAD
        waiting = [server.connect(LATER, until=Phase.ANSWER) for _ in range(2)]
        silent = server.connect(kept, until=until)
        another = server.connect(address="127.0.0.2", until=Phase.HEAD)
        waiting.append(server.connect(LATER, until=Phase.ANSWER))
        assert is_closed(silent)
        refused = server.connect(LATER)
        assert refused.recv(65536).startswith(b"HTTP/1.1 503")
        assert is_closed(refused)
        assert is_answered(another)
        server.go.set()
        assert all(whole_answer(one).startswith(b"HTTP/1.1 200") for one in waiting)


def test_of_all_that_may_be_who_has_most_gives_to_who_has_less():
    with served(Limits(6, 5)) as server:
        first = [server.connect(LATER, until=Phase.ANSWER) for _ in range(4)]
        second = [server.connect(LATER, "127.0.0.2", until=Phase.ANSWER) for _ in range(2)]
        third = [server.connect(LATER, "127.0.0.3", until=Phase.ANSWER) for _ in range(2)]
        assert all(map(is_closed, first[:2]))
        fourth = server.connect(LATER, "127.0.0.4", until=Phase.ANSWER)
        assert is_closed(first[2])
        refused = server.connect(LATER, "127.0.0.4")  # who has two gives none to who has one
        assert refused.recv(65536).startswith(b"HTTP/1.1 503")
        server.go.set()
        for one in [first[3], *second, *third, fourth]:
            assert whole_answer(one).startswith(b"HTTP/1.1 200")


def test_an_address_that_many_come_from_may_have_all():
    with served(Limits(6, 2), shared=["127.0.0.0/30"]) as server:
        behind = [server.connect(LATER, until=Phase.ANSWER) for _ in range(5)]
        assert len(server.connections) == 5
        server.go.set()
        assert all(whole_answer(one).startswith(b"HTTP/1.1 200") for one in behind)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        *(
            ("10.0.0.7", "10.0.0.7"),
            ("::ffff:10.0.0.7", "10.0.0.7"),
            ("fe80::1%eth0", "fe80::/64"),
            ("a name", "a name"),
        ),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
    ],
)
def test_of_a_long_address_counts_the_part_that_a_household_has(address, network):
    assert network_of(address) == network


def test_a_line_of_the_log_comes_once_a_minute(caplog, monkeypatch):
    from vicuna.log import log

    monkeypatch.setattr(log, "propagate", True)
    clock = Clock()
    seldom = Seldom(clock)
    for _ in range(900):
        clock.now += 0.125
        seldom.say("no room")
    said = dict.fromkeys(one.message for one in caplog.records)  # libraries of other tests may hand on each once more
    assert list(said) == [
        "WARNING no room.",
        "WARNING no room (480 times since this was last said).",
    ]
