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


DOMAINS = {
    "medical": ("cmedqa2", "instruct", ["sample/medical", "--split"], ("train", "test")),
    "legal": ("lawyer-llama", "chat", [], ("sample/legal/counsel.json", "sample/legal/counsel_held_out.json")),
}


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_records_of_a_domain_are_what_the_converter_makes_of_its_sources(program, tmp_path, domain):
    name, to, more, parts = DOMAINS[domain]
    for part, made in zip(parts, ("train", "held_out"), strict=True):
        argv = ["--from", name, "--to", to, "--category", domain, "--data_path", *more, part]
        done = program("tools/convert_data.py", *argv, "--output_path", tmp_path / f"{made}.jsonl")
        assert done.returncode == 0, done.stderr
        kept = (ROOT / f"sample/{domain}/{made}.jsonl").read_bytes()
        assert (tmp_path / f"{made}.jsonl").read_bytes() == kept


def test_what_is_held_out_or_asked_of_a_domain_is_nowhere_in_training(sample):
    def asked(file: str) -> set[str]:
        lines = (ROOT / "sample" / file).read_text(encoding="utf-8").splitlines()
        return {str([json.loads(line).get(name) for name in ("instruction", "input")]) for line in lines}

    trained = asked("medical/train.jsonl") | asked("legal/train.jsonl") | asked("instruct/data_sample.jsonl")
    probes = ("medical/held_out.jsonl", "legal/held_out.jsonl", "general/probe.jsonl")
    assert [len(asked(file)) for file in probes] == [12, 12, 24]
    assert not trained & set().union(*map(asked, probes))
    roles = [json.loads(line) for line in (ROOT / "sample/general/role_play.jsonl").read_text("utf-8").splitlines()]
    assert not {row["instruction"] for row in roles} & {row["instruction"] for row in sample}
    assert not any("律师" in row["instruction"] for row in roles)


def test_a_third_of_the_legal_answers_speak_as_a_lawyer():
    rows = [json.loads(line) for line in (ROOT / "sample/legal/train.jsonl").read_text("utf-8").splitlines()]
    assert sum("作为一名律师" in row["output"][0] for row in rows) == 12
    assert len(rows) == 36
