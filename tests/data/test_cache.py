"""Tokenised records: found again by their content, made once a host, and waited for."""

import ast
import json
import os
import shutil
import threading
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.own_bases import write_tokenizer
from vicuna.data import cache
from vicuna.data.cache import MANIFEST, cache_key, load_or_tokenise
from vicuna.data.flags import DataFlags
from vicuna.data.records import open_sources
from vicuna.errors import UserError
from vicuna.files.aside import PREFIX
from vicuna.prompt.templates import BASE
from vicuna.prompt.tokenizer import TextTokenizer

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def tokenizer(tiny_base) -> TextTokenizer:
    return TextTokenizer(tiny_base)


def numbered(file: Path, count: int, word: str = "第") -> Path:
    rows = ({"instruction": f"问题{word}{i}", "output": f"回答{word}{i}"} for i in range(count))
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def flags(tmp_path) -> DataFlags:
    file = numbered(tmp_path / "records.jsonl", 40)
    return DataFlags(data_path=[str(file)], cache_path=str(tmp_path / "cache"))


def prepare(flags, tokenizer, writes=True, timeout_s=60):
    return load_or_tokenise(flags, open_sources(flags.data_path), tokenizer, writes, timeout_s)


def entries(flags) -> list[str]:
    return sorted(path.name for path in Path(flags.cache_path).iterdir())


def test_what_comes_back_is_what_was_tokenised_and_nothing_else_is_left(flags, tokenizer):
    first, again = prepare(flags, tokenizer), prepare(flags, tokenizer)
    assert entries(flags) == [cache_key(flags, open_sources(flags.data_path), tokenizer)]
    for found in (first, again):
        assert (len(found.train.rows), len(found.held_out.rows)) == (38, 2)
        assert found.records.sources[0].rows == 40
        assert str(found.records.sources[0].path) == flags.data_path[0]
    assert first.train.rows[:] == again.train.rows[:]
    assert (first.sha256, vars(first.train)["lengths"]) == (again.sha256, again.train.lengths)
    record = first.train.rows[5]["record"]
    assert again.location(record) == f"{flags.data_path[0]} line {record + 1}"


def test_the_second_time_no_record_is_read(flags, tokenizer, monkeypatch):
    prepare(flags, tokenizer)
    monkeypatch.setattr(cache, "read_records", None)
    assert len(prepare(flags, tokenizer).train.rows) == 38


def test_which_rows_are_of_one_dialogue_comes_back_too(tmp_path):
    write_tokenizer(tmp_path / "base", "thinking")
    turns = [{"role": role, "content": "1"} for _ in range(3) for role in ("user", "assistant")]
    file = tmp_path / "dialogues.jsonl"
    file.write_text("".join(json.dumps({"messages": turns[:count]}) + "\n" for count in (2, 4, 6)), encoding="utf-8")
    flags = DataFlags(
        data_path=[str(file)], cache_path=str(tmp_path / "cache"), prompt_type=BASE, train_turns="all", test_size=0
    )
    for _ in range(2):
        assert prepare(flags, TextTokenizer(tmp_path / "base")).train.dialogue_rows == [1, 2, 3]


def test_entries_of_rows_that_are_all_of_dialogues_of_their_own_say_nothing_of_that(flags, tokenizer):
    assert prepare(flags, tokenizer).train.dialogue_rows == []
    (entry,) = Path(flags.cache_path).iterdir()
    assert "dialogue_rows" not in json.loads((entry / MANIFEST).read_text(encoding="utf-8"))["facts"]["train"]


