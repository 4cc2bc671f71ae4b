"""Reading records: refusals by line and field, several files with weights, what is held out, the real files."""

import hashlib
import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.data.record_files import GOOD, numbered, write
from vicuna.data.formats import to_messages
from vicuna.data.records import hold_out, read_records
from vicuna.errors import UserError

REAL = [
    "llama-factory/alpaca_en_demo.json",
    "llama-factory/alpaca_zh_demo.json",
    "llama-factory/identity.json",
    "ruozhiba/ruozhiba_qa2449_gpt4t.json",
    "chinese-vicuna-instruct-data_sample.jsonl",
    "chinese-vicuna-merge_sample.json",
    "hikariming/identity.json",
]
REAL_WITH_BAD_ROWS = ["carbonz0/zh-data-part-00.json", "hikariming/extra", "hikariming/translated"]


def test_a_jsonl_row_becomes_question_and_answer(tmp_path):
    records = read_records(write(tmp_path / "a.jsonl", [GOOD, {**GOOD, "input": "看图"}]), "instruct")

    assert records.dialogues == [
        [{"role": "user", "content": "天空是什么颜色？"}, {"role": "assistant", "content": "蓝色。"}],
        [{"role": "user", "content": "天空是什么颜色？", "input": "看图"}, {"role": "assistant", "content": "蓝色。"}],
    ]
    assert records.lines == [1, 2]


@pytest.mark.parametrize("row", [{"instruction": "a", "output": "b"}, {**GOOD, "input": None}, {**GOOD, "history": []}])
def test_input_and_history_may_be_missing_or_empty(row):
    question, _ = to_messages(row, "instruct")

    assert "input" not in question


def test_other_fields_are_allowed(tmp_path):
    file = write(tmp_path / "a.jsonl", [{**GOOD, "kind": "knowledge", "id": 7}])

    assert len(read_records(file, "instruct").dialogues) == 1


def test_a_field_text_is_a_plain_document(tmp_path):
    records = read_records(write(tmp_path / "a.jsonl", [{"text": "题：春\n春风"}]), "text")

    assert records.dialogues == [[{"role": "assistant", "content": "题：春\n春风"}]]


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--data_path .*none\.jsonl does not exist; expected a \.json"):
        read_records(tmp_path / "none.jsonl", "instruct")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--data_path .* is a folder; expected a \.json"):
        read_records(tmp_path, "instruct")


def test_an_unknown_kind_of_file_is_refused(tmp_path):
    (tmp_path / "a.xlsx").write_text("a,b", encoding="utf-8")

    with pytest.raises(
        UserError, match=r"ends in '\.xlsx'; expected a \.json, \.jsonl, \.txt, \.csv, \.tsv or \.parquet"
    ):
        read_records(tmp_path / "a.xlsx", "instruct")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt"])
@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")

    with pytest.raises(UserError, match="has no usable rows; expected at least one record"):
        read_records(tmp_path / name, "instruct")


