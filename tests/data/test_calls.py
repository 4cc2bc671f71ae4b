"""Thinking and calls of functions in rows: read for the base's own chat template, refused for every other type."""

import json

import pytest

from tests.own_bases import text_of, write_tokenizer
from vicuna.answer.history import trim
from vicuna.data.bad_row import BadRow
from vicuna.data.fields import parse_fields, pick
from vicuna.data.formats import to_messages
from vicuna.data.questions import to_question
from vicuna.data.records import refusal
from vicuna.prompt.templates import ALL_PROMPT_TYPES, BASE, IGNORE_INDEX, encode, encode_all, prompt_ids
from vicuna.prompt.tokenizer import TextTokenizer

FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOLS = [{"type": "function", "function": FUNCTION}]
CALL = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "北京", "wind": 1.0}'}}
ASK = {"role": "user", "content": "北京天气？"}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
TOLD = {"role": "tool", "content": "晴"}
SAY = {"role": "assistant", "content": "北京今天晴。"}
READ = [{**ASK, "tools": TOOLS}, CALLING, TOLD, SAY]
ARGUMENTS = {"city": "北京", "wind": 1.0}
AS_OBJECT = {"type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
# Each is the same dialogue; the last of a pair says how the call is read.
ROWS = {
    "OpenAI's": ({"messages": [ASK, {**CALLING, "content": None}, TOLD, SAY], "tools": TOOLS}, CALL),
    "without content": (
        {"messages": [ASK, {"role": "assistant", "tool_calls": [CALL]}, TOLD, SAY], "tools": TOOLS},
        CALL,
    ),
    "tools as a text": ({"messages": [ASK, CALLING, TOLD, SAY], "tools": json.dumps(TOOLS)}, CALL),
    "tools in a message": ({"messages": [{**ASK, "tools": TOOLS}, CALLING, TOLD, SAY]}, CALL),
    "a call of its name": (
        {"messages": [ASK, {**CALLING, "tool_calls": [AS_OBJECT["function"]]}, TOLD, SAY], "tools": TOOLS},
        AS_OBJECT,
    ),
    "OpenAI's older": (
        {
            "messages": [
                ASK,
                {"role": "assistant", "content": None, "function_call": CALL["function"]},
                {"role": "function", "content": "晴"},
                SAY,
            ],
            "functions": [FUNCTION],
        },
        CALL,
    ),
    "ShareGPT's": (
        {
            "conversations": [
                {"from": "human", "value": ASK["content"]},
                {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": ARGUMENTS})},
                {"from": "observation", "value": "晴"},
                {"from": "gpt", "value": SAY["content"]},
            ],
            "tools": json.dumps([FUNCTION]),
        },
        AS_OBJECT,
    ),
    "ms-swift's": (
        {
            "messages": [
                ASK,
                {"role": "tool_call", "content": json.dumps({"name": "weather", "arguments": ARGUMENTS})},
                {"role": "tool_response", "content": "<tool_response>\n晴\n</tool_response>"},
                SAY,
            ],
            "tools": json.dumps(TOOLS),
        },
        AS_OBJECT,
    ),
    "prompt and completion": (
        {"prompt": [ASK, CALLING, TOLD], "completion": [SAY], "tools": TOOLS},
        CALL,
    ),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("thinking")
    write_tokenizer(folder, "thinking")
    return TextTokenizer(folder)


@pytest.mark.parametrize("form", ROWS)
def test_calls_of_every_form_are_read_for_the_bases_own_template(form):
    row, call = ROWS[form]

    assert to_messages(row, BASE) == [READ[0], {**CALLING, "tool_calls": [call]}, *READ[2:]]


@pytest.mark.parametrize("prompt_type", [one for one in ALL_PROMPT_TYPES if one != BASE])
@pytest.mark.parametrize("form", ROWS)
def test_other_prompt_types_refuse_them(form, prompt_type):
    with pytest.raises(BadRow) as refused:
        to_messages(ROWS[form][0], prompt_type)
    assert refused.value.reason == "tools"


@pytest.mark.parametrize("prompt_type", [BASE, "chat"])
def test_a_row_without_calls_is_the_same_dialogue(prompt_type):
    row = {"messages": [ASK, {**SAY, "tool_calls": [], "reasoning_content": ""}], "tools": "[]"}

    assert to_messages(row, prompt_type) == [ASK, SAY]


def test_several_calls_and_a_text_before_them_are_one_answer():
    row = {
        "messages": [
            ASK,
            {"role": "assistant", "content": "我查一下。"},
            *({"role": "tool_call", "content": f'{{"name": "f{i}"}}'} for i in range(2)),
            *({"role": "tool", "content": "", "tool_call_id": f"{i}", "name": f"f{i}"} for i in range(2)),
            SAY,
        ]
    }
    _, called, first, _, _ = to_messages(row, BASE)

    assert (called["content"], [one["function"]["name"] for one in called["tool_calls"]]) == (
        "我查一下。",
        ["f0", "f1"],
    )
    assert first == {"role": "tool", "content": "", "tool_call_id": "0", "name": "f0"}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"messages": [ASK, CALLING, SAY]}, "message of the assistant in turn 1; expected one of the tool"),
        ({"messages": [ASK, TOLD, SAY]}, "message of the tool in turn 1; expected one of the assistant"),
        ({"messages": [ASK, CALLING, TOLD]}, "ends with what a function said; expected an answer"),
        ({"messages": [ASK, CALLING, TOLD, ASK]}, "expected one of the assistant or the tool"),
        ({"messages": [ASK, SAY, ASK]}, "ends with the user's message of turn 2"),
        ({"messages": [SAY]}, "message of the assistant in turn 1; expected one of the user"),
        ({"messages": [], "tools": TOOLS}, "has no messages"),
        ({"messages": [ASK, SAY], "tools": "[{"}, r"field tools is not JSON: '\[\{'"),
        ({"messages": [ASK, SAY], "tools": ["f"]}, r"field tools\[0\] is 'f'; expected a function with a name"),
        ({"messages": [ASK, {**CALLING, "tool_calls": [{"name": ""}]}]}, r"tool_calls\[0\] is .*expected a call"),
        (
            {"messages": [ASK, {**CALLING, "tool_calls": [{"name": "f", "arguments": "x"}]}]},
            r"tool_calls\[0\].arguments is not JSON: 'x'",
        ),
        (
            {"messages": [ASK, {**CALLING, "tool_calls": [{"name": "f", "arguments": "[1]"}]}]},
            "arguments is a text; expected an object",
        ),
        ({"conversations": [{"from": "function_call", "value": "北京"}]}, r"conversations\[0\].value is not JSON"),
    ],
)
def test_what_is_no_dialogue_with_functions_is_refused_by_its_place(row, says):
    with pytest.raises(BadRow, match=says):
        to_messages(row, BASE)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASK, {**SAY, "reasoning_content": "要看天。"}]},
        {"messages": [ASK, {**SAY, "reasoning": " 要看天。"}]},
        {"messages": [ASK, {**SAY, "thinking": "要看天。\n"}]},
        {"messages": [ASK, {**SAY, "content": f"<think>\n要看天。\n</think>\n\n{SAY['content']}"}]},
        {"messages": [ASK, {**SAY, "content": f"<think>要看天。</think>{SAY['content']}", "thinking": "要看天。"}]},
        {"instruction": ASK["content"], "output": f"<think>\n要看天。\n</think>\n\n{SAY['content']}"},
        {"instruction": ASK["content"], "output": SAY["content"], "reasoning_content": "要看天。"},
    ],
)
def test_thinking_is_kept_beside_the_answer(row):
    assert to_messages(row, BASE) == [ASK, {**SAY, "reasoning_content": "要看天。"}]


