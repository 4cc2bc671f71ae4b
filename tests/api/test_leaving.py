"""Clients that go away, queued or being answered: their place is free at once."""

import json
import socket
import threading
import time

import pytest
from openai import BadRequestError

from tests.served import Server, assistant_of, at_work, make_slow, wait_for
from vicuna.api import routes

LONG = {
    "messages": [{"role": "user", "content": "讲一个很长的故事。"}],
    "temperature": 0,
    "max_tokens": 440,
    "min_tokens": 440,
}

ONLY_INPUT = {**dict.fromkeys(LONG), "input": "你好"}


@pytest.fixture(scope="module")
def server(tiny_base, tmp_path_factory):
    server = Server(assistant_of(make_slow(tiny_base, tmp_path_factory.mktemp("slow") / "base"), max_queue=4))
    yield server
    server.close()


@pytest.fixture
def answered(server, monkeypatch):
    """The last updates of the answers that were made."""
    made, last = server.assistant.engine.stream, []

    def watched(*args, **kwargs):
        update = None
        for update in made(*args, **kwargs):
            yield update
        last.append(update)

    monkeypatch.setattr(server.assistant.engine, "stream", watched)
    return last


def ask(server, path="/v1/chat/completions", **fields) -> socket.socket:
    """A request that has been sent, and whose reply nobody has read yet."""
    body = json.dumps({name: value for name, value in {**LONG, **fields}.items() if value is not None}).encode()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def read(connection: socket.socket, *, times: int, word: bytes) -> bytes:
    """What the server has sent once the word came so often."""
    seen = b""
    while seen.count(word) < times:
        seen += (part := connection.recv(4096))
        assert part, "the server has gone"
    return seen


def no_answer_is_made() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name == "answer"]


def test_a_stream_that_is_left_stops_at_the_next_token(server, answered):
    connection = ask(server, stream=True)
    read(connection, times=3, word=b"data: ")
    connection.close()
    wait_for(no_answer_is_made)
    (last,) = answered
    assert last.finish == "stopped"
    assert 1 <= last.tokens < 220


def test_an_answer_that_is_left_before_it_comes_stops_too(server, answered):
    worker = server.assistant.worker
    connection = ask(server)
    wait_for(lambda: not worker.waiting and not no_answer_is_made())
    time.sleep(0.3)
    connection.close()
    wait_for(no_answer_is_made)
    (last,) = answered
    assert last.finish == "stopped"
    assert last.tokens < 220


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"n": 3, "stream": True}, {"n": 3}], ids=str)
def test_who_leaves_the_queue_is_taken_out_while_another_is_served(server, answered, fields):
    worker = server.assistant.worker
    with at_work(worker) as running:
        connection = ask(server, **fields)
        wait_for(lambda: worker.waiting == fields.get("n", 1))
        connection.close()
        wait_for(lambda: not worker.waiting)
        wait_for(no_answer_is_made)
        assert not running.done.is_set()
    assert [update.tokens for update in answered] == [0] * fields.get("n", 1)


def test_embeddings_that_are_left_leave_the_queue_too_and_hold_nobody_up(server):
    worker = server.assistant.worker
    with at_work(worker) as running:
        waiting = [ask(server, "/v1/embeddings", **ONLY_INPUT) for _ in range(worker.max_queue)]
        wait_for(lambda: worker.waiting == worker.max_queue)
        with pytest.raises(BadRequestError, match="temperature 11 is out of range"):
            server.client().chat.completions.create(model="base", messages=LONG["messages"], temperature=11)
        for connection in waiting:
            connection.close()
        wait_for(lambda: not worker.waiting)
        assert not running.done.is_set()


@pytest.mark.parametrize(
    ("name", "path", "fields"),
    [("parse_chat", "/v1/chat/completions", {}), ("parse_embedding", "/v1/embeddings", ONLY_INPUT)],
    ids=["chat", "embedding"],
)
def test_who_left_while_the_request_was_read_takes_no_place(server, monkeypatch, name, path, fields):
    worker, read = server.assistant.worker, getattr(routes, name)
    begun, gone, submitted = threading.Event(), threading.Event(), []

    def slowly(*args):
        begun.set()
        gone.wait()
        return read(*args)

    monkeypatch.setattr(routes, name, slowly)
    monkeypatch.setattr(worker, "submit", lambda *args: submitted.append(args))
    connection = ask(server, path, **fields)
    begun.wait()
    connection.close()
    assert server.client().models.list().data  # the server has looked at its connections since
    gone.set()
    wait_for(lambda: not server.requests)
    assert submitted == []


def test_one_of_two_that_leaves_costs_the_other_nothing(server, answered):
    first, second = ask(server, stream=True), ask(server, stream=True, max_tokens=8, min_tokens=8)
    read(first, times=3, word=b"data: ")
    first.close()
    text = read(second, times=1, word=b"[DONE]")
    second.close()
    assert text.count(b'"finish_reason": "length"') == 1
    wait_for(no_answer_is_made)
    assert sorted(update.finish for update in answered) == ["length", "stopped"]


def test_places_come_back_however_often_clients_leave(server):
    worker, left = server.assistant.worker, []
    for i in range(12):  # three times as many as may wait
        left.append(ask(server, stream=bool(i % 2), max_tokens=100, min_tokens=100))
        time.sleep(0.02 * (i % 4))
        left[-1].shutdown(socket.SHUT_WR)
    for connection in left:  # until the server, which may not have seen them all yet, has let them go
        while connection.recv(4096):
            pass
        connection.close()
    wait_for(lambda: not server.requests and no_answer_is_made() and not worker.waiting)
    done = server.client().chat.completions.create(model="base", messages=LONG["messages"], max_tokens=2)
    assert done.choices[0].message.content is not None
