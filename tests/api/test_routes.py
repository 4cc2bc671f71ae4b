"""Completions, models and embeddings as OpenAI's own client sees them, and failures that are not the client's."""

import base64
import json
import shlex
import struct
import urllib.error
import urllib.request

import pytest
from openai import APIError, BadRequestError, InternalServerError, NotFoundError, RateLimitError

from tests.api.questions import GREEDY, HELLO, message_of
from tests.served import Server, assistant_of, at_work
from vicuna.answer.flags import ChatFlags
from vicuna.api.routes import describe_routes
from vicuna.errors import UserError


def test_a_completion_goes_on_from_the_text_alone(client, direct, assistant):
    done = client.completions.create(model="obeys", prompt="春天", **GREEDY)
    ids = [assistant.tokenizer.bos_id, *assistant.tokenizer.encode("春天")]
    expected = direct(None, "obeys", ids=ids)
    assert done.object == "text_completion"
    assert done.choices[0].text == expected.text
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (len(ids), expected.tokens)


def test_completions_take_several_prompts_and_token_ids(client, assistant):
    ids = [[assistant.tokenizer.bos_id, *assistant.tokenizer.encode(text)] for text in ("春天", "夏天")]
    by_text = client.completions.create(model="talks", prompt=["春天", "夏天"], **GREEDY)
    by_ids = client.completions.create(model="talks", prompt=ids, **GREEDY)
    single = client.completions.create(model="talks", prompt=ids[1], **GREEDY)
    assert [choice.text for choice in by_text.choices] == [choice.text for choice in by_ids.choices]
    assert by_text.choices[1].text == single.choices[0].text
    assert by_text.choices[0].text != by_text.choices[1].text
    assert by_text.usage.prompt_tokens == sum(map(len, ids))


def test_choices_of_several_prompts_stand_in_order(client):
    drawn = {"temperature": 0.9, "seed": 1, "max_tokens": 10}
    both = client.completions.create(model="talks", prompt=["春天", "夏天"], n=2, **drawn)
    alone = [client.completions.create(model="talks", prompt=p, n=2, **drawn).choices for p in ("春天", "夏天")]
    assert [choice.text for choice in both.choices] == [choice.text for choices in alone for choice in choices]
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]


def test_a_completion_streams_to_the_same_text(client):
    whole = client.completions.create(model="talks", prompt="春天", **GREEDY)
    options = {"include_usage": True}
    chunks = list(
        client.completions.create(model="talks", prompt="春天", stream=True, stream_options=options, **GREEDY)
    )
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage


def test_an_empty_prompt_begins_a_text(client):
    assert client.completions.create(model="talks", prompt="", **GREEDY).usage.prompt_tokens == 1


def test_the_models_are_the_adapters_and_the_base(client):
    assert [model.id for model in client.models.list()] == ["talks", "obeys", "tiny"]
    assert client.models.retrieve("obeys").object == "model"
    with pytest.raises(NotFoundError, match="there is no model 'owner/name' here"):
        client.models.retrieve("owner/name")
    with pytest.raises(NotFoundError, match="there are: talks, obeys, tiny"):
        client.models.retrieve("other")


def test_embeddings_are_the_assistants_in_both_forms(client, assistant):
    texts = ["春天", "夏天", "What is a llama?"]
    rows = [[assistant.tokenizer.bos_id, *assistant.tokenizer.encode(text)] for text in texts]
    expected = assistant.embed(rows, "talks", "")
    for form in ("float", "base64"):
        done = client.embeddings.with_raw_response.create(model="talks", input=texts, encoding_format=form)
        data = json.loads(done.text)["data"]
        assert isinstance(data[0]["embedding"], str) == (form == "base64")
        vectors = [
            list(struct.unpack(f"<{32}f", base64.b64decode(one["embedding"]))) if form == "base64" else one["embedding"]
            for one in data
        ]
        for vector, own in zip(vectors, expected, strict=True):
            assert vector == pytest.approx(own, abs=1e-6)
            assert sum(x * x for x in vector) == pytest.approx(1, abs=1e-4)
    plain = client.embeddings.create(model="talks", input="春天")
    assert plain.data[0].embedding == pytest.approx(expected[0], abs=1e-6)
    assert plain.usage.prompt_tokens == len(rows[0])
    other = client.embeddings.create(model="obeys", input=rows[0])
    assert other.data[0].embedding != pytest.approx(expected[0], abs=1e-3)