def test_thinking_is_found_by_its_field():
    row = {"Question": ASK["content"], "Complex_CoT": "要看天。", "Response": SAY["content"]}
    fields = parse_fields(["instruction=Question", "reasoning_content=Complex_CoT", "output=Response"])

    assert to_messages(pick(row, fields), BASE) == [ASK, {**SAY, "reasoning_content": "要看天。"}]
    with pytest.raises(BadRow, match="reasoning_content stands apart from the answer"):
        to_messages(pick(row, fields), "chat")


def test_an_empty_block_is_no_thought():
    row = {"messages": [ASK, {**SAY, "content": f"<think>\n\n</think>\n\n{SAY['content']}"}]}

    assert to_messages(row, BASE) == [ASK, SAY]
    assert to_messages(row, "chat")[-1]["content"] == row["messages"][1]["content"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"content": "<think>一</think>二", "thinking": "三"}, "both beside the answer and in it"),
        ({"content": "<think>一</think>\n"}, "answers nothing behind the thinking of message 2"),
        ({"content": "二", "thinking": ["一"]}, "thinking is a list"),
    ],
)
def test_thinking_that_can_not_be_kept_is_refused(answer, says):
    with pytest.raises(BadRow, match=says):
        to_messages({"messages": [ASK, {"role": "assistant", **answer}]}, BASE)


