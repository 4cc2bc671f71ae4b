"""Whose turn it is on a page, and until when: by address, whatever a client calls itself, and only while it listens."""

import json
import socket
import threading
from contextlib import contextmanager, suppress

import gradio as gr
import httpx
import pytest

from tests.served import wait_for
from vicuna.answer import leaving
from vicuna.answer.flags import ServeFlags
from vicuna.doors.door import Door
from vicuna.pages import turns as module
from vicuna.pages.events import ANSWERING
from vicuna.pages.server import BLOCKS_KWARGS, Page, application
from vicuna.pages.turns import EACH, Turns, attended
from vicuna.serving.connections import Connections, Limits
from vicuna.serving.server import make_server

QUEUE = 8


class Served:
    """A small page: `answer` waits until it is let go on, `call` works until nobody waits for it."""

    def __init__(self) -> None:
        self.go, self.begun, self.gone, self.ended = threading.Event(), [], [], []

        def answer(request: gr.Request, text: str):
            self.begun.append(text)
            try:
                while not self.go.wait(0.01):
                    yield text
                yield f"{text}!"
            finally:
                self.ended.append(text)

        def call(text: str) -> str:
            self.begun.append(text)
            try:
                while not self.go.wait(0.01):
                    leaving.check()
            finally:
                self.ended.append(text)
            return f"{text}!"

        with gr.Blocks(**BLOCKS_KWARGS) as blocks:
            box = gr.Textbox()
            handler = attended(answer, lambda request: self.gone.append(request.session_hash))
            box.submit(handler, box, box, api_name="answer", **ANSWERING)
            gr.Button().click(call, box, box, api_name="call", queue=False)
        flags = ServeFlags(max_queue=QUEUE)
        app = application(Page(blocks, css=""), flags, Door(flags))
        self.server = make_server(app, Connections(Limits(500, 400)))
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = self.listening.getsockname()
        self.thread = threading.Thread(target=self.server.run, args=([self.listening],), daemon=True)
        self.thread.start()
        wait_for(lambda: self.server.started)
        stack = app.middleware_stack
        while not isinstance(stack, Turns):
            stack = stack.app
        self.turns = stack
        self.fn_index = next(i for i, one in blocks.fns.items() if one.api_name == "answer")
        self._opened = []

    def send(self, path: str, body: dict, address: str = "127.0.0.1") -> socket.socket:
        """A request whose answer is not waited for."""
        one = socket.create_connection(self.address, 60, source_address=(address, 0))
        self._opened.append(one)
        data = json.dumps(body).encode()
        head = f"POST /gradio_api/{path} HTTP/1.1\r\nHost: {self.address[0]}\r\nContent-Type: application/json\r\n"
        one.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        return one

    def join(self, name: str, address: str = "127.0.0.1") -> socket.socket:
        return self.send("queue/join", {"data": [name], "fn_index": self.fn_index, "session_hash": name}, address)

    @contextmanager
    def listen(self, name: str):
        """A session's stream."""
        with self.client() as client, client.stream("GET", f"/gradio_api/queue/data?session_hash={name}") as stream:
            yield stream

    def client(self, address: str = "127.0.0.1") -> httpx.Client:
        transport = httpx.HTTPTransport(local_address=address)
        return httpx.Client(base_url=f"http://127.0.0.1:{self.address[1]}", transport=transport, timeout=60)

    def end_all(self) -> None:
        """Have everything answered, and forget it."""
        self.go.set()
        for one in self._opened:
            one.close()
        wait_for(lambda: not self.turns.answers.waiting + self.turns.answers.inside)
        wait_for(lambda: not self.turns.calls.waiting + self.turns.calls.inside)
        for one in (self.begun, self.gone, self.ended, self._opened):
            one.clear()
        self.go.clear()

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(60)


@pytest.fixture(scope="module")
def page():
    page = Served()
    yield page
    page.close()


@pytest.fixture
def served(page, monkeypatch):
    """The page, on which nobody has to hurry: what nobody listens to is given up when a test says so."""
    monkeypatch.setattr(module, "UNHEARD_S", 600)
    yield page
    monkeypatch.setattr(module, "UNHEARD_S", 0.01)
    for turn in page.turns.listeners.turns():
        turn.give_up()
    page.end_all()


def status(one: socket.socket) -> int:
    return int(one.recv(65536).split()[1])


def last(stream: httpx.Response) -> dict:
    """What a stream tells last of an answer."""
    told = [json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line.startswith("data: ")]
    return next(one for one in reversed(told) if one["msg"] == "process_completed")