def test_an_empty_array_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("[]", encoding="utf-8")

    with pytest.raises(UserError, match="has no usable rows"):
        read_records(tmp_path / "a.json", "instruct")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"instruction": "a"}, "has 'instruction'; expected instruction, optional input, and output"),
        ({"input": "a", "output": "b"}, "has 'input', 'output'; expected instruction, .* or conversations of from"),
        ({}, "has no fields; expected instruction, .*; --fields instruction=NAME output=NAME names others"),
        ({"标题": "b", "提问": "c", "回答": "d"}, "has .*; --fields instruction=提问 output=回答 names others"),
        ({"Question": "a", "Answer": "b"}, "has .*; --fields instruction=Question output=Answer names others"),
        ({"问题和答案": "a"}, "has .*; --fields instruction=问题和答案 names others"),
        ({**GOOD, "output": ""}, "field output is empty; expected text"),
        ({**GOOD, "output": " \n"}, "field output is empty; expected text"),
        ({**GOOD, "instruction": ""}, "field instruction is empty; expected text"),
        ({**GOOD, "instruction": ["a", "b"]}, r"field instruction is a list: \"\['a', 'b'\]\"; expected text"),
        ({**GOOD, "output": 7}, "field output is a number: '7'; expected text"),
        ({**GOOD, "output": True}, "field output is a boolean: 'True'; expected text"),
        ({**GOOD, "output": None}, "field output is a null: 'None'; expected text"),
        ({**GOOD, "input": {"a": 1}}, r"field input is a object: .*; expected text"),
        ('{"instruction": "a\\ud83e", "output": "b"}', r"field instruction holds half a character \(\\ud83e\)"),
        ('{"instruction": "a", "output": "\\udd99"}', r"field output holds half a character \(\\udd99\)"),
        ("[[]]", r"field row\[0\] is '\[\]'; expected \[question, answer\]"),
        ('"only text"', "is a text; expected an object"),
        ("12", "is a number; expected an object"),
        ('{"instruction": "a", "output": "b"', "is not a JSON object: Expecting ',' delimiter at column 35"),
        ("instruction: a", "is not a JSON object: Expecting value at column 1"),
        ({"text": "a document"}, "has a field text, which is learnt as it is: use --prompt_type text"),
        ({**GOOD, "history": [["a", ""]]}, r"field history\[0\]\[1\] is empty; expected text"),
    ],
)
def test_a_bad_row_is_refused_by_file_line_and_field(tmp_path, row, says):
    file = write(tmp_path / "a.jsonl", [GOOD, GOOD, row, GOOD])

    with pytest.raises(UserError, match=rf"1 of 4 rows of {re.escape(str(file))} can not be used") as refused:
        read_records(file, "instruct")

    assert re.search(rf"^  {re.escape(str(file))} line 3: {says}", str(refused.value), re.MULTILINE), refused.value
    assert "--skip_bad_rows" in str(refused.value)


def test_a_plain_document_without_text_is_refused(tmp_path):
    with pytest.raises(UserError, match="line 1: field text is empty; expected text"):
        read_records(write(tmp_path / "a.jsonl", [{"text": " "}]), "text")


def test_a_bad_row_of_an_array_is_refused_by_the_line_it_begins_at(tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps([GOOD, {**GOOD, "output": ""}], ensure_ascii=False, indent=1), encoding="utf-8")

    with pytest.raises(UserError, match=r"1 of 2 rows .*\n  .*a\.json line 7: field output is empty"):
        read_records(file, "instruct")


def test_more_than_ten_bad_rows_list_ten_and_the_total(tmp_path):
    file = write(tmp_path / "a.jsonl", [*[{**GOOD, "output": ""}] * 13, GOOD])

    with pytest.raises(UserError, match="13 of 14 rows") as refused:
        read_records(file, "instruct")

    listed = re.findall(r"line (\d+): field output is empty", str(refused.value))
    assert listed == [str(line) for line in range(1, 11)]
    assert "… and 3 more" in str(refused.value)


def test_ten_bad_rows_are_all_listed_and_no_more_promised(tmp_path):
    with pytest.raises(UserError, match="10 of 11 rows") as refused:
        read_records(write(tmp_path / "a.jsonl", [*[{**GOOD, "output": ""}] * 10, GOOD]), "instruct")

    assert "more" not in str(refused.value)


def test_what_all_bad_rows_expect_is_told_once(tmp_path):
    with pytest.raises(UserError) as refused:
        read_records(write(tmp_path / "a.jsonl", [{"a": 1}] * 12), "instruct")
    with pytest.raises(UserError) as of_two_kinds:
        read_records(write(tmp_path / "b.jsonl", [{"a": 1}, {**GOOD, "output": ""}]), "instruct")

    lines = str(refused.value).splitlines()
    assert [line.endswith(" has 'a'") for line in lines[1:11]] == [True] * 10
    assert lines[11].startswith("  expected instruction, ")
    assert str(of_two_kinds.value).count("; expected ") == 2