def test_the_call_and_the_answer_are_learnt(tokenizer):
    messages = to_messages(ROWS["ShareGPT's"][0], BASE)
    last = encode(tokenizer, BASE, messages, 1000)
    every = encode_all(tokenizer, BASE, messages, 1000, train_turns="all")
    learnt = [text_of(tokenizer, [i for i in one.labels if i != IGNORE_INDEX]) for one in every]
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "北京", "wind": 1.0}}\n</tool_call><|im_end|>'

    assert learnt == [call, "北京今天晴。<|im_end|>"]
    assert every[1] == last
    assert all('# Tools\n{"type": "function"' in text_of(tokenizer, one.input_ids) for one in every)


def test_what_is_asked_is_what_was_learnt_from(tokenizer):
    row = ROWS["OpenAI's"][0]
    messages, reference = to_question(row, BASE)
    example = encode(tokenizer.with_settings(thinking="empty"), BASE, to_messages(row, BASE), 1000)
    asked = prompt_ids(tokenizer.with_settings(thinking="empty"), BASE, messages)

    assert reference == SAY["content"]
    assert messages == READ[:-1]
    assert example.input_ids[: len(asked)] == asked
    assert trim(tokenizer, BASE, messages, 1000, 10).ids == prompt_ids(tokenizer, BASE, messages)
    unanswered, none = to_question({**row, "messages": row["messages"][:-1]}, BASE)
    assert (unanswered, none) == (messages, None)


def test_a_dialogue_that_is_too_long_loses_its_calls_with_their_question(tokenizer):
    messages = [*READ, {"role": "user", "content": "谢谢。"}]
    alone = [{**messages[-1], "tools": TOOLS}]
    whole = len(prompt_ids(tokenizer, BASE, messages))
    found = trim(tokenizer, BASE, messages, whole + 9, 10)

    assert found.forgotten == 1
    assert found.ids == prompt_ids(tokenizer, BASE, alone)
    cut = encode(tokenizer, BASE, [*messages, SAY], whole)
    assert (cut.shortened, cut.cut) == (True, False)
    assert cut.input_ids == encode(tokenizer, BASE, [*alone, SAY], whole).input_ids


def test_a_template_that_knows_no_tools_refuses_the_row(tmp_path, tokenizer):
    write_tokenizer(tmp_path, "chatml")
    refuse = refusal(TextTokenizer(tmp_path), BASE)

    assert "calls functions, which the chat template in" in refuse(READ)
    assert refuse([ASK, SAY]) == ""
    assert refusal(tokenizer, BASE)(READ) == ""