def test_eighty_names_of_one_address_do_not_keep_another_out(served):
    greedy = [served.join(f"greedy{n}") for n in range(80)]
    refused = 80 - EACH - QUEUE
    wait_for(lambda: served.turns.answers.waiting == QUEUE and served.turns.answers.inside == EACH)
    assert [status(one) for one in greedy[:EACH]] == [200] * EACH
    for n in range(EACH):
        threading.Thread(target=listen_on, args=(served, f"greedy{n}"), daemon=True).start()
    wait_for(lambda: len(served.begun) == EACH)
    assert status(served.join("visitor", "127.0.0.2")) == 200
    with served.listen("visitor") as stream:
        wait_for(lambda: "visitor" in served.begun)
        served.go.set()
        assert last(stream)["output"]["data"] == ["visitor!"]
    assert sorted(served.begun[:EACH]) == [f"greedy{n}" for n in range(EACH)]
    answers = [status(one) for one in greedy[-refused:]]
    assert answers == [503] * refused


def listen_on(served: Served, name: str) -> None:
    with suppress(httpx.HTTPError), served.listen(name) as stream:
        for _ in stream.iter_lines():
            pass


def test_where_all_places_are_taken_who_has_most_waiting_gives_one(served):
    greedy = [served.join(f"greedy{n}") for n in range(EACH + QUEUE)]
    wait_for(lambda: served.turns.answers.waiting == QUEUE)
    others = [served.join(f"{n}{i}", f"127.0.1.{n}") for n in range(3) for i in range(EACH)]
    wait_for(lambda: served.turns.answers.inside == module.MAX_ANSWERS)
    assert [status(one) for one in others] == [200] * len(others)
    served.join("visitor", "127.0.0.2")
    assert status(greedy[-1]) == 503
    assert served.turns.answers.waiting == QUEUE


def test_what_nobody_listens_to_does_not_run(served, monkeypatch):
    monkeypatch.setattr(module, "UNHEARD_S", 0.01)
    assert status(served.join("silent")) == 200
    wait_for(lambda: served.turns.answers.inside == 0)
    monkeypatch.setattr(module, "UNHEARD_S", 600)
    assert status(served.join("heard")) == 200
    served.go.set()
    with served.listen("heard") as stream:
        assert last(stream)["output"]["data"] == ["heard!"]
    assert served.begun == ["heard"]


def test_an_answer_ends_with_the_last_who_listens(served, monkeypatch):
    served.join("left").recv(65536)
    with served.listen("left"):
        wait_for(lambda: served.begun == ["left"])
        monkeypatch.setattr(module, "UNHEARD_S", 0.01)
    wait_for(lambda: served.ended == ["left"])
    wait_for(lambda: served.gone == ["left"])
    wait_for(lambda: served.turns.answers.inside == 0)


def test_an_event_is_listened_to_by_its_own_name_too(served):
    with served.client() as client:
        event = client.post("/gradio_api/call/answer", json={"data": ["plain"]}).json()["event_id"]
        with client.stream("GET", f"/gradio_api/call/answer/{event}") as stream:
            wait_for(lambda: served.begun == ["plain"])
            served.go.set()
            assert 'data: ["plain!"]' in list(stream.iter_lines())
    wait_for(lambda: served.turns.answers.inside == 0)


def test_a_call_beside_the_queue_ends_with_its_connection(served, capfd):
    first = served.send("run/call", {"data": ["first"]})
    wait_for(lambda: served.begun == ["first"])
    first.close()
    wait_for(lambda: served.ended == ["first"])
    wait_for(lambda: served.turns.calls.inside == 0)
    served.go.set()
    with served.client() as client:
        assert client.post("/gradio_api/run/call", json={"data": ["second"]}).json()["data"] == ["second!"]
    assert "Traceback" not in capfd.readouterr().err


def test_an_address_works_on_a_few_calls_at_once_and_another_is_served_beside_them(served):
    greedy = [served.send("run/call", {"data": [f"greedy{n}"]}) for n in range(20)]
    wait_for(lambda: served.turns.calls.inside == EACH and served.turns.calls.waiting == 20 - EACH)
    other = served.send("run/call", {"data": ["visitor"]}, "127.0.0.2")
    wait_for(lambda: "visitor" in served.begun)
    assert len(served.begun) == EACH + 1
    served.go.set()
    assert status(other) == 200
    assert [status(one) for one in greedy] == [200] * 20


def test_a_body_that_does_not_come_takes_no_place(served):
    body = json.dumps({"data": ["slow"]}).encode()
    slow = []
    for _ in range(EACH):
        one = socket.create_connection(served.address, 60)
        head = "POST /gradio_api/run/call HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        one.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:-1])
        slow.append(one)
    served.go.set()
    with served.client() as client:
        assert client.post("/gradio_api/run/call", json={"data": ["quick"]}).json()["data"] == ["quick!"]
    for one in slow:
        one.sendall(body[-1:])
        assert status(one) == 200
        one.close()