def test_many_texts_are_embedded_each_as_if_alone(client):
    texts = [f"第{i}句" * (1 + i % 5) for i in range(20)]
    together = client.embeddings.create(model="talks", input=texts).data
    assert [one.index for one in together] == list(range(20))
    for i in (0, 7, 19):
        alone = client.embeddings.create(model="talks", input=texts[i]).data[0].embedding
        assert together[i].embedding == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"input": "问" * 2000}, "the base's context leaves room for 512"),
        ({"input": ""}, "empty text"),
        ({"input": ["a", ""]}, "empty text"),
        ({"input": []}, "must be a text"),
        ({"input": ["a"] * 2049}, "input has 2049 items, expected at most 2048"),
        ({"input": "a", "encoding_format": "int8"}, "expected float or base64"),
        ({"input": "a", "dimensions": 5}, "dimensions is not supported"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_can_not_be_embedded_is_refused(client, fields, says):
    with pytest.raises(BadRequestError) as error:
        client.embeddings.create(model="talks", **fields)
    assert says in message_of(error)


def test_out_of_memory_is_a_sentence(ask, monkeypatch, assistant):
    def full(*args, **kwargs):
        raise UserError("out of memory while answering: lower Max New Tokens.")
        yield

    monkeypatch.setattr(assistant.engine, "stream", full)
    with pytest.raises(InternalServerError, match="out of memory while answering") as error:
        ask()
    assert error.value.type == "server_error"


@pytest.mark.parametrize("stream", [False, True])
def test_a_bug_is_a_500_without_its_details(ask, monkeypatch, assistant, stream):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("secret")
        yield

    monkeypatch.setattr(assistant.engine, "stream", broken)
    with pytest.raises(APIError, match="the server failed to answer; its log says why") as error:
        list(ask(stream=stream))
    assert "secret" not in str(error.value)
    assert error.value.response.headers["connection"] == "close"  # as the server does: it is not to be used again


def test_a_full_queue_is_a_429_that_says_when_to_come_again(tiny_base):
    assistant = assistant_of(tiny_base, max_queue=1)
    server = Server(assistant)
    with at_work(assistant.worker):
        waiting = assistant.worker.submit(lambda: None, "other")
        for stream in (False, True):
            with pytest.raises(RateLimitError, match="1 requests are waiting already") as error:
                server.client().chat.completions.create(model="tiny", messages=HELLO, stream=stream, **GREEDY)
            assert int(error.value.response.headers["retry-after"]) >= 1
            assert error.value.code == "rate_limit_exceeded"
        with pytest.raises(BadRequestError, match="n is 2, expected at most 1"):
            server.client().chat.completions.create(model="tiny", messages=HELLO, n=2, **GREEDY)
    assert waiting.done.wait(60)
    retried = server.client(max_retries=2).chat.completions.create(model="tiny", messages=HELLO, **GREEDY)
    assert retried.choices[0].message.content
    server.close()


def test_the_command_that_is_printed_at_the_start_is_answered(server, assistant):
    said, command = describe_routes(f"http://{server.address}", assistant, has_key=True).split("\n")
    assert said == f"OpenAI's routes are at http://{server.address}/v1; models: talks, obeys, tiny"
    curl, url, header, kind, *key, data, body = shlex.split(command)
    assert (curl, header, data) == ("curl", "-H", "-d")
    assert key == ["-H", "Authorization: Bearer $VICUNA_API_KEY"]
    name, value = kind.split(": ")
    with urllib.request.urlopen(urllib.request.Request(url, body.encode(), {name: value}), timeout=60) as reply:
        assert json.load(reply)["model"] == "talks"


def test_health_is_told_without_a_key(assistant):
    server = Server(assistant, ChatFlags(api=True, api_key="sesame"))
    try:
        with urllib.request.urlopen(f"http://{server.address}/health", timeout=30) as reply:
            assert json.load(reply) == {"status": "ok"}
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"http://{server.address}/v1/models", timeout=30)
    finally:
        server.close()
