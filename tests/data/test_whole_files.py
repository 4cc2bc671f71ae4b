"""Nothing of a data file is dropped: what is joined, cut short or padded is read, or named with its line."""

import json
import re

import pytest

from tests.data.record_files import GOOD
from vicuna.data.bad_row import BadRow
from vicuna.data.parsing import parse_rows
from vicuna.data.records import read_records
from vicuna.errors import UserError

ONE = json.dumps(GOOD, ensure_ascii=False)
TALL = json.dumps(GOOD, ensure_ascii=False, indent=2)  # five lines
FLAT = json.dumps({"input": ["a"], "output": ["b"]}, indent=0)  # eight lines that begin at the left


def lines_read(text: str) -> list[int]:
    """The line of each row, negative where it can not be used."""
    return [-line if isinstance(row, BadRow) else line for line, row in parse_rows(text, ".json")]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (f"[{ONE}]\n[{ONE},{ONE}]\n", [1, 2, 2]),
        (f"[{ONE}][{ONE}]", [1, 1]),
        (f"[\n{ONE}\n]\n\ufeff[\n{ONE}\n]", [2, 5]),
        (f"[{ONE}]\n{ONE}\n{ONE}\n", [1, 2, 3]),
        (f"{ONE}\n[\n{ONE},\n{ONE}\n]\n{ONE}", [1, 3, 4, 6]),
        (f"[{ONE}] and more\n{ONE}", [1, -1, 2]),
        (f"[{ONE}]]\n", [1, -1]),
        (f"[{ONE}]{chr(0) * 9}", [1, -1]),
        (f"{ONE}\n{chr(0) * 9}\n{ONE}", [1, -2, 3]),
        (f"{ONE}\n\x1a", [1, -2]),
        (f"{ONE}{ONE} {ONE}\n{ONE}", [1, 1, 1, 2]),
        (f"{ONE},\n{ONE},\n", [1, 2]),
        (f"{ONE} and more\n{ONE}", [-1, 2]),
        (f"{TALL}\n{TALL}\n{ONE}", [1, 6, 11]),
        (f"{TALL}{TALL}", [1, 5]),
        (f"{FLAT}\n{FLAT}", [1, 9]),
        (f"{TALL[:-9]}\n{TALL}", [-1, 5]),
        (f"{ONE[:-9]}\n{ONE}\n{ONE}", [-1, 2, 3]),
        (f"{{ {ONE[1:-9]}\n{{ {ONE[1:]}", [-1, 2]),
        (f"{{\n5\n{ONE}", [-1, 2, 3]),
    ],
)
def test_every_part_of_a_file_is_a_row_or_named_by_its_line(text, lines):
    assert lines_read(text) == lines


def test_what_is_left_out_of_a_broken_file_is_told_by_its_lines(tmp_path):
    file = tmp_path / "a.json"
    file.write_text(f"{TALL[:-9]}\n{ONE}\n[{ONE},\n{{]\n{ONE}\n{ONE}\n", encoding="utf-8")

    with pytest.raises(UserError, match="2 of 4 rows") as refused:
        read_records(file, "instruct")
    assert re.search(r"line 1: is not a JSON object: .*; it takes lines 1 to 4$", str(refused.value), re.MULTILINE)
    assert re.search(r"line 7: is not JSON: .*; nothing from here to line 9 is read$", str(refused.value), re.MULTILINE)


@pytest.mark.parametrize("form", ["{}", "[{}]"])
def test_a_field_that_stands_twice_with_two_values_is_refused(form):
    twice = '{"instruction": "a", "output": "b", "output": "c"}'
    ((line, row),) = parse_rows(form.format(twice), ".json")

    assert line == 1
    assert str(row) == "has the field 'output' twice, with different values"
    assert lines_read(form.format(twice.replace('"c"', '"b"'))) == [1]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
def test_brackets_within_brackets_without_end_are_a_bad_row(text):
    assert lines_read(text) == [-1]


@pytest.mark.parametrize("text", ["题：春\n\0\0\n\n题：夏", "题：春\0\n\n题：夏"])
def test_a_document_with_nul_bytes_is_named(text):
    (first, problem), (_, second) = parse_rows(text, ".txt")

    assert (first, problem.reason) == (1, "NUL bytes")
    assert second == {"text": "题：夏"}


def test_rows_that_are_lists_themselves_are_not_taken_apart():
    pairs = '["q", "a"]\n["q", "a"]'
    assert [row for _, row in parse_rows(pairs, ".jsonl")] == [["q", "a"]] * 2
    assert [row for _, row in parse_rows('[["q", "a"], ["r", "b"]]', ".jsonl")] == [["q", "a"], ["r", "b"]]
    assert [row for _, row in parse_rows('[["q", "a"], ["r", "b"]]\n[["q", "a"]]', ".jsonl")] == [
        [["q", "a"], ["r", "b"]],
        [["q", "a"]],
    ]
    said = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert [row for _, row in parse_rows(f"{json.dumps(said)}\n" * 2, ".jsonl")] == [said] * 2
