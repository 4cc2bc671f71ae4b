"""tools/check_data.py as a user runs it: reports, duplicates, lengths, rows shown, exit status."""

import json
import re
from pathlib import Path

import pytest

from vicuna.prompt.tokenizer import TextTokenizer

ROOT = Path(__file__).resolve().parent.parent.parent
GOOD = {"instruction": "天空是什么颜色？", "output": "蓝色。"}


@pytest.fixture
def check(program):
    def run(*argv: object):
        done = program("tools/check_data.py", *argv)
        assert "Traceback" not in done.stderr
        return done

    return run


def write(file: Path, rows: list, encoding: str = "utf-8") -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    file.write_bytes("\n".join(lines).encode(encoding))
    return file


def test_a_good_file_is_reported_with_status_0(check):
    done = check("sample/chat/data_sample.jsonl", "--prompt_type", "chat")

    assert done.returncode == 0
    assert "formats     input and output 12" in done.stdout
    assert "rows        12: 12 good, 0 malformed" in done.stdout
    assert "duplicates  0" in done.stdout


def test_malformed_rows_are_listed_by_reason_with_status_1(check, tmp_path):
    rows = [GOOD, *[{**GOOD, "output": ""}] * 12, "{", {"messages": [{"role": "user", "content": "x"}]}, GOOD]
    file = write(tmp_path / "a.jsonl", rows, "gb18030")
    done = check(file)

    assert done.returncode == 1
    assert "encoding    gb18030" in done.stdout
    assert "formats     instruction 14, messages 1" in done.stdout
    assert "rows        16: 2 good, 14 malformed" in done.stdout
    assert re.search(r"malformed   12 \(output is empty\)\n    line 2: field output is empty", done.stdout)
    assert "    … and 2 more" in done.stdout
    assert "malformed   1 (not JSON)\n    line 14: is not a JSON object" in done.stdout
    assert "malformed   1 (no answer)\n    line 15: ends with the user's message of turn 1" in done.stdout
    assert f"duplicates  1\n    line 16 is {file} line 1 again" in done.stdout
    assert "check_data.py: error: 14 rows are malformed: see above." in done.stderr
    assert check(file, "--skip_bad_rows").returncode == 0


def test_duplicates_are_found_across_files_and_a_weight_is_no_part_of_the_name(check, tmp_path):
    said = [{"role": "user", "content": GOOD["instruction"]}, {"role": "assistant", "content": GOOD["output"]}]
    a, b = write(tmp_path / "a.jsonl", [GOOD]), write(tmp_path / "b.jsonl", [{"messages": said}])
    done = check(f"{a}:2", b)

    assert done.returncode == 0
    assert f"line 1 is {a} line 1 again" in done.stdout


def test_a_file_that_can_not_be_read_does_not_hide_the_others(check, tmp_path):
    (tmp_path / "b.jsonl").write_bytes(b"\xff\x00\x81\xff\xfe")
    good = write(tmp_path / "a.jsonl", [GOOD])
    done = check(tmp_path / "none.jsonl", tmp_path / "b.jsonl", "README.md", f"{good}:0", good)

    assert done.returncode == 1
    assert "none.jsonl does not exist" in done.stdout
    assert "b.jsonl is not text in UTF-8" in done.stdout
    assert "README.md ends in '.md'" in done.stdout
    assert "'0' is not a weight" in done.stdout
    assert "rows        1: 1 good, 0 malformed" in done.stdout
    assert "4 of 5 files can not be read" in done.stderr


def test_lengths_cuts_and_rows_are_shown_with_a_base(check, tiny_base, tmp_path):
    turns = {"input": ["天空是什么颜色？", "草呢？"], "output": ["蓝色。", "绿色。"]}
    long = {"input": ["天空是什么颜色？"] * 9, "output": ["蓝色。"] * 9}
    rows = [turns, long, {"input": ["天" * 300], "output": ["x"]}, {"input": ["天？"], "output": ["蓝色的天空" * 60]}]
    file = write(tmp_path / "a.jsonl", rows)
    more = ["--model_path", tiny_base, "--cutoff_len", 100, "--show", 1]
    done = check(file, *more, "--prompt_type", "chat", "--train_turns", "all")

    assert done.returncode == 0, done.stderr
    assert "all 4 good rows with prompt type chat_eos" in done.stdout
    for line in ("cut         1 (25.0%)", "shortened   1 (25.0%)", "left out    1 (25.0%)"):
        assert f"{line} at --cutoff_len 100" in done.stdout
    assert "User:天空是什么颜色？\n\nAssistant:⟦蓝色。</s>⟧\n\nUser:草呢？\n\nAssistant:⟦绿色。</s>⟧" in done.stdout
    counts = [int(count) for count in re.findall(r"^ +\d+ to +\d+ +(\d+)", done.stdout, re.MULTILINE)]
    assert sum(counts) == 4
    texts = [text for row in rows for name in ("input", "output") for text in row[name]]
    tokenizer = TextTokenizer(tiny_base)
    density = sum(len(tokenizer.encode_continuation(text)) for text in texts) / sum(map(len, texts))
    assert f"density     {density:.2f} tokens a character" in done.stdout
    assert check(file, *more, "--prompt_type", "chat").stdout.count("⟦") == 1


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (["--show", "-1"], 2, "--show -1 is too small: expected 0 or more"),
        (["--cutoff_len", "7"], 2, "--cutoff_len 7 is too small"),
        (["--train_turns", "all", "--prompt_type", "text"], 2, "--train_turns all puts EOS behind every answer"),
        (["--model_path", "./nosuch"], 1, "--model_path ./nosuch does not exist"),
        (["--encoding", "klingon"], 1, "1 of 1 files can not be read"),
    ],
)
def test_a_mistake_ends_in_a_sentence(check, argv, status, message):
    done = check("sample/instruct/data_sample.jsonl", *argv)

    assert done.returncode == status
    assert message in done.stderr