def test_bad_rows_can_be_left_out_and_are_counted_by_reason(tmp_path):
    rows = [GOOD, {**GOOD, "output": ""}, {**GOOD, "output": " "}, {"a": 1}, "{", 5, {**GOOD, "instruction": ["a"]}]
    records = read_records(write(tmp_path / "a.jsonl", rows), "instruct", skip_bad_rows=True)

    assert len(records.dialogues) == 1
    assert records.lines == [1]
    assert records.bad == {
        "output is empty": 2,
        "fields missing": 1,
        "not JSON": 1,
        "not an object": 1,
        "instruction is not text": 1,
    }


def test_a_file_of_bad_rows_only_is_refused_even_when_they_are_left_out(tmp_path):
    with pytest.raises(UserError, match="has no usable rows"):
        read_records(write(tmp_path / "a.jsonl", [{**GOOD, "output": ""}]), "instruct", skip_bad_rows=True)


def test_holding_out_splits_every_record_once():
    train, held = hold_out(251, 12)

    assert len(held) == 12
    assert sorted(train + held) == list(range(251))
    assert train == sorted(train)
    assert held == sorted(held)


def test_holding_out_is_deterministic_and_leaves_global_random_state_alone():
    random.seed(1)
    state = random.getstate()
    first = hold_out(1000, 50)
    assert random.getstate() == state
    random.seed(2)

    assert hold_out(1000, 50) == first


@pytest.mark.parametrize(("count", "size"), [(10, 0), (19, 0), (20, 1), (251, 12), (4000, 200), (100_000, 200)])
def test_by_default_5_percent_and_at_most_200_are_held_out(count, size):
    assert len(hold_out(count, None)[1]) == size


def test_a_test_size_of_0_holds_nothing_out():
    assert hold_out(5, 0) == ([0, 1, 2, 3, 4], [])


@pytest.mark.parametrize("test_size", [5, 6])
def test_holding_everything_out_is_refused(test_size):
    with pytest.raises(UserError, match=rf"--test_size {test_size} leaves nothing to train on: there are 5 records"):
        hold_out(5, test_size)


def test_several_files_are_read_in_order_and_each_record_knows_its_place(tmp_path):
    a, b = numbered(tmp_path / "a.jsonl", 3), numbered(tmp_path / "b.json", 2, "gb18030")
    records = read_records([a, b], "instruct")

    assert [messages[0]["content"] for messages in records.dialogues] == ["a 0", "a 1", "a 2", "b 0", "b 1"]
    assert [(records.source_ids[i], records.lines[i]) for i in (0, 4)] == [(0, 1), (1, 2)]
    assert [str(source.path) for source in records.sources] == [a, b]
    assert [source.rows for source in records.sources] == [3, 2]
    assert records.encoding == "utf-8, gb18030"


@pytest.mark.parametrize(("weight", "each", "extra"), [("2", 2, 0), ("0.5", 0, 10), ("1.5", 1, 10), ("1", 1, 0)])
def test_a_weight_repeats_the_training_records_of_its_file_and_no_other(tmp_path, weight, each, extra):
    a, b = numbered(tmp_path / "a.jsonl", 24), numbered(tmp_path / "b.jsonl", 10)
    records = read_records([f"{a}:{weight}", b], "instruct")
    train, held = hold_out(len(records.dialogues), 6)
    own = [i for i in train if i < 24]
    times = Counter(records.resample(train))

    assert not set(times) & set(held)
    assert all(times[i] == 1 for i in train if i >= 24)
    assert all(times[i] in (each, each + 1) for i in own)
    assert sum(times[i] for i in own) == each * len(own) + (round(len(own) / 2) if extra else 0)
    assert records.resample(train) == sorted(records.resample(train))


def test_what_is_held_out_does_not_depend_on_the_weights_and_the_draw_not_on_anything(tmp_path):
    a, b = numbered(tmp_path / "a.jsonl", 30), numbered(tmp_path / "b.jsonl", 30)
    plain, heavy = read_records([a, b], "instruct"), read_records([f"{a}:3", f"{b}:0.5"], "instruct")
    train, held = hold_out(len(heavy.dialogues), 9)
    random.seed(5)
    state = random.getstate()
    first = heavy.resample(train)

    assert hold_out(len(plain.dialogues), 9) == (train, held)
    assert random.getstate() == state
    assert heavy.resample(train) == first
    assert plain.resample(train) == train


