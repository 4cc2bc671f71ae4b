"""Rows as they are published: shapes beside the page's, files of other kinds, and fields that --fields names."""

import gzip
import json

import pyarrow
import pytest
from pyarrow import parquet

from tests.data.record_files import GOOD, write
from vicuna.data.bad_row import BadRow
from vicuna.data.fields import parse_fields, pick
from vicuna.data.formats import to_messages
from vicuna.data.records import read_records
from vicuna.errors import UserError

TALK = [
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "你好！"},
    {"role": "user", "content": "再见"},
    {"role": "assistant", "content": "再见！"},
]
LAST = TALK[2:]
SYSTEM = {"role": "system", "content": "请简短回答。"}
SAID = [{"from": ("human", "gpt")[i % 2], "value": one["content"]} for i, one in enumerate(TALK)]


def text_parts(one: dict) -> dict:
    return {**one, "content": [{"type": "text", "text": one["content"]}]}


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"conversations": TALK}, TALK),
        ({"messages": SAID}, TALK),
        ({"conversation": TALK}, TALK),
        ({"messages": [{"role": "developer", "content": "请简短回答。"}, *TALK]}, [SYSTEM, *TALK]),
        ({"messages": [text_parts(one) for one in TALK]}, TALK),
        ({"conversation": [{"system": "请简短回答。", "input": "再见", "output": "再见！"}]}, [SYSTEM, *LAST]),
        ({"query": "再见", "response": "再见！", "history": [["你好", "你好！"]], "system": ""}, TALK),
        ({"input": "再见", "target": "再见！", "task_type": "x"}, LAST),
        ({"prompt": "再见", "completion": "再见！"}, LAST),
        ({"prompt": TALK[:3], "completion": TALK[3:]}, TALK),
        (["再见", "再见！"], LAST),
        ([["你好", "你好！"], ["再见", "再见！"]], TALK),
        (TALK, TALK),
        (SAID, TALK),
        ([{"instruction": "再见", "input": "", "output": "再见！"}], LAST),
        ([{"query": "你好", "response": "你好！"}, {"query": "再见", "response": "再见！"}], TALK),
        ({"instruction": ["你好", "再见"], "output": ["你好！", "再见！"]}, TALK),
    ],
)
def test_a_published_shape_is_read(row, messages):
    assert to_messages(row, "chat") == messages


def test_the_input_of_an_earlier_record_of_a_list_is_kept():
    turns = [
        {"instruction": "翻译", "input": "你好", "output": "Hello"},
        {"instruction": "翻译", "input": "再见", "output": "Bye"},
    ]
    messages = to_messages(turns, "chat")

    assert [one["content"] for one in messages] == ["翻译\n你好", "Hello", "翻译", "Bye"]
    assert messages[2]["input"] == "再见"


def test_text_parts_are_joined_by_lines_as_in_the_api():
    parts = [{"type": "text", "text": "一"}, {"type": "text", "text": "二"}]
    assert to_messages({"messages": [{"role": "user", "content": parts}, TALK[1]]}, "chat")[0]["content"] == "一\n二"


@pytest.mark.parametrize("row", [["a", "b", "c"], [["a"]], [], ["a", ["b", "c"]], [{"a": 1}]])
def test_other_lists_are_refused(row):
    with pytest.raises(BadRow, match="expected"):
        to_messages(row, "chat")


@pytest.mark.parametrize(
    ("fields", "row", "messages"),
    [
        (["instruction=q", "output=a"], {"q": "再见", "a": "再见！"}, LAST),
        (["instruction=q", "output=a.text[0]", "input=none"], {"q": "再见", "a": {"text": ["再见！"]}}, LAST),
        (
            ["instruction=turns[].q", "output=turns[].a"],
            {"turns": [{"q": "你好", "a": "你好！"}, {"q": "再见", "a": "再见！"}]},
            TALK,
        ),
        (["messages=chosen", "system=s"], {"chosen": TALK, "rejected": LAST, "s": "请简短回答。"}, [SYSTEM, *TALK]),
        (["messages=data.log"], {"data": {"log": SAID}}, TALK),
        (["instruction=[0]", "output=[-1]"], ["再见", "x", "再见！"], LAST),
        (["instruction=a.b", "output=c"], {"a.b": "再见", "c": "再见！"}, LAST),
    ],
)
def test_fields_are_found_by_their_paths(fields, row, messages):
    assert to_messages(pick(row, parse_fields(fields)), "chat") == messages


