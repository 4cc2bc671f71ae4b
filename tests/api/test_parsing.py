"""Requests that are refused, and how each says which field is wrong; what is neutral is taken."""

import json
import urllib.error
import urllib.request

import pytest
from openai import BadRequestError, NotFoundError

from tests.api.questions import GREEDY, HELLO, message_of


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"temperature": 11}, "temperature", "temperature 11 is out of range: expected 0 to 10"),
        ({"temperature": "hot"}, "temperature", "temperature is text, expected a number"),
        ({"temperature": True}, "temperature", "temperature is true or false, expected a number"),
        ({"top_p": 1.5}, "top_p", "expected 0 to 1"),
        ({"top_p": -0.1}, "top_p", "expected 0 to 1"),
        ({"max_tokens": 0}, "max_tokens", "max_tokens 0 is out of range: expected 1 to 32768"),
        ({"max_tokens": 3.5}, "max_tokens", "expected an integer"),
        ({"max_completion_tokens": -1}, "max_completion_tokens", "max_completion_tokens -1 is out of range"),
        ({"max_completion_tokens": 9}, "max_completion_tokens", "max_tokens 12 and max_completion_tokens 9 differ"),
        ({"seed": -1}, "seed", "seed -1 is out of range"),
        ({"n": 0}, "n", "expected 1 or more"),
        ({"n": 17}, "n", "n is 17, expected at most 16"),
        ({"n": True}, "n", "expected an integer"),
        ({"extra_body": {"num_beams": 11}}, "num_beams", "num_beams 11 is out of range: expected 1 to 10"),
        ({"extra_body": {"top_k": -1}}, "top_k", "top_k -1 is out of range"),
        ({"extra_body": {"repetition_penalty": 0}}, "repetition_penalty", "expected 0.1 to 10"),
        ({"extra_body": {"do_sample": False, "temperature": 0.7}}, "do_sample", "do_sample False does not draw"),
        ({"extra_body": {"top-k": 3}}, "top-k", "'top-k' is not a field of this request; did you mean top_k?"),
        ({"stop": ["a"] * 17}, "stop", "stop has 17 texts, expected at most 16"),
        ({"stop": ""}, "stop", "stop holds an empty text"),
        ({"stop": ["a", 3]}, "stop", "stop is an integer, expected text"),
        ({"stop": 3}, "stop", "expected text or a list"),
        ({"frequency_penalty": 2.5}, "frequency_penalty", "frequency_penalty 2.5 is out of range: expected -2 to 2"),
        ({"presence_penalty": "x"}, "presence_penalty", "expected a number"),
        ({"extra_body": {"min_p": 1.5}}, "min_p", "min_p 1.5 is out of range: expected 0 to 1"),
        ({"logprobs": True}, "logprobs", "logprobs is not supported"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "expected text, json_object or json_schema"),
        ({"stream_options": {"include": True}}, "include", "'include' is not a field"),
        ({"stream": "yes"}, "stream", "expected true or false"),
        ({"model": 3}, "model", "expected text"),
        ({"messages": []}, "messages", "messages has 0 items, expected 1 to 1000"),
        ({"messages": HELLO * 1001}, "messages", "messages has 1001 items"),
        ({"messages": "你好"}, "messages", "messages is text, expected a list"),
        ({"messages": ["你好"]}, "messages[0]", r"messages[0] is text, expected an object"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "messages[0].role is 'tool', expected"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "messages[0].role is 'None'"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "messages[0].content is null"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content", "'image_url'"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages", "must be user, assistant"),
        ({"messages": [*HELLO, *[{"role": "assistant", "content": "x"}] * 2]}, "messages", "must be user, assistant"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_mistake_is_a_400_that_names_the_field(ask, fields, param, says):
    with pytest.raises(BadRequestError) as error:
        ask(**fields)
    assert says in message_of(error)
    assert error.value.param == param
    assert error.value.type == "invalid_request_error"
    assert "--" not in message_of(error) or "--prompt_type" in message_of(error)


@pytest.mark.parametrize("fields", [{"prompt": "a\ud800"}, {"prompt": ["\udfff"]}, {"prompt": "a", "stop": "\ud800"}])
def test_half_a_character_is_refused(server, fields):
    body = json.dumps({"model": "talks", **fields}).encode()  # as an escape, which OpenAI's client can not send
    request = urllib.request.Request(
        f"http://{server.address}/v1/completions", body, {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError, match="400") as error:
        urllib.request.urlopen(request, timeout=30)
    assert "half of a surrogate pair" in json.load(error.value)["error"]["message"]


def test_neutral_values_of_what_is_not_done_are_fine(ask):
    fields = {"frequency_penalty": 0, "presence_penalty": 0.0, "logprobs": False, "tools": [], "logit_bias": {}}
    more = {"response_format": {"type": "text"}, "metadata": {"a": "b"}, "store": True, "user": "me", "stop": None}
    assert ask(**fields, **more).choices[0].message.content == ask().choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
def test_a_message_beyond_the_context_has_its_code(ask, stream):
    with pytest.raises(BadRequestError, match="the base's context is 512: shorten it") as error:
        ask(messages=[{"role": "user", "content": "问" * 2000}], stream=stream)
    assert error.value.code == "context_length_exceeded"
    assert error.value.param == "messages"


def test_a_prompt_beyond_the_context_has_its_code(client):
    for prompt in ("问" * 2000, [5] * 512):
        with pytest.raises(BadRequestError, match="the base's context leaves room for 511") as error:
            client.completions.create(model="talks", prompt=prompt, **GREEDY)
        assert error.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ([-1], "token ids outside of 0 to 1799"),
        ([1800], "token ids outside of 0 to 1799"),
        ([], "prompt must be a text"),
        ([[]], "prompt must be a text"),
        (["a", 3], "prompt must be a text"),
        ([1, "a"], "prompt must be a text"),
        ([True], "prompt must be a text"),
        ({"a": 1}, "expected text or a list"),
        (["a"] * 17, "n times the prompts is 17, expected at most 16"),
    ],
    ids=str,
)
def test_a_prompt_that_is_none_is_refused(client, prompt, says):
    with pytest.raises(BadRequestError) as error:
        client.completions.create(model="talks", prompt=prompt, **GREEDY)
    assert says in message_of(error)


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ({"suffix": "x"}, "is not supported here"),
        ({"best_of": 2}, "is not supported here"),
        ({"echo": True}, "max_tokens 12: with echo or logprobs it is 0 or 1"),
        ({"logprobs": 3}, "max_tokens 12: with echo or logprobs it is 0 or 1"),
    ],
)
def test_what_completions_do_not_do_is_refused(client, field, says):
    with pytest.raises(BadRequestError, match=says):
        client.completions.create(model="talks", prompt="x", **GREEDY, **field)


def test_a_model_that_is_not_there_is_a_404_that_names_those_that_are(ask):
    with pytest.raises(NotFoundError, match="no model 'gpt-4' here; there are: talks, obeys, tiny") as error:
        ask(model="gpt-4")
    assert error.value.code == "model_not_found"
