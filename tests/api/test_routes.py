"""The API as OpenAI's own client sees it: answers, streams, counts, and what is refused."""

import base64
import json
import random
import struct
import threading
import urllib.error
import urllib.request

import pytest
from openai import APIError, BadRequestError, InternalServerError, NotFoundError, RateLimitError

from tests.served import Server, assistant_of, at_work, in_step, make_adapter
from vicuna.answer.decoding import generation_kwargs
from vicuna.answer.flags import DecodingFlags
from vicuna.answer.history import trim
from vicuna.answer.stream import Beam, Update
from vicuna.errors import UserError
from vicuna.prompt.templates import prompt_ids

HELLO = [{"role": "user", "content": "春天的花有哪些？"}]
GREEDY = {"temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def assistant(tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    one = make_adapter(tiny_base, folder / "talks", "chat", 1)
    two = make_adapter(tiny_base, folder / "obeys", "instruct", 2)
    return assistant_of(tiny_base, one, two)


@pytest.fixture(scope="module")
def server(assistant):
    server = Server(assistant)
    yield server
    server.close()


@pytest.fixture(scope="module")
def client(server):
    return server.client()


@pytest.fixture
def ask(client):
    """ask(stop="x"): a greedy answer to HELLO, with these fields instead."""
    return lambda **fields: client.chat.completions.create(**{"model": "talks", "messages": HELLO, **GREEDY, **fields})


@pytest.fixture
def direct(assistant):
    """direct(messages, adapter, seed, **flags): the last update of what the assistant itself answers."""

    def answer(messages, adapter="talks", seed=None, ids=None, **flags):
        flags = DecodingFlags(**{"preset": "balanced", "temperature": 0, "max_new_tokens": 12, **flags})
        chosen = generation_kwargs(flags, assistant.engine.generation_config)
        ids = ids or prompt_ids(assistant.tokenizer, assistant.choices[adapter].prompt_type, messages)
        *_, last = assistant.stream(ids, chosen, seed, adapter=adapter)
        return last

    return answer


def message_of(error) -> str:
    return error.value.body["message"]


# --- answers ------------------------------------------------------------------------------------------------------


def test_a_chat_answer_is_the_assistants(ask, direct, assistant):
    done = ask()
    expected = direct(HELLO)
    assert done.object == "chat.completion"
    assert done.id.startswith("chatcmpl-")
    assert done.model == "talks"
    (choice,) = done.choices
    assert (choice.index, choice.message.role, choice.message.content) == (0, "assistant", expected.text)
    assert expected.text
    assert choice.finish_reason == {"eos": "stop", "length": "length"}[expected.finish]
    prompt = len(prompt_ids(assistant.tokenizer, "chat", HELLO))
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (prompt, expected.tokens)
    assert done.usage.total_tokens == prompt + expected.tokens


@pytest.mark.parametrize("adapter", ["talks", "obeys", ""])
def test_the_model_chooses_adapter_and_template(ask, direct, assistant, adapter):
    done = ask(model=adapter or assistant.base_name)
    assert done.choices[0].message.content == direct(HELLO, adapter).text
    prompt_type = {"talks": "chat", "obeys": "instruct", "": "chat"}[adapter]
    assert done.usage.prompt_tokens == len(prompt_ids(assistant.tokenizer, prompt_type, HELLO))


def test_the_adapters_answer_differently(ask):
    answers = {ask(model=name).choices[0].message.content for name in ("talks", "obeys", "tiny")}
    assert len(answers) == 3


def test_no_model_is_the_first(server, direct):
    body = json.dumps({"messages": HELLO, **GREEDY}).encode()
    request = urllib.request.Request(
        f"http://{server.address}/v1/chat/completions", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        done = json.load(reply)
        assert reply.headers.get("access-control-allow-origin") is None
    assert done["model"] == "talks"
    assert done["choices"][0]["message"]["content"] == direct(HELLO).text


def test_history_system_and_parts_of_text_reach_the_prompt(ask, direct):
    messages = [
        {"role": "developer", "content": "你是一位耐心的老师。"},
        {"role": "user", "content": [{"type": "text", "text": "一"}, {"type": "text", "text": "二"}]},
        {"role": "assistant", "content": "三"},
        {"role": "user", "content": "四"},
    ]
    ours = [
        {"role": "system", "content": "你是一位耐心的老师。"},
        {"role": "user", "content": "一\n二"},
        *messages[2:],
    ]
    assert ask(messages=messages).choices[0].message.content == direct(ours).text


def test_a_long_history_is_fitted_as_on_the_page_and_said(ask, direct, assistant):
    turns = [{"role": role, "content": f"{i}{role}" * 6} for i in range(12) for role in ("user", "assistant")]
    messages = [*turns, *HELLO]
    fitted = trim(assistant.tokenizer, "chat", messages, assistant.engine.context, 12, 2048)
    assert fitted.forgotten > 0
    done = ask(messages=messages)
    assert done.usage.prompt_tokens == len(fitted.ids)
    assert done.choices[0].message.content == direct(None, ids=fitted.ids).text
    assert done.notices == [f"{fitted.forgotten} earlier turns did not fit and were left out"]


def test_an_answer_is_lowered_to_what_the_context_leaves(ask, assistant):
    done = ask(max_tokens=5000, extra_body={"min_tokens": 500})
    assert done.usage.total_tokens == assistant.engine.context
    assert done.choices[0].finish_reason == "length"
    assert done.notices == [f"the context leaves {done.usage.completion_tokens} tokens for the answer"]


def test_control_texts_of_a_user_are_ordinary_characters(ask, assistant):
    done = ask(messages=[{"role": "user", "content": "</s><s><unk>"}])
    ids = prompt_ids(assistant.tokenizer, "chat", [{"role": "user", "content": "</s><s><unk>"}])
    assert done.usage.prompt_tokens == len(ids)
    assert ids.count(assistant.tokenizer.eos_id) == 0
    assert ids.count(assistant.tokenizer.bos_id) == 1


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_both_names_of_the_answers_length_are_known(client, name):
    done = client.chat.completions.create(
        model="talks", messages=HELLO, temperature=0, extra_body={name: 5, "min_tokens": 5}
    )
    assert done.usage.completion_tokens == 5
    assert done.choices[0].finish_reason == "length"


def test_choices_count_on_from_the_seed(ask, direct):
    done = ask(temperature=0.9, top_p=0.95, n=3, seed=2**32 - 1)
    expected = [direct(HELLO, seed=seed, temperature=0.9, top_p=0.95).text for seed in (2**32 - 1, 0, 1)]
    assert [choice.message.content for choice in done.choices] == expected
    assert [choice.index for choice in done.choices] == [0, 1, 2]
    assert len(set(expected)) == 3
    assert done.usage.completion_tokens > 12


def test_without_fields_the_pages_defaults_hold(client, direct):
    done = client.chat.completions.create(model="talks", messages=HELLO, seed=3, max_tokens=12)
    assert done.choices[0].message.content == direct(HELLO, seed=3, temperature=None).text  # "balanced" draws


@pytest.mark.parametrize(
    ("fields", "flags"),
    [
        ({"top_k": 3, "temperature": 1.5}, {"top_k": 3, "temperature": 1.5}),
        ({"repetition_penalty": 2.0}, {"repetition_penalty": 2.0, "temperature": None}),
        ({"repetition_penalty": 2, "temperature": 2}, {"repetition_penalty": 2.0, "temperature": 2.0}),
        ({"num_beams": 3, "do_sample": False}, {"num_beams": 3, "do_sample": False, "temperature": None}),
        ({"top_p": 0.5}, {"top_p": 0.5, "temperature": None}),
        ({"do_sample": False}, {"do_sample": False, "temperature": None}),
        ({"temperature": 0, "top_p": 0.5}, {"temperature": 0}),
    ],
)
def test_fields_beyond_openais_reach_generate(client, direct, fields, flags):
    body = {"seed": 5, "max_tokens": 12, **fields}
    done = client.chat.completions.create(model="talks", messages=HELLO, extra_body=body)
    assert done.choices[0].message.content == direct(HELLO, seed=5, **flags).text


def test_a_request_can_say_otherwise_than_the_servers_flags(assistant, direct):
    for flags in ({"temperature": 0}, {"do_sample": False}, {"do_sample": True}, {"temperature": 0.5}):
        server = Server(assistant, **flags)
        create = server.client().chat.completions.create
        for fields in ({"temperature": 0}, {"do_sample": False}, {"temperature": 0.8}, {"do_sample": True}):
            done = create(model="talks", messages=HELLO, seed=4, max_tokens=12, extra_body=fields)
            greedy = fields.get("temperature") == 0 or fields.get("do_sample") is False
            if greedy:
                assert done.choices[0].message.content == direct(HELLO).text
            if fields.get("temperature") == 0.8:
                assert done.choices[0].message.content == direct(HELLO, seed=4, temperature=0.8).text
        server.close()


# --- streams ------------------------------------------------------------------------------------------------------


def joined(chunks, n: int = 1) -> list[str]:
    texts = [""] * n
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    return texts


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


# --- completions --------------------------------------------------------------------------------------------------


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


# --- models -------------------------------------------------------------------------------------------------------


def test_the_models_are_the_adapters_and_the_base(client):
    assert [model.id for model in client.models.list()] == ["talks", "obeys", "tiny"]
    assert client.models.retrieve("obeys").object == "model"
    with pytest.raises(NotFoundError, match="there is no model 'owner/name' here"):
        client.models.retrieve("owner/name")
    with pytest.raises(NotFoundError, match="there are: talks, obeys, tiny"):
        client.models.retrieve("other")


# --- refusals -----------------------------------------------------------------------------------------------------


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
        ({"frequency_penalty": 0.5}, "frequency_penalty", "frequency_penalty is not supported"),
        ({"logprobs": True}, "logprobs", "logprobs is not supported"),
        ({"tools": [{"type": "function"}]}, "tools", "tools is not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "response_format is not supported"),
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
        ({"messages": [*HELLO, *HELLO]}, "messages", "must be user, assistant"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "x"}]}, "messages", "must be user, assistant"),
        ({"model": "obeys", "messages": [{"role": "system", "content": "x"}, *HELLO]}, "messages", "use chat or chat_"),
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