def test_a_path_that_leads_nowhere_is_a_bad_row_with_what_there_is(tmp_path):
    rows = [{"q": "a", "r": "b"}, {"q": "a", "s": "b"}]

    with pytest.raises(UserError, match="line 2: has nothing at r, where --fields looks for output; it has 'q', 's'"):
        read_records(write(tmp_path / "a.jsonl", rows), "chat", fields=["instruction=q", "output=r"])


def test_a_bad_example_stays_one_whatever_its_fields_are_called():
    row = pick({"q": "a", "r": "b", "label": False}, parse_fields(["instruction=q", "output=r"]))

    with pytest.raises(BadRow, match="has label false"):
        to_messages(row, "chat")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (["query"], "'query' is not a field to fill; expected one of instruction, input, output"),
        (["answer=a"], "'answer' is not a field to fill"),
        (["output=a", "output=b"], "--fields names output twice: a and b"),
        (["output="], "'' is not a path; expected a name, or names and places such as"),
        (["output=a[b]"], r"'a\[b\]' is not a path"),
        (["output=a..b"], r"'a\.\.b' is not a path"),
    ],
)
def test_a_path_that_is_none_is_refused_before_anything_is_read(fields, says):
    with pytest.raises(UserError, match=says):
        parse_fields(fields)


# --- kinds of files -------------------------------------------------------------------------------------------------

ROWS = [GOOD, {**GOOD, "input": '看，\n"图"'}]


def zstandard(raw: bytes) -> bytes:
    return pyarrow.compress(raw, "zstd", asbytes=True)


@pytest.mark.parametrize("pack", [(".gz", gzip.compress), (".zst", zstandard)])
def test_compressed_files_are_read_whole(tmp_path, pack):
    ending, compress = pack
    part = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in ROWS).encode("gb18030")
    file = tmp_path / f"a.jsonl{ending}"
    file.write_bytes(compress(part) + compress(part))
    records = read_records(file, "instruct")

    assert records.dialogues == [to_messages(row, "instruct") for row in ROWS * 2]
    assert (records.encoding, records.lines) == ("gb18030", [1, 2, 3, 4])
    file.write_bytes(compress(part)[:-6])
    with pytest.raises(UserError, match=rf"a\.jsonl\{ending} is not a whole .* file: .* Make or copy it again"):
        read_records(file, "instruct")


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.tsv", "\t"), ("a.CSV", ",")])
def test_a_table_is_read_with_the_line_of_each_row(tmp_path, name, separator):
    lines = [["instruction", "input", "output"], ["007", "", "1.50"], [], ["天空？", '"看，\n""图"""', "蓝色。"]]
    file = tmp_path / name
    file.write_bytes("\r\n".join(separator.join(cells) for cells in lines).encode("utf-8-sig"))
    records = read_records(file, "instruct")

    assert [one["content"] for one in records.dialogues[0]] == ["007", "1.50"]
    assert records.dialogues[1][0]["input"] == '看，\n"图"'
    assert records.lines == [2, 4]


def test_a_broken_row_of_a_table_is_named_by_its_line_and_costs_no_other(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text('q,a\n1,2,3\n4,5\n"6"7,8\n9,10\n', encoding="utf-8")
    fields = ["instruction=q", "output=a"]

    with pytest.raises(UserError, match="2 of 4 rows") as refused:
        read_records(file, "instruct", fields=fields)
    assert "line 2: has 3 cells; the first line names 2" in str(refused.value)
    assert "line 4: is no row of a table" in str(refused.value)
    assert read_records(file, "instruct", skip_bad_rows=True, fields=fields).lines == [3, 5]


def test_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("q,q\n1,2\n", encoding="utf-8")

    with pytest.raises(UserError, match="line 1: names the column 'q' twice"):
        read_records(tmp_path / "a.csv", "instruct")


def test_parquet_is_read_with_the_number_of_each_row(tmp_path):
    rows = [{"messages": [{**one, "tool_calls": None, "weight": None} for one in TALK]}, {"messages": []}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")

    with pytest.raises(UserError, match=r"1 of 2 rows .*\n.*line 2: has no messages"):
        read_records(tmp_path / "a.parquet", "chat")
    assert read_records(tmp_path / "a.parquet", "chat", skip_bad_rows=True).dialogues == [TALK]
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"a\.parquet can not be read as Parquet"):
        read_records(tmp_path / "a.parquet", "chat")
