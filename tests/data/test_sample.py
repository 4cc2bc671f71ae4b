"""The records in sample/."""

import json
import re
from pathlib import Path

import pytest

from vicuna.data.records import hold_out, read_records

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def sample() -> list[dict]:
    text = (ROOT / "sample/instruct/data_sample.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def quickstart() -> list[dict]:
    return json.loads((ROOT / "sample/instruct/quickstart.json").read_text(encoding="utf-8"))


def test_the_sample_has_200_chinese_records_and_some_english_ones(sample):
    chinese = [row for row in sample if re.search("[\u4e00-\u9fff]", row["instruction"])]
    english = [row for row in sample if not re.search("[\u4e00-\u9fff]", row["instruction"] + row["output"])]

    assert len(chinese) >= 200
    assert len(english) >= 10
    assert len(read_records(ROOT / "sample/instruct/data_sample.jsonl", "instruct").dialogues) == len(sample)


@pytest.mark.parametrize("test_size", [None, 12])
def test_each_question_of_the_quickstart_is_once_in_training_and_not_held_out(sample, quickstart, test_size):
    train, held = hold_out(len(sample), test_size)
    for question in quickstart:
        wanted = {name: question[name] for name in ("instruction", "input", "output")}
        assert sum(sample[i] == wanted for i in train) == 1
        assert not any(sample[i]["instruction"] == wanted["instruction"] for i in held)


def test_the_quickstart_asks_ten_questions_of_all_seven_kinds(quickstart):
    assert len(quickstart) == 10
    assert {row["kind"] for row in quickstart} == {
        "knowledge",
        "translation",
        "arithmetic",
        "code",
        "writing",
        "extraction",
        "role play",
    }


def test_no_two_expected_answers_of_the_quickstart_begin_alike(quickstart):
    assert len({row["output"][:8] for row in quickstart}) == 10
    assert all(not a["output"].startswith(b["output"][:8]) for a in quickstart for b in quickstart if a is not b)
