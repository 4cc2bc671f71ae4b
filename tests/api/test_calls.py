"""Thinking and functions over HTTP, as OpenAI's client asks for them, with a base that thinks and calls."""

import json

import pytest
from openai import BadRequestError

from tests import taught
from tests.api.questions import message_of
from tests.served import Server, assistant_of
from vicuna.api.calls import MAX_TOOLS, Calling
from vicuna.errors import UserError
from vicuna.gguf.llama_cpp_source import source_folder
from vicuna.prompt.own_template import ChatTemplate, split_answer
from vicuna.prompt.rendering import Settings

GREEDY = {"model": "thinker", "temperature": 0, "max_tokens": 80, "extra_body": {"repetition_penalty": 1.0}}
WITH_TOOLS = {"messages": taught.ASK_WEATHER, "tools": [taught.WEATHER]}


@pytest.fixture(scope="module")
def thinking(thinker):
    server = Server(assistant_of(thinker))
    yield server.client().chat.completions
    server.close()


@pytest.fixture
def ask(thinking):
    """ask(messages=…): a greedy answer, with these fields of the body beside those that the client knows."""

    def create(switch=None, extra=None, **fields):
        extra = {**GREEDY["extra_body"], **(extra or {})}
        if switch is not None:
            extra["chat_template_kwargs"] = {"enable_thinking": switch}
        return thinking.create(**{**GREEDY, **fields, "extra_body": extra})

    return create


def gathered(stream) -> tuple[str, str, list[dict], list[str]]:
    """What was thought, the text, the calls and the reasons for an end that a stream tells, put together."""
    thought, text, calls, ends = "", "", [], []
    for chunk in stream:
        for choice in chunk.choices:
            thought += getattr(choice.delta, "reasoning_content", None) or ""
            text += choice.delta.content or ""
            for call in choice.delta.tool_calls or []:
                assert call.index == len(calls)
                calls.append(call.function.model_dump())
            ends += [choice.finish_reason] if choice.finish_reason else []
    return thought, text, calls, ends


def whole(answer) -> tuple[str, str, list[dict], list[str]]:
    (choice,) = answer.choices
    calls = [call.function.model_dump() for call in choice.message.tool_calls or []]
    thought = getattr(choice.message, "reasoning_content", "")
    return thought, choice.message.content or "", calls, [choice.finish_reason]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("switch", "thought", "text"),
    [
        (None, taught.THOUGHT, taught.GREETING),
        (True, taught.THOUGHT, taught.GREETING),
        (False, "", taught.BRIEFLY),
    ],
)
def test_thinking_is_told_apart_and_can_be_switched(ask, stream, switch, thought, text):
    answer = ask(switch, messages=taught.HELLO, stream=stream)

    assert (gathered if stream else whole)(answer) == (thought, text, [], ["stop"])


def test_thinking_comes_before_the_text_in_a_stream(ask):
    names = [
        name
        for chunk in ask(messages=taught.HELLO, stream=True)
        for name, value in chunk.choices[0].delta.model_dump(exclude_none=True).items()
        if name != "role" and value
    ]
    assert names == sorted(names, reverse=True)
    assert names.count("reasoning_content") > 3
    assert names.count("content") > 3


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_is_told_and_its_answer_answered(ask, stream):
    called = ask(**WITH_TOOLS, stream=stream)
    thought, text, calls, ends = (gathered if stream else whole)(called)

    assert (thought, text, ends) == ("", taught.SAID_BEFORE, ["tool_calls"])
    assert [(one["name"], json.loads(one["arguments"])) for one in calls] == [("weather", taught.CITY)]
    answered = ask(messages=taught.TOLD, tools=[taught.WEATHER], stream=stream)
    assert (gathered if stream else whole)(answered) == ("", taught.SUNNY, [], ["stop"])


