"""tools/merge_lora.py that is ended in the middle, and then let be; at many more points by benchmarks/cut_off.py."""

import signal
from pathlib import Path

import pytest


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_merge_that_is_ended_leaves_nothing_behind(program, base, adapter, tmp_path, number):
    place, counts = tmp_path / "place", tmp_path / "counts"
    place.mkdir()
    argv = ["tools/merge_lora.py", "--model_path", base, "--lora_path", adapter, "--out_path", place / "merged"]
    ended = program("tests/killed_at.py", place, 20, int(number), counts, *argv)
    assert ended.returncode == (-9 if number == signal.SIGKILL else 143), ended.stderr[-2000:]
    assert len(counts.read_text(encoding="utf-8").splitlines()) >= 19
    assert len(names(place)) == (2 if number == signal.SIGKILL else 0)
    assert "merged" not in names(place)

    done = program(*argv)
    assert done.returncode == 0, done.stderr[-2000:]
    assert names(place) == ["merged"]
