"""Rows that other processes read and tokenise: the bytes of one process, few rows at a time, and no process left."""

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vicuna.data import cache, workers
from vicuna.data.bad_row import BadRow
from vicuna.data.cache import load_or_tokenise
from vicuna.data.flags import DataFlags
from vicuna.data.records import open_sources, read_records
from vicuna.data.workers import Workers, process_count
from vicuna.errors import UserError
from vicuna.prompt.tokenizer import TextTokenizer

WORDS = ["春眠不觉晓", "处处闻啼鸟", "🦙", "User: 1", "{{name}}", "</s>", "<b>x</b>", " a  b "]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """Records of several formats, every tenth of them malformed, and documents."""
    folder, draw = tmp_path_factory.mktemp("rows"), random.Random(0)

    def words(most: int) -> str:
        return "".join(draw.choices(WORDS, k=draw.randint(1, most)))

    rows = [{"instruction": words(4), "input": words(2), "output": words(200 if i % 9 else 900)} for i in range(70)]
    rows += [{"messages": [{"role": one, "content": words(9)} for one in ("user", "assistant")]} for _ in range(30)]
    lines = [json.dumps(row, ensure_ascii=False) for row in draw.sample(rows, len(rows))]
    lines[::10] = ['{"instruction": "a"}', "no JSON", '{"instruction": 1, "output": "x"}', "[]", '"a"'] * 2
    (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "b.json").write_text(json.dumps(rows[:33], indent=1), encoding="utf-8")
    (folder / "c.txt").write_text("\n\n".join(words(60) for _ in range(90)), encoding="utf-8")
    return [str(folder / name) for name in ("a.jsonl", "b.json", "c.txt")]


CASES = {
    "mixed": {"weights": ("", ":2.5"), "skip_bad_rows": True, "fill": ["name=小羊驼"]},
    "packed": {"weights": None, "prompt_type": "text", "pack": True},
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("name", CASES)
def test_several_processes_write_the_bytes_of_one(tiny_base, tmp_path, monkeypatch, files, name):
    case = dict(CASES[name])
    weights = case.pop("weights")
    paths = files[2:] if weights is None else [f"{file}{weight}" for file, weight in zip(files, weights, strict=False)]
    found, started = [], []
    start = workers._start

    def counted() -> subprocess.Popen:
        started.append(start())
        return started[-1]

    monkeypatch.setattr(workers, "_start", counted)
    monkeypatch.setattr(workers, "BATCH_ITEMS", 3)
    for count in (1, 2):
        monkeypatch.setattr(cache, "process_count", lambda *_, count=count: count)
        flags = DataFlags(data_path=paths, cache_path=str(tmp_path / str(count)), cutoff_len=96, **case)
        data = load_or_tokenise(flags, open_sources(paths), TextTokenizer(tiny_base), True)
        found.append((contents(tmp_path / str(count)), data.sha256, data.records, data.train.rows[:]))
        assert len(started) == (0 if count == 1 else count)
    assert found[0] == found[1]
    assert len(found[0][0]) == 3  # rows, held-out rows and the manifest
    assert all(process.returncode is not None for process in started)


def test_malformed_rows_are_told_with_the_lines_that_one_process_names(tmp_path, files):
    said = []
    for count in (1, 2):
        with Workers(count) as several, pytest.raises(UserError) as raised:
            read_records(files[0], "instruct", workers=several)
        said.append(str(raised.value))
    assert said[0] == said[1]
    assert said[0].startswith(f"8 of 98 rows of {files[0]} can not be used:")
    assert f"{files[0]} line 11: " in said[0]


def test_what_another_process_gets_is_what_was_sent(thinker):
    for message in ("short", "long " * 500):
        row = BadRow(message, "why")
        again = pickle.loads(pickle.dumps(row))
        assert (type(again), str(again), again.reason) == (BadRow, str(row), "why")
    tokenizer = TextTokenizer(thinker).with_settings(thinking="drop")
    again = pickle.loads(pickle.dumps(tokenizer))
    messages = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "<think>\n2\n</think>\n\n3"}]
    assert again.chat.turn(messages) == tokenizer.chat.turn(messages)
    assert (again.chat.day, again.chat.settings.thinking) == (tokenizer.chat.day, "drop")
    assert again.encode("春天 a") == tokenizer.encode("春天 a")


class Counted:
    """Numbers, and how many of them were taken."""

    def __init__(self, count: int):
        self.taken, self.count = 0, count

    def __iter__(self) -> Iterator[int]:
        for number in range(self.count):
            self.taken += 1
            yield number


@pytest.mark.parametrize("count", [1, 2])
def test_few_items_are_held_at_a_time(monkeypatch, count):
    monkeypatch.setattr(workers, "BATCH_ITEMS", 5)
    items, most, given = Counted(1000), 0, 0
    with Workers(count) as several:
        for given, found in enumerate(several.each(str, items), 1):
            most = max(most, items.taken - given)
            assert found == str(given - 1)
        assert list(several.each(abs, [-1, -2])) == [1, 2]  # they can be given other work
    assert given == 1000
    # What each works on, what waits for it, and the batch of which the results come.
    assert most <= (0 if count == 1 else 5 * (workers.BATCHES_A_PROCESS * count + 1))


def test_items_of_many_bytes_go_in_smaller_batches(monkeypatch):
    monkeypatch.setattr(workers, "BATCH_BYTES", 1000)
    assert [len(one) // 500 for one in workers._batches(["x" * 500] * 5)] == [2, 2, 1]


def test_what_fails_in_a_process_fails_here():
    with Workers(2) as several:
        with pytest.raises(UserError, match="--fill name twice"):
            list(several.each(cache_error, ["--fill name twice"]))
        with pytest.raises(RuntimeError, match="invalid literal for int"):
            list(several.each(int, ["1", "x"]))


def cache_error(text: str) -> None:
    raise UserError(text)


def test_a_process_that_ends_is_told():
    with Workers(2) as several, pytest.raises(UserError, match="has ended, with status 3: was there enough memory"):
        list(several.each(os._exit, [3]))


LONG = """
import os, sys, time
from vicuna.data.workers import Workers
from vicuna.errors import run
def items():
    yield 0.0
    print(*(process.pid for process in several._processes), flush=True)
    while True:
        yield 0.001
def main():
    global several
    with Workers(2) as several:
        for _ in several.each(time.sleep, items()):
            pass
run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_one_that_began_them(number):
    begun = subprocess.Popen(
        [sys.executable, "-c", LONG], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )
    pids = [int(one) for one in begun.stdout.readline().split()]
    assert len(pids) == 2
    os.killpg(begun.pid, number)
    _, said = begun.communicate()
    assert said == ("-c: stopped by Ctrl-C\n" if number == signal.SIGINT else "")
    while any(map(works, pids)):
        time.sleep(0.05)


def works(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_only_large_files_are_worth_processes(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    assert process_count(2 * workers.BYTES_A_PROCESS - 1, 0) == 1
    assert process_count(3 * workers.BYTES_A_PROCESS, 0) == 3
    assert process_count(1 << 40, 500_000) == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    for tokenizer_bytes in (500_000, 10 << 20, 100 << 20):
        count = process_count(1 << 40, tokenizer_bytes)
        assert 1 <= count < 64
        assert count * (workers.MEMORY + workers.MEMORY_A_BYTE * tokenizer_bytes) <= workers.MOST_MEMORY or count == 1