def test_what_the_client_was_told_can_be_sent_back(ask):
    message = ask(**WITH_TOOLS).choices[0].message
    said = message.model_dump(exclude_none=True)
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "晴"}
    answered = ask(messages=[*taught.ASK_WEATHER, said, result], tools=[taught.WEATHER])

    assert answered.choices[0].message.content == taught.SUNNY
    hello = ask(messages=taught.HELLO).choices[0].message
    assert hello.reasoning_content == taught.THOUGHT
    bye = ask(messages=[*taught.HELLO, hello.model_dump(exclude_none=True), taught.SECOND[-1]])
    assert bye.choices[0].message.content == taught.BYE


@pytest.mark.parametrize("choice", ["none", "auto"])
def test_a_choice_of_none_shows_no_function(thinking, choice):
    answer = thinking.with_raw_response.create(**GREEDY, **WITH_TOOLS, tool_choice=choice)
    shown = answer.parse().usage.prompt_tokens > 100

    assert shown == (choice == "auto")
    assert bool(answer.parse().choices[0].message.tool_calls) == (choice == "auto")
    assert "x-vicuna-notice" not in answer.headers


def test_only_allowed_functions_are_shown(ask):
    other = {"type": "function", "function": {"name": "other"}}
    named = [{"type": "function", "function": {"name": "weather"}}]
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": named}}
    fields = {"messages": taught.ASK_WEATHER, "tools": [taught.WEATHER, other], "tool_choice": allowed}

    assert ask(**fields).usage.prompt_tokens == ask(**WITH_TOOLS).usage.prompt_tokens


ASSISTANT = {"role": "assistant", "content": None}


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"extra": {"chat_template_kwargs": {"thinking": True}}}, "chat_template_kwargs", "takes enable_thinking only"),
        ({"switch": "no"}, "chat_template_kwargs.enable_thinking", "is text, expected true or false"),
        ({"tools": [taught.WEATHER], "tool_choice": "required"}, "tool_choice", "which can not be forced here"),
        ({"tools": [taught.WEATHER] * (MAX_TOOLS + 1)}, "tools", f"expected at most {MAX_TOOLS}"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "expected function"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "null, expected an object"),
        ({"tools": [{"type": "function", "function": {"name": " "}}]}, "tools[0].function.name", "is empty"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "description": "x" * 2**17}}]},
            "tools",
            "bytes of JSON, expected at most 131072",
        ),
        (
            {"messages": [*taught.HELLO, {**ASSISTANT, "tool_calls": [{"function": {"name": "f", "arguments": "x"}}]}]},
            "messages[1].tool_calls[0]",
            "arguments is 'x', expected the JSON of an object",
        ),
        ({"messages": [*taught.HELLO, ASSISTANT]}, "messages[1].content", "null, expected text or a list"),
        (
            {"messages": [{"role": "user", "content": "a", "tool_calls": [taught.CALL]}]},
            "messages[0].tool_calls",
            "not",
        ),
    ],
)
def test_what_can_not_be_done_is_refused_by_its_field(ask, fields, param, says):
    with pytest.raises(BadRequestError) as error:
        ask(**{"messages": taught.HELLO, **fields})
    assert says in message_of(error)
    assert error.value.param == param


def test_a_model_that_knows_no_thinking_says_so(client):
    with pytest.raises(BadRequestError, match="which the prompt type of this model does not know; leave it out"):
        client.chat.completions.create(
            model="talks", messages=taught.HELLO, extra_body={"chat_template_kwargs": {"enable_thinking": False}}
        )
    client.chat.completions.create(
        model="talks", messages=taught.HELLO, max_tokens=2, extra_body={"chat_template_kwargs": {}}
    )


# --- what is a call ---------------------------------------------------------------------------------------------------

HERMES = Calling(frozenset({"f", "g"}), in_tags=True)
LLAMA = Calling(frozenset({"f", "g"}), in_tags=False)
F, G = '{"name": "f", "arguments": {"x": 1.0, "y": "</tool_call>"}}', '{"name": "g", "parameters": {}}'


