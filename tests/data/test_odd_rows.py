"""Whatever a row holds, it is read rightly or is one bad row: nothing that it holds costs another row of its file."""

import gzip
import json
from random import Random

import pyarrow
import pytest
from pyarrow import parquet

from tests.data.record_files import GOOD, write
from tests.foreign.odd_values import ODD, places
from vicuna.conversion import general, legal
from vicuna.conversion.found import Options
from vicuna.conversion.writing import Writing, to_row
from vicuna.data import pieces
from vicuna.data.bad_row import SHOWN_CHARACTERS, BadRow
from vicuna.data.fields import parse_fields, pick
from vicuna.data.files import read_rows
from vicuna.data.fills import fill
from vicuna.data.formats import to_messages
from vicuna.data.nesting import MOST_NESTED, is_nested, loads, value_end
from vicuna.data.questions import to_question
from vicuna.data.records import read_records
from vicuna.data.suspicions import suspicions
from vicuna.errors import UserError

CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SAID = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning_content": "t", "weight": 1}]
ROWS = [
    {"instruction": "a", "input": "b", "output": "c", "system": "s", "history": [["a", "b"]], "label": True},
    {"query": "a", "response": "b", "chosen": "x", "rejected": "y"},
    {"prompt": SAID[:1], "completion": SAID[1:]},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "<p>b</p>"}], "mask": "User"},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, SAID[1]], "images": []},
    {
        "messages": [
            SAID[0],
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "x", "tool_call_id": "1"},
            SAID[1],
        ],
        "tools": [TOOL],
    },
    {"conversation": [{"human": "a", "assistant": "b", "system": "s"}]},
    {"meta_instruction": "s", "chat": {"turn_1": {"Human": "<|Human|>: a<eoh>", "MOSS": "b", "Commands": "None"}}},
    {"input": ["a"], "output": ["b"]},
    {"text": "t"},
    [["a", "b"], ["c", "d"]],
    SAID,
    {"instruction": "a", "instances": [{"input": "a", "output": "b"}]},
    {"messages": [{"message": "a"}, {"message": "b"}]},
    {"english": "a", "chinese": "b"},
    {"fact": "a", "meta": {"accusation": ["x"], "relevant_articles": [1], "term_of_imprisonment": {"imprisonment": 1}}},
]
READERS = [getattr(of, name) for of in (general, legal) for name in dir(of) if name.startswith("read_")]


def lists(depth: int) -> list:
    """Lists within lists."""
    value: list = []
    for _ in range(depth - 1):
        value = [value]
    return value


def with_odd_values(row):
    for place in places(row):
        for value in (*ODD.values(), lists(MOST_NESTED - 9), "{" * 3000):
            changed = json.loads(json.dumps(row))
            holder = changed
            for key in place[:-1]:
                holder = holder[key]
            holder[place[-1]] = value
            yield changed


def read_every_way(row) -> int:
    """How many ways of reading a row gave a dialogue; those that did not raised a `BadRow` of a bounded length."""
    paths, read = parse_fields(["messages=conversations[]", "output=output"]), 0
    longest = 0
    ways = [lambda kind=kind: to_messages(row, kind) for kind in ("instruct", "chat", "base", "text")]
    ways += [lambda: to_question(row, "base")[0], lambda: to_messages(pick(row, paths), "chat")]
    ways += [lambda: to_messages(fill(row, {"a": "b"}, set()), "chat")]
    ways += [lambda one=one: [part for found, _ in one(row, Options()) for part in found] for one in READERS]
    for way in ways:
        try:
            messages = way()
        except BadRow as problem:
            longest = max(longest, len(str(problem)))
            continue
        json.dumps(messages, ensure_ascii=False).encode()
        suspicions(messages)
        read += 1
    assert longest < SHOWN_CHARACTERS + 10
    return read


