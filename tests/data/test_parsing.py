"""A data file's bytes to rows: every shape and encoding, and the line where a broken one breaks."""

import json

import pytest

from tests.data.record_files import GOOD, write
from vicuna.data.records import read_records
from vicuna.errors import UserError


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_array_is_read_with_the_line_each_record_begins_at(tmp_path, indent):
    file = tmp_path / "a.json"
    file.write_text(json.dumps([GOOD, GOOD, GOOD], ensure_ascii=False, indent=indent), encoding="utf-8")

    assert read_records(file, "instruct").lines == ([1, 1, 1] if indent is None else [2, 7, 12])


def test_a_comma_behind_the_last_record_of_an_array_is_forgiven(tmp_path):
    (tmp_path / "a.json").write_text(f"[{json.dumps(GOOD)},\n]\n", encoding="utf-8")

    assert len(read_records(tmp_path / "a.json", "instruct").dialogues) == 1


def test_a_json_file_of_lines_is_read_as_lines(tmp_path):
    assert read_records(write(tmp_path / "a.json", [GOOD, GOOD]), "instruct").lines == [1, 2]


def test_a_jsonl_file_that_holds_an_array_is_read_as_one(tmp_path):
    assert len(read_records(write(tmp_path / "a.jsonl", [[GOOD, GOOD]]), "instruct").dialogues) == 2


def test_empty_lines_of_a_jsonl_are_skipped_and_still_counted(tmp_path):
    assert read_records(write(tmp_path / "a.jsonl", ["", GOOD, "  ", GOOD]), "instruct").lines == [2, 4]


def test_a_txt_holds_documents_between_blank_lines(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("\n题：春\n春风\n\n \n\n题：夏\n夏日", encoding="utf-8")
    records = read_records(file, "text")

    assert records.dialogues == [
        [{"role": "assistant", "content": "题：春\n春风"}],
        [{"role": "assistant", "content": "题：夏\n夏日"}],
    ]
    assert records.lines == [2, 7]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("utf-16", "utf-16"),
        ("gb18030", "gb18030"),
        ("gbk", "gb18030"),
    ],
)
def test_an_encoding_is_found_out_and_recorded(tmp_path, written, shown):
    records = read_records(write(tmp_path / "a.jsonl", [GOOD], written), "instruct")

    assert records.dialogues[0][0]["content"] == "天空是什么颜色？"
    assert records.encoding == shown


@pytest.mark.parametrize("bom", [b"\xff\xfe", b"\xfe\xff"])
def test_utf_16_is_read_in_either_byte_order(tmp_path, bom):
    name = "utf-16-le" if bom == b"\xff\xfe" else "utf-16-be"
    (tmp_path / "a.jsonl").write_bytes(bom + json.dumps(GOOD, ensure_ascii=False).encode(name))

    assert read_records(tmp_path / "a.jsonl", "instruct").dialogues[0][1]["content"] == "蓝色。"


def test_a_byte_order_mark_is_no_part_of_a_document(tmp_path):
    (tmp_path / "a.txt").write_bytes("春风".encode("utf-8-sig"))

    assert read_records(tmp_path / "a.txt", "text").dialogues[0][0]["content"] == "春风"


def test_an_encoding_given_by_name_is_used(tmp_path):
    row = {"instruction": "天空是什麼顏色？", "output": "藍色。"}
    records = read_records(write(tmp_path / "a.jsonl", [row], "big5"), "instruct", encoding="big5")

    assert records.dialogues[0][0]["content"] == "天空是什麼顏色？"
    assert records.encoding == "big5"


def test_a_wrong_encoding_is_refused(tmp_path):
    file = write(tmp_path / "a.jsonl", [GOOD], "gb18030")

    with pytest.raises(UserError, match=r"a\.jsonl is not text in utf-8; name its encoding with --encoding"):
        read_records(file, "instruct", encoding="utf-8")


def test_an_unknown_encoding_is_refused(tmp_path):
    with pytest.raises(UserError, match="--encoding klingon is not a known text encoding; try utf-8"):
        read_records(write(tmp_path / "a.jsonl", [GOOD]), "instruct", encoding="klingon")


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xff\x00\x81\xff\xfe")

    with pytest.raises(UserError, match="is not text in UTF-8, UTF-16 with a byte order mark or GB18030"):
        read_records(tmp_path / "a.jsonl", "instruct")


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('[\n{"instruction": "a", "output": "b"},\n{"instruction": "a" "output": "b"}\n]', 3, "is not JSON: Expecting"),
        ('[\n{"instruction": "a", "output": "b"}\n{"instruction": "c", "output": "d"}\n]', 3, "lacks a comma"),
        ('[\n{"instruction": "a", "output": "b"},\n{"instruction": "c",\n "out', 4, "is not JSON: Unterminated string"),
        ('[\n{"instruction": "a", "output": "b"},\n', 3, "the JSON array ends here"),
        ('[\n{"instruction": "a", "output": "b"}\n', 3, "the JSON array ends here"),
    ],
)
def test_a_broken_array_is_refused_by_the_line_where_it_breaks(tmp_path, text, line, says):
    file = tmp_path / "a.json"
    file.write_text(text, encoding="utf-8")

    with pytest.raises(UserError, match=f"line {line}: .*{says}"):
        read_records(file, "instruct")