def test_a_path_that_exists_as_it_is_spelt_has_no_weight(tmp_path):
    odd = numbered(tmp_path / "a.jsonl:2.jsonl", 3)
    numbered(tmp_path / "a.jsonl", 5)
    (source,) = read_records([odd], "instruct").sources

    assert (source.path, source.weight, source.rows) == (Path(odd), 1, 3)


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "twice", ""])
def test_a_weight_that_is_none_is_refused(tmp_path, weight):
    a = numbered(tmp_path / "a.jsonl", 3)

    with pytest.raises(UserError, match=rf"--data_path .*a\.jsonl:{weight}: '{weight}' is not a weight; expected .* a"):
        read_records([f"{a}:{weight}"], "instruct")


def test_a_weight_that_leaves_nothing_is_refused(tmp_path):
    records = read_records([f"{numbered(tmp_path / 'a.jsonl', 3)}:0.1"], "instruct")

    with pytest.raises(UserError, match=r"a\.jsonl:0\.1 leaves none of the 3 training records of that file"):
        records.resample([0, 1, 2])


def test_a_file_named_twice_is_refused(tmp_path):
    a = numbered(tmp_path / "a.jsonl", 3)

    with pytest.raises(UserError, match=r"--data_path names .*a\.jsonl twice, .* with a weight: .*a\.jsonl:2"):
        read_records([a, f"{tmp_path}/../{tmp_path.name}/a.jsonl"], "instruct")


def test_one_of_several_files_without_usable_rows_is_refused_by_name(tmp_path):
    bad = str(write(tmp_path / "bad.jsonl", ["{"]))

    with pytest.raises(UserError, match=r"--data_path .*bad\.jsonl has no usable rows"):
        read_records([numbered(tmp_path / "a.jsonl", 3), bad], "instruct", skip_bad_rows=True)


def test_the_hash_is_of_all_contents_their_order_and_weights(tmp_path):
    a, b = numbered(tmp_path / "a.jsonl", 3), numbered(tmp_path / "b.jsonl", 2)
    lists = [[a], [b], [a, b], [b, a], [f"{a}:2"], [f"{a}:2", b], [a, f"{b}:2"]]
    hashes = [read_records(paths, "instruct").sha256 for paths in lists]

    assert len(set(hashes)) == len(lists)
    assert hashes[0] == hashlib.sha256(Path(a).read_bytes()).hexdigest()
    moved = numbered(tmp_path / "elsewhere.jsonl", 0)
    Path(moved).write_bytes(Path(a).read_bytes())
    assert read_records([f"{moved}:2"], "instruct").sha256 == read_records([f"{a}:2"], "instruct").sha256


@pytest.mark.parametrize("name", REAL)
def test_a_real_file_is_read_whole(shared, name):
    file = shared / "instruct" / name
    text = file.read_text(encoding="utf-8")
    rows = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
    records = read_records(file, "instruct")

    assert [dialogue[-1]["content"] for dialogue in records.dialogues] == [row["output"] for row in rows]
    assert records.lines == sorted(records.lines)


@pytest.mark.parametrize("name", REAL_WITH_BAD_ROWS)
def test_a_real_bad_row_is_named_by_its_line_and_the_rest_can_be_used(shared, name):
    path = shared / "instruct" / name
    refused = 0
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        # One of these files has a comma behind its last record.
        rows = json.loads(re.sub(r",\s*]\s*$", "]", file.read_text(encoding="utf-8")))
        bad = [row for row in rows if not (row["instruction"].strip() and row["output"].strip())]
        records = read_records(file, "instruct", skip_bad_rows=True)
        assert (len(records.dialogues), records.bad.total()) == (len(rows) - len(bad), len(bad))
        if bad:
            refused += 1
            with pytest.raises(UserError, match=rf"{len(bad)} of {len(rows)} rows") as error:
                read_records(file, "instruct")
            line = int(re.search(r"line (\d+): field", str(error.value))[1])
            assert file.read_text(encoding="utf-8").split("\n")[line - 1].strip() == "{"

    assert refused > 0
