"""Records that are to be answered: asked as training asks them, with and without responses of their own."""

import gzip
import json

import pyarrow
import pytest
from pyarrow import parquet

from tests.data.record_files import write
from tests.data.test_formats import PLAN, ROWS, SYSTEM
from tests.data.test_marks import ASK, CALL, SAY
from vicuna.data.bad_row import BadRow
from vicuna.data.fields import parse_fields, pick
from vicuna.data.formats import to_messages
from vicuna.data.questions import Questions, read_questions, to_question
from vicuna.data.records import open_sources
from vicuna.errors import UserError

HELLO = {"role": "user", "content": "你好"}
TALK = PLAN[:3]
SAID = [{"from": ("human", "gpt")[i % 2], "value": one["content"]} for i, one in enumerate(PLAN)]


def read(paths: list, prompt_type: str = "chat", **more) -> Questions:
    return read_questions(open_sources([str(path) for path in paths]), prompt_type, lambda messages: None, **more)


@pytest.mark.parametrize("name", ROWS)
def test_a_record_is_asked_as_training_asks_it_and_its_response_is_the_reference(name):
    *asked, last = to_messages(ROWS[name], "chat")

    assert to_question(ROWS[name], "chat") == (asked, last["content"])


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        ({"instruction": "你好"}, [HELLO]),
        ({"instruction": "你好", "output": ""}, [HELLO]),
        ({"instruction": "你好", "output": None}, [HELLO]),
        ({"instruction": "你好", "input": "们", "output": " "}, [{**HELLO, "input": "们"}]),
        ({"instruction": "你好", "text": "别的"}, [HELLO]),
        ({"query": "再见", "history": [["你好", "你好！"]]}, TALK),
        ({"input": "你好"}, [HELLO]),
        ({"prompt": "你好"}, [HELLO]),
        ({"prompt": TALK}, TALK),
        ({"prompt": TALK, "completion": None}, TALK),
        ({"text": "你好"}, [HELLO]),
        ({"messages": [SYSTEM, *TALK]}, [SYSTEM, *TALK]),
        ({"messages": [*TALK, {"role": "assistant", "content": ""}]}, TALK),
        ({"messages": [*TALK, {"role": "assistant", "content": None}]}, TALK),
        ({"conversations": SAID[:3]}, TALK),
        ({"conversations": [*SAID[:3], {"from": "gpt", "value": " "}]}, TALK),
        ({"conversation": [{"human": "你好", "assistant": "你好！"}, {"human": "再见"}]}, TALK),
        ({"conversation": [{"input": "你好", "output": "你好！"}, {"input": "再见", "output": ""}]}, TALK),
        ({"conversation": TALK}, TALK),
        (TALK, TALK),
        (["你好", ""], [HELLO]),
        ([{"instruction": "你好", "output": "你好！"}, {"instruction": "再见"}], TALK),
    ],
)
def test_a_record_without_a_response_is_asked_all_the_same(row, asked):
    before = json.dumps(row)

    assert to_question(row, "chat") == (asked, None)
    assert json.dumps(row) == before


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASK, SAY], "label": False},
        {"messages": [ASK, {**SAY, "reasoning_content": "想"}]},
        {"messages": [ASK, {**SAY, "weight": 0}]},
        {"messages": [ASK, {**SAY, "weight": 0.5}]},
        {"messages": [ASK, {**SAY, "train": False}]},
        {"messages": [ASK, SAY], "mask": "Assistant"},
        {"instruction": "你好", "output": "你好！", "reasoning_content": "想"},
        {"instruction": "你好", "output": "你好！", "kto_tag": False},
    ],
)
def test_what_says_how_a_row_is_learnt_has_no_say_in_how_it_is_asked(row):
    assert to_question(row, "chat") == ([ASK], "你好！")


