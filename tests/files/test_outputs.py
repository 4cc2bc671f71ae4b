"""Folders that are written aside: complete under their name, or not there at all."""

import signal
from pathlib import Path

import pytest

from vicuna.errors import Stopped
from vicuna.files.outputs import atomic_folder


def interrupted(output: Path) -> None:
    """Begin an output, and be told to end."""
    with atomic_folder(str(output), "--output_dir") as folder:
        (folder / "half").write_text("half", encoding="utf-8")
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL  # or the tests would end here
        signal.raise_signal(signal.SIGTERM)


def test_sigterm_in_the_middle_leaves_nothing(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="stopped by SIGTERM"):
        interrupted(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before
