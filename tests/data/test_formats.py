"""Rows of every format -> dialogues: small ones written here, the real files, and every refusal."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from vicuna.data.bad_row import BadRow
from vicuna.data.formats import detect_format, to_messages
from vicuna.data.parsing import parse_rows
from vicuna.data.records import read_records
from vicuna.errors import UserError

PLAN = [
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "你好！"},
    {"role": "user", "content": "再见"},
    {"role": "assistant", "content": "再见！"},
]
SYSTEM = {"role": "system", "content": "请简短回答。"}
MOSS_TURN = {"Inner Thoughts": "<|Inner Thoughts|>: None<eot>\n", "Commands": "<|Commands|>: None<eoc>\n"}
ROWS = {
    "instruction": {
        "history": [["你好", "你好！"]],
        "instruction": "再见",
        "input": "",
        "output": "再见！",
        "system": "请简短回答。",
    },
    "input and output": {"input": ["你好", "再见"], "output": ["你好！", "再见！"], "system": "请简短回答。"},
    "conversations": {
        "system": "请简短回答。",
        "conversations": [
            {"from": "human", "value": " 你好\n"},
            {"from": "gpt", "value": "你好！"},
            {"from": "user", "value": "再见"},
            {"from": "Bing", "value": "再见！"},
        ],
    },
    "messages": {"messages": [SYSTEM, *PLAN]},
    "conversation": {
        "conversation": [{"human": "你好", "assistant": "你好！"}, {"human": "再见", "assistant": "再见！"}],
        "system": "请简短回答。",
    },
    "moss": {
        "meta_instruction": "请简短回答。\n",
        "chat": {
            "turn_1": {"Human": "<|Human|>: 你好<eoh>\n", **MOSS_TURN, "MOSS": "<|MOSS|>: 你好！<eom>\n"},
            "turn_2": {"Human": "<|Human|>: 再见<eoh>\n", **MOSS_TURN, "MOSS": "<|MOSS|>: 再见！<eom>\n"},
        },
    },
}


@pytest.mark.parametrize("name", ROWS)
def test_a_dialogue_of_each_format_becomes_the_same_messages(name):
    assert detect_format(ROWS[name]).name == name
    assert to_messages(ROWS[name], "chat") == [SYSTEM, *PLAN]


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("empty", ["", None, " \n"])
def test_an_empty_system_message_is_none(name, empty):
    row = {**ROWS[name]}
    row["meta_instruction" if name == "moss" else "system"] = empty
    if name == "messages":
        row = {"messages": [{"role": "system", "content": empty}, *PLAN], "system": empty}

    assert to_messages(row, "chat") == PLAN
    assert to_messages(row, "instruct") == PLAN


@pytest.mark.parametrize("name", ROWS)
def test_what_a_prompt_type_has_no_place_for_is_a_bad_row(name):
    with pytest.raises(BadRow, match="a system message, for which --prompt_type instruct has no place; use chat"):
        to_messages(ROWS[name], "instruct")
    with pytest.raises(BadRow, match="several turns, but --prompt_type text has no earlier turns"):
        to_messages({"messages": PLAN}, "text")


def said(*speakers: str) -> dict:
    return {"conversations": [{"from": speaker, "value": "x"} for speaker in speakers]}


def moss(**turn: str) -> dict:
    return {"chat": {"turn_1": {"Human": "<|Human|>: a<eoh>", "MOSS": "<|MOSS|>: b<eom>", **turn}}}


@pytest.mark.parametrize(
    ("row", "says", "reason"),
    [
        (
            said("human", "human", "gpt"),
            "has a message of the user in turn 1; expected one of the assistant",
            "alternate",
        ),
        (
            said("human", "gpt", "gpt"),
            "has a message of the assistant in turn 2; expected one of the user",
            "alternate",
        ),
        (
            said("gpt", "human", "gpt"),
            "has a message of the assistant in turn 1; expected one of the user",
            "alternate",
        ),
        (said("human", "gpt", "system", "gpt"), "has a message of the system in turn 2", "alternate"),
        (said("human", "gpt", "human"), "ends with the user's message of turn 2; expected an answer", "no answer"),
        (said("system"), "has no messages; expected at least a question", "no messages"),
        (said(), "has no messages", "no messages"),
        ({**said("system", "human", "gpt"), "system": "s"}, "has a message of the system in turn 1", "alternate"),
        (
            said("human", "narrator"),
            r"field conversations\[1\]\.from is 'narrator'; expected user, human, assistant",
            "speaker",
        ),
        (
            said("human", "tool"),
            r"field conversations\[1\] is of the speaker 'tool', a tool's; expected a dialogue without",
            "tools",
        ),
        ({"conversations": "x"}, "field conversations is a text: 'x'; expected a list", "conversations is no list"),
        ({"conversations": ["x"]}, r"field conversations\[0\] has a text; expected from and value", "no speaker"),
        ({"conversations": [{}]}, r"field conversations\[0\] has nothing; expected from and value", "no speaker"),
        (
            {"conversations": [{"from": "human", "value": ""}]},
            r"field conversations\[0\]\.value is empty; expected text",
            "conversations.value is empty",
        ),
        (
            {"messages": [PLAN[0], {"role": "assistant", "content": None}]},
            r"field messages\[1\]\.content is a null: 'None'; expected text",
            "messages.content is not text",
        ),
        (
            {"messages": [{"message": "x"}]},
            r"field messages\[0\] has 'message'; expected role and content",
            "no speaker",
        ),
        ({"input": ["a", "b"], "output": ["c"]}, "has 2 texts in input and 1 in output; expected as many", "length"),
        (
            {"input": ["a", 1], "output": ["c", "d"]},
            r"field input\[1\] is a number: '1'; expected text",
            "input is not text",
        ),
        ({"input": [], "output": []}, "has no messages", "no messages"),
        ({"conversation": [{"human": "a"}]}, r"field conversation\[0\] is .*; expected human and assistant", "missing"),
        (
            {"instruction": "a", "output": "b", "history": "x"},
            "field history is a text: 'x'; expected a list",
            "no list",
        ),
        (
            {"instruction": "a", "output": "b", "history": [["x"]]},
            r"field history\[0\] is .*; expected \[question, answer\]",
            "not of pairs",
        ),
        ({"instruction": "a", "output": "b", "system": ["x"]}, "field system is a list", "system is not text"),
        (
            moss(Human="<|Human|>: <eoh>\n"),
            r"field chat\.turn_1\.Human is empty; expected text",
            "chat.turn.Human is empty",
        ),
        (moss(Commands='<|Commands|>: Search("x")<eoc>'), ".*Commands calls a tool: 'Search", "calls a tool"),
        (
            {"chat": {"turn_2": {}}},
            "field chat.turn_1 lacks Human or MOSS; expected turns numbered from turn_1",
            "missing",
        ),
        ({"act": "a", "prompt": "b"}, "has 'act', 'prompt'; expected instruction, .*; or messages of role", "missing"),
    ],
)
def test_a_bad_dialogue_is_refused_by_what_was_found_and_expected(row, says, reason):
    with pytest.raises(BadRow) as refused:
        to_messages(row, "chat")

    assert re.match(says, str(refused.value)), refused.value
    assert reason in refused.value.reason


def test_several_files_of_bad_rows_are_listed_together(tmp_path):
    for name in "ab":
        rows = [json.dumps(said("human", "gpt")), json.dumps(said("human"))]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    paths = [str(tmp_path / f"{name}.jsonl") for name in "ab"]

    with pytest.raises(UserError, match="2 of 4 rows of 2 files can not be used") as refused:
        read_records(paths, "chat")
    for path in paths:
        assert f"  {path} line 2: ends with the user's message of turn 1" in str(refused.value)


def test_a_file_of_one_object_on_many_lines_is_one_row(tmp_path):
    file = tmp_path / "one.json"
    file.write_text("\n" + json.dumps(ROWS["moss"], ensure_ascii=False, indent=4), encoding="utf-8")
    records = read_records(file, "chat")

    assert records.dialogues == [[SYSTEM, *PLAN]]
    assert records.lines == [2]


def test_every_example_of_the_page_is_read():
    text = (Path(__file__).resolve().parent.parent.parent / "docs/en/data.md").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in re.findall(r"^\{.*\}$", text, re.MULTILINE)]

    assert {detect_format(row).name for row in rows} == {*ROWS, "text"}
    assert all(to_messages(row, "text" if "text" in row else "chat")[-1]["role"] == "assistant" for row in rows)


# --- real files ---------------------------------------------------------------------------------------------------


def counted(file: Path, prompt_type: str = "chat") -> tuple[Counter, Counter]:
    """Formats and reasons of refusal of a real file's rows."""
    formats, reasons = Counter(), Counter()
    for _, row in parse_rows(file.read_text(encoding="utf-8"), file.suffix):
        try:
            formats[detect_format(row).name] += 1
            to_messages(row, prompt_type)
        except BadRow as problem:
            reasons[problem.reason] += 1
    return formats, reasons