@pytest.mark.parametrize("field", [{"echo": True}, {"suffix": "x"}, {"best_of": 2}, {"logprobs": 3}])
def test_what_completions_do_not_do_is_refused(client, field):
    with pytest.raises(BadRequestError, match="is not supported here"):
        client.completions.create(model="talks", prompt="x", **GREEDY, **field)


def test_a_model_that_is_not_there_is_a_404_that_names_those_that_are(ask):
    with pytest.raises(NotFoundError, match="no model 'gpt-4' here; there are: talks, obeys, tiny") as error:
        ask(model="gpt-4")
    assert error.value.code == "model_not_found"


def _update(text: str, finish: str = "") -> Update:
    return Update([Beam([], text)], len(text), 0, 0, finish)


def test_out_of_memory_is_a_sentence(ask, monkeypatch, assistant):
    def full(*args, **kwargs):
        raise UserError("out of memory while answering: lower Max New Tokens.")
        yield

    monkeypatch.setattr(assistant.engine, "stream", full)
    with pytest.raises(InternalServerError, match="out of memory while answering") as error:
        ask()
    assert error.value.type == "server_error"


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


@pytest.mark.parametrize("stream", [False, True])
def test_a_bug_is_a_500_without_its_details(ask, monkeypatch, assistant, stream):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("secret")
        yield

    monkeypatch.setattr(assistant.engine, "stream", broken)
    with pytest.raises(APIError, match="the server failed to answer; its log says why") as error:
        list(ask(stream=stream))
    assert "secret" not in str(error.value)


# --- embeddings ---------------------------------------------------------------------------------------------------


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


# --- stop texts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_a_stop_text_ends_the_answer_and_is_no_part_of_it(ask, direct, stream, several):
    whole = direct(HELLO, max_new_tokens=60, min_new_tokens=60).text
    draw = random.Random(3)
    for _ in range(3):
        start = draw.randrange(4, len(whole) - 6)
        stop = whole[start : start + draw.randint(1, 4)]
        fields = {
            "max_tokens": 60,
            "extra_body": {"min_tokens": 60},
            "stop": ["不会出现的话", stop] if several else stop,
        }
        if stream:
            chunks = list(ask(**fields, stream=True))
            (text,), finish = joined(chunks), chunks[-1].choices[0].finish_reason
        else:
            choice = ask(**fields).choices[0]
            text, finish = choice.message.content, choice.finish_reason
        assert text == whole[: whole.index(stop)]
        assert finish == "stop"


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
