"""The tool itself: mixes, what is drawn, refusals, and that it leaves nothing half done."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.data.record_files import numbered, write
from vicuna.args import parse
from vicuna.conversion import sets
from vicuna.conversion.flags import ConvertFlags
from vicuna.conversion.sets import Mix, Part
from vicuna.data import pieces
from vicuna.errors import UserError


def talks(file: Path, count: int) -> Path:
    said = [[{"from": "human", "value": f"问题{i}"}, {"from": "gpt", "value": "回答"}] for i in range(count)]
    english = [[{"from": "human", "value": "question"}, {"from": "gpt", "value": "answer"}]]
    return write(file, [{"conversations": one} for one in said + english])


def test_the_originals_mix_of_instructions_has_every_row_in_an_order_by_seed(convert, tmp_path):
    paths = [f"belle={numbered(tmp_path / 'b.jsonl', 30)}", f"guanaco={numbered(tmp_path / 'g.jsonl', 20)}"]
    paths.append(f"belle={numbered(tmp_path / 'c.jsonl', 5)}")
    first, again, other = (
        convert("--mix", "belle_guanaco", "--data_path", *paths, "--seed", seed) for seed in (1, 1, 2)
    )

    asked = [row["instruction"] for row in first.rows]
    assert Counter(one[0] for one in asked) == {"b": 30, "g": 20, "c": 5}
    assert len(set(asked)) == 55
    assert asked != sorted(asked)
    assert first.rows == again.rows
    assert asked != [row["instruction"] for row in other.rows]
    assert sorted(asked) == sorted(row["instruction"] for row in other.rows)
    assert "belle\n  read      35 rows\n  usable    35\n" in first.said


def test_the_originals_mix_of_dialogues_draws_chinese_ones(convert, tmp_path, monkeypatch):
    assert sets.MIXES["instruct_chat_50k"] == Mix("chat", {"sharegpt": Part(30_000, "zh"), "alpaca": Part(20_000)})
    smaller = Mix("chat", {"sharegpt": Part(30, "zh"), "alpaca": Part(20)})
    monkeypatch.setitem(sets.MIXES, "instruct_chat_50k", smaller)
    paths = [f"sharegpt={talks(tmp_path / 's.jsonl', 40)}", f"alpaca={numbered(tmp_path / 'a.jsonl', 7)}"]
    made = convert("--mix", "instruct_chat_50k", "--data_path", *paths)

    assert Counter(row["input"][0][0] for row in made.rows) == {"问": 30, "a": 7}
    assert [one["reason"] for one in made.skipped] == ["not Chinese"]
    assert "read      41 rows\n  usable    40\n  drawn     30\n  left out  1 (not Chinese)\n" in made.said


def test_rows_are_drawn_by_the_seed_in_their_order(convert, tmp_path):
    argv = ["--from", "alpaca", "--to", "instruct", "--data_path", numbered(tmp_path / "a.jsonl", 50), "--rows", 20]
    numbers = [
        [int(row["instruction"].split()[1]) for row in convert(*argv, "--seed", seed).rows] for seed in (1, 1, 2)
    ]

    assert numbers[0] == numbers[1] == sorted(set(numbers[0]))
    assert len(numbers[0]) == 20
    assert numbers[0] != numbers[2]


def test_a_large_file_in_pieces_gives_the_rows_of_the_whole_one(convert, tmp_path, monkeypatch):
    said = [[{"from": "human", "value": f"}}, {{ {i}"}, {"from": "gpt", "value": "},\n{"}] for i in range(40)]
    rows = [{"conversations": one} for one in said]
    file = tmp_path / "a.json"
    for text in (json.dumps(rows), json.dumps(rows, indent=1), "\n".join(map(json.dumps, rows))):
        file.write_text(text, encoding="utf-8")
        whole = convert("--from", "sharegpt", "--to", "chat", "--data_path", file).rows
        with monkeypatch.context() as changed:
            changed.setattr(pieces, "PIECE", 500)
            assert convert("--from", "sharegpt", "--to", "chat", "--data_path", file).rows == whole
        assert len(whole) == 40


def test_half_a_character_is_left_out_and_the_explanation_can_be_read(convert, tmp_path):
    rows = ['{"instruction": "a\\ud83d", "output": "b"}', {"instruction": "a", "output": "b"}]
    made = convert("--from", "alpaca", "--to", "instruct", "--data_path", write(tmp_path / "a.jsonl", rows))

    assert (len(made.rows), made.skipped[0]["reason"]) == (1, "half a character")


def test_nothing_is_written_over_and_nothing_is_left_of_what_failed(convert, tmp_path):
    file = numbered(tmp_path / "a.jsonl", 3)
    (convert.folder / "out1.jsonl").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"out1\.jsonl exists; nothing is ever written over"):
        convert("--from", "alpaca", "--to", "chat", "--data_path", file)
    with pytest.raises(UserError, match=r"no row could be made of .*kdconv|no row could be made of"):
        convert("--from", "cail", "--to", "chat", "--data_path", file)
    with pytest.raises(UserError, match="nowhere does not exist"):
        convert("--from", "alpaca", "--to", "chat", "--data_path", tmp_path / "nowhere")

    assert [one.name for one in convert.folder.iterdir()] == ["out1.jsonl"]
    assert (convert.folder / "out1.jsonl").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--to", "chat"], "and neither was given"),
        (["--from", "belle", "--mix", "belle_guanaco"], "and both were given"),
        (["--from", "bell", "--to", "chat"], "--from bell is not a set that is known; expected one of cmedqa2, huatuo"),
        (["--from", "belle"], "--to is not given; expected instruct or chat"),
        (["--from", "belle", "--to", "text"], "--to text is not a format"),
        (["--mix", "a"], "--mix a is not a mix that is known; expected one of belle_guanaco"),
        (["--mix", "belle_guanaco", "--to", "chat"], "is one of instruct, not of --to chat"),
        (["--mix", "belle_guanaco", "--rows", "3"], "--rows draws from one set"),
        (["--mix", "belle_guanaco", "--data_path", "belle=a"], "names no files of guanaco; add guanaco=PATH"),
        (["--mix", "belle_guanaco", "--data_path", "a.json"], "--data_path a.json names no set of the mix"),
        (["--from", "belle", "--to", "chat", "--asker", "问："], "are for the questions of a domain, and belle"),
        (["--from", "cail", "--to", "chat", "--instruction", "a", "b"], "--instruction has 2 values"),
        (["--from", "cail", "--to", "chat", "--output_path", "a.json"], "has to end in .jsonl"),
        (["--from", "cail", "--to", "chat", "--rows", "-1"], "--rows -1 is too small"),
        (["--from", "cail", "--to", "chat", "--data_path"], "expected at least one|--data_path is not given"),
    ],
)
def test_a_contradiction_is_refused_before_anything_is_read(capsys, argv, says):
    given = [] if "--data_path" in argv else ["--data_path", "a.json"]
    output = [] if "--output_path" in argv else ["--output_path", "a.jsonl"]
    with pytest.raises(SystemExit) as ended:
        parse("test", ConvertFlags, argv=[*argv, *given, *output])

    assert ended.value.code == 2
    assert any(part in capsys.readouterr().err for part in says.split("|"))


def test_a_file_named_twice_would_count_twice(convert, tmp_path):
    numbered(tmp_path / "a.jsonl", 3)
    with pytest.raises(UserError, match=r"names .*a\.jsonl twice; name it once"):
        convert("--from", "alpaca", "--to", "chat", "--data_path", tmp_path / "a.jsonl", tmp_path / "a.jsonl")


def test_the_program_ends_with_a_sentence(program, tmp_path):
    file = numbered(tmp_path / "a.jsonl", 3)
    argv = ["tools/convert_data.py", "--from", "alpaca", "--to", "chat", "--data_path", file]
    done = program(*argv, "--output_path", tmp_path / "o.jsonl")
    again = program(*argv, "--output_path", tmp_path / "o.jsonl")

    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"wrote 3 rows: {tmp_path / 'o.jsonl'}")
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "nothing is ever written over" in again.stderr
