"""Answers in pieces, as OpenAI's own client sees them."""

import json
import threading
import urllib.request

import pytest
from openai import APIError

from tests.api.questions import GREEDY, HELLO, joined
from tests.served import in_step
from vicuna.answer.stream import Beam, Update
from vicuna.errors import UserError


def test_a_stream_is_the_answer_in_pieces(ask, direct, assistant, monkeypatch):
    expected = direct(HELLO, max_new_tokens=30, min_new_tokens=30)
    stream, received = in_step(assistant.engine)  # a client that is slow gets fewer pieces
    monkeypatch.setattr(assistant.engine, "stream", stream)
    chunks = []
    for chunk in ask(stream=True, max_tokens=30, extra_body={"min_tokens": 30}):
        chunks.append(chunk)
        received(chunk.choices[0].delta.content or "")
    assert joined(chunks) == [expected.text]
    assert sum(bool(chunk.choices[0].delta.content) for chunk in chunks) > 5
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "length"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_tells_the_usage_when_asked(ask):
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage == ask().usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_stream_is_server_sent_events_that_end_with_done(server):
    body = json.dumps({"messages": HELLO, **GREEDY, "stream": True}).encode()
    request = urllib.request.Request(
        f"http://{server.address}/v1/chat/completions", body, {"Content-Type": "application/json; charset=utf-8"}
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        lines = reply.read().decode()
    events = lines.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(event.removeprefix("data: "))["choices"] for event in events[:-2])


def test_streamed_choices_are_told_apart(ask):
    drawn = {"temperature": 0.9, "n": 4, "seed": 7, "max_tokens": 20}
    whole = [choice.message.content for choice in ask(**drawn).choices]
    chunks = list(ask(**drawn, stream=True))
    assert joined(chunks, 4) == whole
    ends = [choice.index for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert sorted(ends) == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(6))
def test_any_drawn_answer_streams_to_the_same_text(ask, seed):
    drawn = {"temperature": 2.0, "top_p": 1.0, "seed": seed, "max_tokens": 60, "extra_body": {"top_k": 0}}
    assert joined(ask(**drawn, stream=True)) == [ask(**drawn).choices[0].message.content]


def test_beams_are_told_when_they_are_decided(ask):
    beams = {"extra_body": {"num_beams": 3, "do_sample": False}, "temperature": None}
    chunks = list(ask(**beams, stream=True))
    assert joined(chunks) == [ask(**beams).choices[0].message.content]
    assert sum(bool(chunk.choices[0].delta.content) for chunk in chunks if chunk.choices) == 1


def _update(text: str, finish: str = "") -> Update:
    return Update([Beam([], text)], len(text), 0, 0, finish)


def test_an_error_on_the_way_is_told_in_the_stream(ask, monkeypatch, assistant):
    seen = threading.Event()

    def fails(*args, **kwargs):
        yield _update("一")
        assert seen.wait(10)
        raise UserError("out of memory while answering: lower Max New Tokens.")

    monkeypatch.setattr(assistant.engine, "stream", fails)
    stream = iter(ask(stream=True))
    assert [next(stream).choices[0].delta.content for _ in range(2)] == ["", "一"]
    seen.set()
    with pytest.raises(APIError, match="out of memory while answering"):
        next(stream)
    monkeypatch.undo()
    assert ask().choices[0].message.content