def test_a_preference_set_is_asked_and_one_of_its_responses_can_be_the_reference():
    row = {"prompt": "你好", "chosen": "好！", "rejected": "哼。"}

    assert to_question(row, "chat") == ([HELLO], None)
    paths = parse_fields(["instruction=prompt", "output=chosen"])
    assert to_question(pick(row, paths, asked=True), "chat") == ([HELLO], "好！")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "你好"}, "has 'question'; expected instruction, .*; --fields instruction=question names others"),
        ({"input": "你好", "output": "你好！"}, "has 'input', 'output'; expected"),
        ({"instruction": " "}, "field instruction is empty"),
        ({"instruction": 3}, "field instruction is a number"),
        ({"messages": []}, "has no messages"),
        ({"messages": [{"role": "assistant", "content": ""}]}, "has no messages"),
        ({"messages": [SAY]}, "a message of the assistant in turn 1; expected one of the user"),
        ({"messages": [ASK, ASK]}, "a message of the user in turn 1; expected one of the assistant"),
        ({"messages": [ASK, {**SAY, "content": None, "tool_calls": CALL}]}, "tool_calls is of tools"),
        ({"messages": [ASK], "tools": [{}]}, "has tools, for which no prompt type has a place"),
        ({"instruction": ["a", "b"], "output": ["c"]}, "has 2 texts in instruction and 1 in output"),
        (3, "is a number"),
    ],
)
def test_what_can_not_be_asked_is_refused(row, says):
    with pytest.raises(BadRow, match=says):
        to_question(row, "chat")


def test_a_prompt_type_without_a_place_for_a_system_message_refuses_it():
    with pytest.raises(BadRow, match="has a system message, for which --prompt_type instruct has no place"):
        to_question({"messages": [SYSTEM, HELLO]}, "instruct")
    assert to_question({"text": "床前明月光"}, "text") == ([{"role": "user", "content": "床前明月光"}], None)


def test_files_of_every_kind_are_numbered_together_and_keep_their_records(tmp_path):
    rows = [{"id": 7, "q": "一", "r": "1"}, {"id": 8, "q": "二", "r": None}]
    fields = ["instruction=q", "output=r"]
    lines = "".join(json.dumps(row) + "\n\n" for row in rows)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "b.parquet")
    (tmp_path / "c.csv").write_text("id,q,r\n7,一,1\n8,二,\n", encoding="gb18030")

    found = read([tmp_path / name for name in ("a.jsonl.gz", "b.parquet", "c.csv")], fields=fields)

    assert [(one.row, one.source, one.line) for one in found.asked] == [
        *((1, 0, 1), (2, 0, 3), (3, 1, 1), (4, 1, 2), (5, 2, 2), (6, 2, 3))
    ]
    assert [one.record for one in found.asked] == [
        *rows,
        *rows,
        *({"id": "7", "q": "一", "r": "1"}, {"id": "8", "q": "二", "r": ""}),
    ]
    assert [one.messages[0]["content"] for one in found.asked] == ["一", "二"] * 3
    assert [one.reference for one in found.asked] == ["1", None] * 3


def test_blocks_of_a_text_are_questions(tmp_path):
    (tmp_path / "q.txt").write_text("你好\n\n\n再见\n吗\n", encoding="utf-8")

    found = read([tmp_path / "q.txt"], "instruct")

    assert [(one.line, one.messages, one.record) for one in found.asked] == [
        (1, [HELLO], {"text": "你好"}),
        (4, [{"role": "user", "content": "再见\n吗"}], {"text": "再见\n吗"}),
    ]


def test_rows_that_can_not_be_used_are_listed_or_left_out_and_counted(tmp_path):
    def check(messages):
        if len(messages[0]["content"]) > 3:
            raise BadRow("has a long prompt", "too long")

    rows = [{"instruction": "你好"}, {"q": "a"}, "{", {"instruction": "很长的问题"}, {"instruction": "再见"}]
    sources = open_sources([str(write(tmp_path / "q.jsonl", rows))])
    with pytest.raises(UserError) as refused:
        read_questions(sources, "chat", check)
    said = str(refused.value).split("\n")
    assert said[0] == f"3 of 5 rows of {tmp_path}/q.jsonl can not be used:"
    assert [line.split(": ")[0].split()[-1] for line in said[1:4]] == ["2", "3", "4"]
    assert said[3].endswith("has a long prompt")
    assert said[4] == "Mend them, or leave them out with --skip_bad_rows."

    found = read_questions(sources, "chat", check, skip_bad_rows=True)
    assert ([one.row for one in found.asked], found.rows) == ([1, 5], 5)
    assert found.bad == {"fields missing": 1, "not JSON": 1, "too long": 1}


def test_files_without_anything_to_answer_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"--data_path .*q\.jsonl has no record to answer"):
        read([write(tmp_path / "q.jsonl", ["{"])], skip_bad_rows=True)