@pytest.mark.parametrize(
    ("calling", "text", "before", "names"),
    [
        (HERMES, f"<tool_call>\n{F}\n</tool_call>", "", ["f"]),
        (HERMES, f"查。\n<tool_call>\n{F}\n</tool_call>\n<tool_call>{G}</tool_call>\n", "查。", ["f", "g"]),
        (HERMES, f"<tool_call>\n{F}", "", ["f"]),
        (Calling(HERMES.names, True, most=1), f"<tool_call>{F}</tool_call><tool_call>{G}", "", ["f"]),
        (LLAMA, f" {G}", "", ["g"]),
        (LLAMA, f"<|python_tag|>{F}; {G}", "", ["f", "g"]),
        (LLAMA, f"[{F}, {G}]", "", ["f", "g"]),
    ],
)
def test_calls_of_both_forms_are_understood(calling, text, before, names):
    found, calls = calling.find(text)

    assert (found, [one["function"]["name"] for one in calls]) == (before, names)
    arguments = [one["function"]["arguments"] for one in calls]
    assert arguments == [{"f": '{"x": 1.0, "y": "</tool_call>"}', "g": "{}"}[name] for name in names]
    assert len({one["id"] for one in calls}) == len(calls)


@pytest.mark.parametrize(
    ("calling", "text"),
    [
        (HERMES, "没有调用。"),
        (HERMES, F),
        (HERMES, f"<tool_call>\n{F[:-2]}"),
        (HERMES, f"<tool_call>\n{F}\n</tool_call> 然后"),
        (HERMES, "<tool_call>\n<function=f>\n</function>\n</tool_call>"),
        (HERMES, '<tool_call>{"name": "f", "arguments": [NaN]}</tool_call>'),
        (HERMES, '<tool_call>{"arguments": {}}</tool_call>'),
        (HERMES, "<tool_call>" + "[" * 100_000),
        (LLAMA, '{"name": "another", "parameters": {}}'),
        (LLAMA, '{"city": "北京"}'),
        (LLAMA, f"结果是 {F}"),
        (LLAMA, ""),
    ],
)
def test_what_is_not_understood_stays_the_text_that_it_is(calling, text):
    assert calling.find(text) == (text, [])


@pytest.mark.parametrize(
    ("name", "in_tags"),
    [
        ("Qwen-Qwen2.5-7B-Instruct", True),
        ("Qwen-Qwen3-0.6B", True),
        ("Qwen-QwQ-32B", True),
        ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", True),
        ("meta-llama-Llama-3.1-8B-Instruct", False),
        ("meta-llama-Llama-3.2-3B-Instruct", False),
    ],
)
def test_a_call_as_a_published_template_writes_it_is_understood(name, in_tags):
    try:
        text = (source_folder() / f"models/templates/{name}.jinja").read_text(encoding="utf-8")
    except UserError as error:
        pytest.skip(str(error))
    control = ("<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
    chat = ChatTemplate(text, {"bos_token": "", "eos_token": "<|im_end|>"}, control, name)
    assert chat.knows_tools
    assert chat.calls_in_tags == in_tags
    city = {"type": "object", "properties": {"city": {"type": "string", "description": "…"}}, "required": []}
    function = {"name": "weather", "description": "…", "parameters": city}  # all of which Hermes' asks for
    shown = chat.with_settings(Settings(tools=json.dumps([{"type": "function", "function": function}])))
    turn = shown.turn([*taught.ASK_WEATHER, {"role": "assistant", "content": "", "tool_calls": [taught.CALL]}])
    answer = turn.answer.removesuffix("<|im_end|>").removesuffix("<|eot_id|>")
    said, (call,) = Calling(frozenset({"weather"}), in_tags).find(split_answer(turn.prompt, answer).content)

    assert (said, call["function"]["name"]) == ("", "weather")
    assert json.loads(call["function"]["arguments"]) == taught.CITY


@pytest.mark.parametrize("calling", [HERMES, LLAMA])
@pytest.mark.parametrize("text", [f"查。 \n<tool_call>\n{F}\n</tool_call>", "a <tool_box> b\n\nc", f" {G}", "1 < 2"])
def test_nothing_that_is_told_is_taken_back(calling, text):
    told = ""
    for end in range(len(text) + 1):
        visible = calling.visible(text[:end])
        assert visible.startswith(told) or not visible
        told = visible or told
    assert calling.find(text)[0].startswith(told)
