"""/v1/chat/completions as OpenAI's own client sees it: the assistant's answers, and every field that is taken."""

import json
import random
import urllib.request

import pytest

from tests.api.questions import GREEDY, HELLO, joined
from tests.served import Server
from vicuna.answer.history import trim
from vicuna.prompt.templates import prompt_ids


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