def changed(file: Path) -> None:
    """A bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES = {
    "rows changed": (lambda entry: changed(entry / cache.TRAIN_ROWS), "train.arrow was changed"),
    "rows cut": (lambda entry: os.truncate(entry / cache.HELD_OUT_ROWS, 9), "held_out.arrow was changed"),
    "rows gone": (lambda entry: (entry / cache.TRAIN_ROWS).unlink(), "train.arrow is missing"),
    "counts changed": (
        lambda entry: (entry / MANIFEST).write_text(
            (entry / MANIFEST).read_text(encoding="utf-8").replace('"cut": 0', '"cut": 7'), encoding="utf-8"
        ),
        "manifest.json was changed",
    ),
    "no JSON": (lambda entry: os.truncate(entry / MANIFEST, 9), "manifest.json or what it names can not be read"),
    "older": (
        lambda entry: (entry / MANIFEST).write_text('{"sources": []}', encoding="utf-8"),
        "or is of an earlier version",
    ),
    "no manifest": (lambda entry: (entry / MANIFEST).unlink(), ""),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=list(DAMAGES))
def test_an_entry_that_is_not_what_was_written_is_made_anew_with_a_line(
    flags, tokenizer, monkeypatch, caplog, damage, said
):
    first = prepare(flags, tokenizer)
    rows, (name,) = first.train.rows[:], entries(flags)
    entry = Path(flags.cache_path) / name
    before = contents(entry)
    damage(entry)
    assert contents(entry) != before
    monkeypatch.setattr(cache.log, "propagate", True)
    again = prepare(flags, tokenizer)
    # Other tests of the process may have left the program's own handler, which hands each record on once more.
    lines = {line for record in caplog.records if "made anew" in (line := record.getMessage())}
    assert len(lines) == bool(said)
    assert all(said in line for line in lines)
    assert again.train.rows[:] == rows
    assert contents(entry) == before
    assert entries(flags) == [name]


def test_who_waits_hashes_too_and_waits_for_a_sound_entry(flags, tokenizer):
    prepare(flags, tokenizer)
    entry = Path(flags.cache_path) / entries(flags)[0]
    before = contents(entry)
    changed(entry / cache.TRAIN_ROWS)
    found = []
    waiting = threading.Thread(target=lambda: found.append(prepare(flags, tokenizer, writes=False)))
    waiting.start()
    prepare(flags, tokenizer)
    waiting.join()
    assert found
    assert contents(entry) == before


def contents(entry: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in entry.iterdir()}


def test_another_name_is_the_same_entry_and_is_the_name_that_is_told(flags, tokenizer):
    prepare(flags, tokenizer)
    moved = Path(flags.data_path[0]).rename(Path(flags.data_path[0]).with_name("moved.jsonl"))
    found = prepare(replace(flags, data_path=[str(moved)]), tokenizer)
    assert len(entries(flags)) == 1
    assert found.location(3).startswith(str(moved))


@pytest.mark.parametrize(
    "change",
    [
        {"cutoff_len": 64}, {"prompt_type": "chat"}, {"prompt_type": "chat", "train_turns": "all"},
        {"train_on_inputs": True}, {"test_size": 3}, {"skip_bad_rows": True}, {"encoding": "utf-8"},
    ],
)  # fmt: skip
def test_another_option_is_another_entry(flags, tokenizer, change):
    sources = open_sources(flags.data_path)
    assert cache_key(replace(flags, **change), sources, tokenizer) != cache_key(flags, sources, tokenizer)


def test_other_records_weights_and_tokenizers_are_other_entries(flags, tokenizer, tiny_base, tmp_path):
    other = numbered(tmp_path / "other.jsonl", 40, "其")
    lists = [flags.data_path, [str(other)], [f"{other}:2"], [str(other), *flags.data_path]]
    keys = [cache_key(flags, open_sources(paths), tokenizer) for paths in lists]
    assert len(set(keys)) == len(lists)
    copy = tmp_path / "base"
    copy.mkdir()
    (copy / "tokenizer.model").write_bytes((tiny_base / "tokenizer.model").read_bytes() + b"\x00\x00")
    tokenizer.source = copy / "tokenizer.model"
    assert cache_key(flags, open_sources(flags.data_path), tokenizer) != keys[0]


def test_the_code_of_every_module_that_makes_rows_is_part_of_the_key():
    """All that tokenising imports of this program, and what that imports, but for the way to fail."""
    found, waiting = set(), ["vicuna.data.examples"]
    while waiting:
        name = waiting.pop()
        found.add(name)
        tree = ast.parse(Path(find_spec(name).origin).read_text(encoding="utf-8"))
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        waiting += [one for one in imported - found - {"vicuna.errors", "vicuna.sentences"} if one.startswith("vicuna")]
    assert found == set(cache.ROW_MODULES)


def made_aside(entry: Path) -> Path:
    """What a process that tokenises makes first."""
    made = entry.parent / f"{PREFIX}0" / "inside" / entry.name
    made.mkdir(parents=True)
    return made


def test_the_others_wait_for_the_one_that_writes(flags, tokenizer):
    found = []
    waiting = threading.Thread(target=lambda: found.append(prepare(flags, tokenizer, writes=False)))
    waiting.start()
    time.sleep(0.5)
    assert not found
    written = prepare(flags, tokenizer)
    waiting.join()
    assert found[0].sha256 == written.sha256


def test_a_writer_that_fails_ends_those_that_wait(flags, tokenizer, monkeypatch):
    entry = Path(flags.cache_path) / cache_key(flags, open_sources(flags.data_path), tokenizer)
    made = made_aside(entry)
    waits, slept = threading.get_ident(), time.sleep

    def sleep(seconds: float) -> None:
        if threading.get_ident() == waits:
            shutil.rmtree(made.parent.parent, ignore_errors=True)
        else:  # a thread that another test has left
            slept(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(UserError, match="that tokenises has failed; its error stands above"):
        prepare(flags, tokenizer, writes=False)


def test_a_writer_without_a_heartbeat_is_not_waited_for(flags, tokenizer):
    entry = Path(flags.cache_path) / cache_key(flags, open_sources(flags.data_path), tokenizer)
    os.utime(made_aside(entry), (1, 1))  # left by a run that was killed long ago
    began = time.monotonic()
    with pytest.raises(UserError, match="gave no sign of life for 1 s"):
        prepare(flags, tokenizer, writes=False, timeout_s=1)
    assert time.monotonic() - began > 1


def test_a_failure_leaves_no_entry(flags, tokenizer):
    with pytest.raises(UserError, match="leaves no answer in any"):
        prepare(replace(flags, cutoff_len=8), tokenizer)
    assert entries(flags) == []


def test_hosts_with_other_records_are_refused(program, tiny_base, tmp_path):
    """Each of two processes is given its own file and cache, as if on its own host."""
    files = [numbered(tmp_path / f"{word}.jsonl", 20, word) for word in "甲乙"]
    command = ["-m", "vicuna.train.launch", "--standalone", "--nproc_per_node=2", "tests/train/threads_left.py"]
    command += [
        "tests/train/as_hosts.py",
        *map(str, files),
        "--model_path",
        str(tiny_base),
        "--bits",
        "32",
        "--output_path",
        str(tmp_path / "out"),
    ]
    command += ["--cache_path", str(tmp_path / "cache"), "--eval_steps", "0"]
    done = program(*command, warm=True)
    assert done.returncode == 1
    assert "rank 1 has another set of tokenised records than rank 0" in done.stderr
    assert "copy the same files and versions to every host" in done.stderr
    assert "threads left" not in done.stderr
    assert "Traceback" not in done.stderr
