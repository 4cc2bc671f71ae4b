"""Rows whose own fields say that they are not to be learnt as they stand: honoured, or refused by name."""

import pytest

from vicuna.data.bad_row import BadRow
from vicuna.data.formats import to_messages
from vicuna.prompt.templates import IGNORE_INDEX, encode
from vicuna.prompt.tokenizer import TextTokenizer

ASK = {"role": "user", "content": "你好"}
SAY = {"role": "assistant", "content": "你好！"}
TALK = {"messages": [ASK, SAY]}
ASKED = {"conversations": [{"from": "human", "value": "你好"}]}
CALL = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
ALPACA = {"instruction": "你好", "output": "你好！"}


@pytest.mark.parametrize(
    ("row", "says", "reason"),
    [
        ({**TALK, "label": False}, "has label false, which marks its answer as a bad one", "label false"),
        ({"prompt": "a", "completion": "b", "label": False}, "has label false", "label false"),
        ({**ALPACA, "kto_tag": False}, "has kto_tag false", "kto_tag false"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "has chosen and rejected, as preference sets", "preference"),
        ({**ASKED, "chosen": {"from": "gpt", "value": "b"}, "rejected": {}}, "has chosen and rejected", "preference"),
        ({**ALPACA, "chosen": "b", "rejected": "你好！"}, "has chosen and rejected", "preference"),
        ({"instruction": "a", "input": "", "output": ["b", "c"]}, "field output is a list of 2, as preference", "text"),
        (
            {"input": {"messages": [ASK]}, "preferred_output": [SAY], "non_preferred_output": [SAY]},
            "has preferred_output and non_preferred_output",
            "preference",
        ),
        ({"messages": [ASK, {**SAY, "tool_calls": CALL}]}, r"field messages\[1\].tool_calls is of tools", "tools"),
        ({"messages": [ASK, {"role": "assistant", "content": None, "tool_calls": CALL}]}, ".*tool_calls is", "tools"),
        ({"messages": [ASK, {"role": "assistant", "tool_calls": CALL}]}, ".*tool_calls is of tools", "tools"),
        ({"messages": [ASK, {**SAY, "function_call": {"name": "f"}}]}, ".*function_call is of tools", "tools"),
        ({"messages": [{**ASK, "tools": "[{}]"}, SAY]}, r"field messages\[0\].tools is of tools", "tools"),
        ({"messages": [ASK, {"role": "tool", "content": "1"}, SAY]}, ".*is of the speaker 'tool', a tool's", "tools"),
        (
            {"conversations": [*ASKED["conversations"], {"from": "function_call", "value": "{}"}]},
            ".*is of the speaker 'function_call'",
            "tools",
        ),
        ({"conversations": [{"from": "observation", "value": "1"}]}, ".*is of the speaker 'observation'", "tools"),
        ({**TALK, "tools": '[{"name": "f"}]'}, "has tools, for which no prompt type has a place", "tools"),
        ({**TALK, "functions": [{"name": "f"}]}, "has functions, for which", "tools"),
        ({"messages": [ASK, {**SAY, "reasoning_content": "想"}]}, ".*reasoning_content stands apart from", "reasoning"),
        ({"messages": [ASK, {**SAY, "thinking": "想"}]}, ".*thinking stands apart from the answer", "reasoning"),
        ({**ALPACA, "reasoning_content": "想"}, "field reasoning_content stands apart", "reasoning"),
        ({"messages": [ASK, {**SAY, "refusal": "不"}]}, ".*refusal stands apart from the content", "refusal"),
        ({"messages": [ASK, {**SAY, "weight": 0}]}, "marks every answer as not to be learnt", "no answer"),
        ({"messages": [ASK, {**SAY, "loss": False}]}, "marks every answer as not to be learnt", "no answer"),
        ({"messages": [ASK, {**SAY, "weight": 0.5}]}, r".*weight is 0\.5; expected 0 or 1", "weight is not"),
        ({"messages": [ASK, {**SAY, "train_detail": [{}]}]}, ".*train_detail says which parts", "parts of"),
        ({**TALK, "mask": "Assistant"}, "has mask 'Assistant', by which no answer is learnt", "no answer"),
        (
            {
                "image": "a.jpg",
                "conversations": [{"from": "human", "value": "<image>\n看"}, {"from": "gpt", "value": "b"}],
            },
            "is about a picture",
            "not text alone",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, SAY]},
            r"field messages\[0\]\.content\[0\] is of type 'image_url'; expected a part of type text",
            "a part that is no text",
        ),
    ],
)
def test_what_is_not_to_be_learnt_is_refused_by_its_field(row, says, reason):
    with pytest.raises(BadRow, match=says) as refused:
        to_messages(row, "chat")
    assert reason in refused.value.reason


@pytest.mark.parametrize(
    "more",
    [
        {"label": True},
        {"label": "负面"},
        {"label": 0},
        {"kto_tag": True},
        {"tools": "[]", "functions": None, "images": []},
        {"image": "cover.jpg"},
        {"chosen": [ASK, SAY], "rejected": [ASK, {**SAY, "content": "滚"}]},
        {"mask": "User"},
    ],
)
def test_the_same_fields_without_that_meaning_change_nothing(more):
    assert to_messages({**TALK, **more}, "chat") == [ASK, SAY]


@pytest.mark.parametrize(
    "more",
    [{"weight": 1}, {"loss": True}, {"loss": 2.3}, {"tool_calls": [], "function_call": None, "reasoning_content": ""}],
)
def test_fields_of_a_message_without_that_meaning_change_nothing(more):
    assert to_messages({"messages": [ASK, {**SAY, **more}]}, "chat") == [ASK, SAY]


def test_what_stands_behind_the_last_answer_that_counts_is_left_away():
    ignored = {"role": "assistant", "content": "嗯。", "weight": 0}
    messages = to_messages({"messages": [ASK, ignored, ASK, SAY, ASK, ignored]}, "chat")

    assert messages == [ASK, {"role": "assistant", "content": "嗯。", "learnt": False}, ASK, SAY]


@pytest.mark.parametrize("train_on_inputs", [False, True])
def test_an_answer_of_weight_0_is_context_where_every_answer_is_learnt(tiny_base, train_on_inputs):
    tokenizer = TextTokenizer(tiny_base)
    earlier = {"role": "assistant", "content": "春风吹来。"}
    turns = [ASK, earlier, ASK, SAY]
    plain = encode(tokenizer, "chat_eos", turns, 256, train_on_inputs, "all")
    ignored = encode(tokenizer, "chat_eos", [ASK, {**earlier, "learnt": False}, ASK, SAY], 256, train_on_inputs, "all")
    changed = [i for i, pair in enumerate(zip(plain.labels, ignored.labels, strict=True)) if pair[0] != pair[1]]

    assert ignored.input_ids == plain.input_ids
    assert [plain.labels[i] for i in changed] == [*tokenizer.encode_continuation("春风吹来。"), tokenizer.eos_id]
    assert {ignored.labels[i] for i in changed} == {IGNORE_INDEX}
