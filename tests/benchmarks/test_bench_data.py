"""benchmarks/bench_data.py: the records that it makes, and what it measures of processes that begin others."""

import json
import subprocess
import sys

import pytest
from bench_data import DataFlags, anonymous_bytes, measure, tree, write_rows

from vicuna.data.records import read_records
from vicuna.errors import UserError

WAITS = "taken = b'x' * (60 << 20); print('there', flush=True); input()"
BEGINS = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WAITS!r}])"


def test_the_records_are_those_of_the_seed(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_rows(tmp_path / f"{name}.jsonl", 70, seed)
    first, again, other = ((tmp_path / f"{name}.jsonl").read_bytes() for name in "abc")
    assert first == again != other
    records = read_records(tmp_path / "a.jsonl", "instruct")
    assert len(records.dialogues) == 70
    assert sum("input" in messages[0] for messages in records.dialogues) == 20
    longest = max(len(json.loads(line)["output"]) for line in first.decode().splitlines())
    assert longest > 300


def test_memory_is_that_of_a_process_and_all_that_it_began():
    begun = subprocess.Popen([sys.executable, "-c", BEGINS], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert begun.stdout.readline() == b"there\n"
        assert anonymous_bytes(begun.pid) < 60 << 20 < sum(map(anonymous_bytes, tree(begun.pid)))
    finally:
        begun.communicate(b"\n")


def test_a_side_that_fails_ends_the_benchmark(tmp_path):
    assert measure([sys.executable, "-c", "pass"], {}, tmp_path, tmp_path / "log.txt").seconds > 0
    with pytest.raises(UserError, match="ended with status 3"):
        measure([sys.executable, "-c", "raise SystemExit(3)"], {}, tmp_path, tmp_path / "log.txt")


@pytest.mark.parametrize(
    ("flags", "said"),
    [({"only": ["axolotl"]}, "--only axolotl"), ({"rows": 0}, "--rows 0"), ({"rounds": 0}, "--rounds")],
)
def test_what_can_not_be_meant_is_refused(flags, said):
    with pytest.raises(UserError, match=said):
        DataFlags(**flags)