def test_a_cut_that_leaves_nothing_is_a_sentence(check, tiny_base):
    done = check("sample/instruct/quickstart.json", "--model_path", tiny_base, "--cutoff_len", 8)

    assert done.returncode == 1
    assert "no row can be trained on: --cutoff_len 8 leaves no answer" in done.stderr


def test_real_broken_files_are_reported_and_not_stumbled_over(check, shared):
    counts = {
        "instruct/hikariming/translated/alpaca_data-9407-12345-中文-未完成.json": (2799, 2),
        "instruct/hikariming/extra/党建类数据集.json": (176, 1),
        "instruct/carbonz0/zh-data-part-00.json": (10015, 6),
        "chat/kdconv/film_dev.json": (0, 150),
        "law/lawyer-llama/legal_advice.json": (5000, 0),
    }
    done = check(*(shared / name for name in counts))
    reports = done.stdout.strip().split("\n\n")

    assert done.returncode == 1
    assert len(reports) == len(counts)
    for report, (name, (good, bad)) in zip(reports, counts.items(), strict=True):
        assert report.startswith(f"{shared / name}\n")
        assert f"rows        {good + bad}: {good} good, {bad} malformed" in report
        malformed = report.split("\n  suspicious")[0]
        assert len(re.findall(r"^    line \d+: ", malformed, re.MULTILINE)) == min(bad, 10)


def test_contradictions_empty_files_and_what_is_expected_are_told_once(check, tmp_path):
    a = write(tmp_path / "a.jsonl", [GOOD, {**GOOD, "output": "绿色。"}, GOOD])
    done = check(a)
    assert "duplicates  1" in done.stdout
    assert (
        f"contradict  1 (the same question, another answer)\n    line 2 answers otherwise than {a} line 1"
        in done.stdout
    )
    assert done.stdout.endswith("nothing stands in the way of training: 3 good rows in 1 file.\n")
    done = check(write(tmp_path / "b.jsonl", []), a)
    assert done.returncode == 1
    assert "1 of 2 files have no usable row: see above. Training would refuse that" in done.stderr
    done = check(write(tmp_path / "c.jsonl", [{"a": 1}, {"b": 2}, {"c": 3}]))
    assert done.stdout.count("expected") == 1, done.stdout
    assert "3 rows are malformed" in done.stderr


def test_the_cut_is_that_of_the_program_that_trains_and_rows_of_every_file_are_shown(check, tiny_base, tmp_path):
    a, b = (write(tmp_path / name, [GOOD, {**GOOD, "output": name}]) for name in ("a.jsonl", "b.jsonl"))
    base = ["--model_path", tiny_base]
    done = check(a, b, *base, "--prompt_type", "chat", "--show", 1)
    assert "at --cutoff_len 2048" in done.stdout
    assert [f"{file} line 1," in done.stdout for file in (a, b)] == [True, True]
    done = check(a, b, *base, "--prompt_type", "instruct", "--row", 2)
    assert "at --cutoff_len 256" in done.stdout
    assert "⟦b.jsonl</s>⟧" in done.stdout
    assert done.stdout.count("⟦") == 2
    assert "\x1b" not in done.stdout
    assert check(a, "--row", 2).returncode == 2


def test_suspicious_rows_are_good_and_named_with_their_places(check, tmp_path):
    rows = [GOOD, {**GOOD, "output": "我是{{name}}。"}, {**GOOD, "instruction": "Human:你好\nAssistant:"}]
    done = check(write(tmp_path / "a.jsonl", rows))

    assert done.returncode == 0
    assert "rows        3: 3 good, 0 malformed" in done.stdout
    assert "suspicious  1 (placeholders that were not filled in)\n    line 2: '{{name}}'" in done.stdout
    assert "suspicious  1 (a dialogue within one text)\n    line 3: 'Human:你好\\nAssistant:'" in done.stdout