@pytest.mark.parametrize("row", ROWS, ids=lambda row: ",".join(row)[:20] if isinstance(row, dict) else "list")
def test_every_odd_value_in_a_row_is_a_reason_or_is_read(row):
    assert read_every_way(row) > 0
    for changed in with_odd_values(row):
        read_every_way(changed)


def test_dialogues_with_odd_calls_become_no_rows_with_half_characters():
    row = json.loads(json.dumps(ROWS[5]))
    row["tools"][0]["function"]["description"] = "\ud800"
    with pytest.raises(BadRow, match="half a character"):
        to_messages(row, "base")
    writing = Writing("chat", "none", None, "any", False)
    assert to_row(to_messages(ROWS[0], "chat"), writing, Random(1))[0]["output"] == ["b", "c"]


DEEP = '{"instruction": "a", "output": ' + "[" * (MOST_NESTED + 1) + "]" * (MOST_NESTED + 1) + "}"
FAR = DEEP.replace("[" * (MOST_NESTED + 1), "[" * 5000).replace("]" * (MOST_NESTED + 1), "]" * 5000)
FORMS = ["{0}\n{1}\n{0}\n", "[{0},\n{1},\n{0}]", "[{1}, {0}, {0}]", "{0}{1}{0}", "{{\n{2}\n{1}{0}"]
LONG = '{"instruction": "a", "output": ' + "1" * 5000 + "}"
ONE = json.dumps(GOOD, ensure_ascii=False)


@pytest.mark.parametrize("bad", [DEEP, FAR, LONG], ids=["deep", "far", "number"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ending", [".json", ".jsonl", ".json.gz", ".jsonl.gz", ".jsonl.zst"])
def test_a_row_nested_too_deeply_is_one_bad_row(tmp_path, monkeypatch, bad, form, ending):
    raw = form.format(ONE, bad, ONE[1:]).encode()
    file = tmp_path / f"a{ending}"
    if ending.endswith(".zst"):
        with pyarrow.CompressedOutputStream(str(file), "zstd") as stream:
            stream.write(raw)
    else:
        file.write_bytes(gzip.compress(raw) if ending.endswith(".gz") else raw)

    for size in (pieces.PIECE, 64):  # read at once, and in the smallest pieces
        monkeypatch.setattr(pieces, "PIECE", size)
        records = read_records(file, "instruct", skip_bad_rows=True)
        assert len(records.dialogues) == 2
        assert sum(records.bad.values()) == 1
        with pytest.raises(UserError, match=r"1 of 3 rows .* can not be used:\n  .* line \d: holds "):
            read_records(file, "instruct")


def test_another_encoding_and_a_table_lose_no_other_row(tmp_path):
    records = read_records(write(tmp_path / "a.jsonl", [GOOD, DEEP], "utf-16"), "instruct", skip_bad_rows=True)
    assert (len(records.dialogues), dict(records.bad)) == (1, {"nested too deeply": 1})
    table = tmp_path / "a.csv"
    table.write_text(f'instruction,output\na,b\na,"{"[" * 5000}"\nc\n', encoding="utf-8")
    assert len(read_records(table, "instruct", skip_bad_rows=True).dialogues) == 2


def test_what_is_nested_as_far_as_may_be_is_read_to_its_end():
    text = json.dumps({"instruction": "a", "output": "b", "more": lists(MOST_NESTED - 1)})
    assert not is_nested(loads(text))
    assert value_end(f" {text} x", 1) == 1 + len(text)
    with pytest.raises(ValueError, match=f"more than {MOST_NESTED} brackets"):
        loads(f"[{text}]")
    assert value_end('["]", "\\"]"] ', 0) == 12
    assert value_end('["]", "', 0) == -1


def test_columns_within_columns_without_end_are_refused_in_a_sentence(tmp_path):
    kind = pyarrow.string()
    for _ in range(MOST_NESTED + 1):
        kind = pyarrow.list_(kind)
    parquet.write_table(pyarrow.table({"x": pyarrow.array([None], kind)}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"can not be read as Parquet: .*too deeply nested"):
        list(read_rows(tmp_path / "a.parquet")[1])