@pytest.mark.parametrize(
    ("name", "kind", "rows"),
    [
        ("chat/fastchat_dummy_conversation.json", "conversations", 500),
        ("chat/firefly_dummy_data.jsonl", "conversation", 33),
        ("instruct/chinese-vicuna-chat-data_sample.jsonl", "input and output", 3),
        ("med/promptcblue/dev.json", "input and target", 80),
        ("law/lawyer-llama/legal_advice.json", "list", 5000),
        ("law/lawyer-llama/judical_examination.json", "list", 2000),
        ("law/lawyer-llama/zixun_gpt4.json", "query and response", 1000),
    ],
)
def test_a_real_file_of_dialogues_is_read_whole(shared, name, kind, rows):
    assert counted(shared / name) == (Counter({kind: rows}), Counter())
    for messages in read_records(shared / name, "chat").dialogues:
        assert len(messages) >= 2


def test_firefly_messages_are_those_of_the_file(shared):
    file = shared / "chat/firefly_dummy_data.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    found = [[message["content"] for message in messages] for messages in read_records(file, "chat").dialogues]

    assert found == [
        [turn[who].strip() for turn in row["conversation"] for who in ("human", "assistant")] for row in rows
    ]


def test_every_moss_dialogue_is_read_without_its_markers(shared):
    files = sorted(str(file) for file in (shared / "chat/moss").glob("*/*.json"))
    records = read_records(files, "chat")

    assert len(records.dialogues) == len(files) == 500
    assert sum(len(messages) // 2 for messages in records.dialogues) == 2636
    text = "\n".join(message["content"] for messages in records.dialogues for message in messages)
    assert not re.search(r"<\|\w|<eo\w>", text)
    assert all(messages[0]["role"] == "system" for messages in records.dialogues)
    assert (str(records.sources[records.source_ids[7]].path), records.lines[7]) == (files[7], 1)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("chat/kdconv/film_dev.json", 150),
        ("chat/moss/user_prompts/harmless_prompts.jsonl", 100),
        ("instruct/prompts-zh.json", 124),
        ("instruct/belle/zh_seed_tasks.json", 175),
        ("eval/agieval/logiqa-zh.jsonl", 651),
    ],
)
def test_a_real_file_of_another_kind_is_refused_with_what_was_expected(shared, name, rows):
    with pytest.raises(UserError, match=rf"{rows} of {rows} rows of .* can not be used") as refused:
        read_records(shared / name, "chat")
    said = str(refused.value)
    assert len(re.findall(r" line \d+: (?:has|is|field) ", said)) == 10
    assert len(re.findall("(?:; |^  )expected ", said, re.MULTILINE)) in (1, 10)  # all expect the same, or not
