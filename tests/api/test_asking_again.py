"""How often OpenAI's client asks, left to itself: once where asking again can not help, more often where it can."""

import pytest
from openai import BadRequestError, InternalServerError, RateLimitError

from tests.api.questions import GREEDY, HELLO
from vicuna.answer.worker import QueueFull
from vicuna.errors import UserError

PATIENT = {"max_retries": 2}  # what the client does if nobody tells it otherwise


@pytest.fixture
def asked(monkeypatch, assistant):
    """asked(error): requests that reach the engine, each of which fails with it; the list grows by one for each."""
    calls = []

    def failing(error):
        def stream(*args, **kwargs):
            calls.append(args)
            raise error
            yield

        monkeypatch.setattr(assistant.engine, "stream", stream)
        return calls

    return failing


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "error", [UserError("out of memory while answering: lower Max New Tokens."), ZeroDivisionError("a bug")], ids=repr
)
def test_a_failure_of_the_model_is_not_asked_for_again(server, asked, error, stream):
    calls = asked(error)
    with pytest.raises(InternalServerError) as failed:
        server.client(**PATIENT).chat.completions.create(model="talks", messages=HELLO, stream=stream, **GREEDY)
    assert len(calls) == 1
    assert failed.value.response.headers["x-should-retry"] == "false"


def test_a_failing_completion_and_embedding_are_not_either(server, asked, assistant, monkeypatch):
    calls = asked(ZeroDivisionError("a bug"))
    with pytest.raises(InternalServerError):
        server.client(**PATIENT).completions.create(model="talks", prompt="春天", **GREEDY)
    assert len(calls) == 1
    embedded = []

    def embed(*args, **kwargs):
        embedded.append(args)
        raise UserError("out of memory while embedding.")

    monkeypatch.setattr(assistant, "embed", embed)
    with pytest.raises(InternalServerError, match="out of memory while embedding"):
        server.client(**PATIENT).embeddings.create(model="talks", input="春天")
    assert len(embedded) == 1


def test_a_mistake_of_the_request_says_so_too(server):
    with pytest.raises(BadRequestError) as error:
        server.client(**PATIENT).chat.completions.create(model="talks", messages=[], **GREEDY)
    assert error.value.response.headers["x-should-retry"] == "false"


def test_a_full_queue_is_asked_again(server, asked, tiny_base):
    calls = asked(QueueFull("1 requests are waiting already; try again in a little while.", 1))
    with pytest.raises(RateLimitError) as error:
        server.client(max_retries=1).chat.completions.create(model="talks", messages=HELLO, **GREEDY)
    assert len(calls) == 2
    assert "x-should-retry" not in error.value.response.headers
