"""Running a launcher without the program that it launches."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scripts.launchers import PYTHON, ROOT, Call, Launched


@pytest.fixture
def launch(tmp_path) -> Callable[..., Launched]:
    """launch("finetune.sh", "--bits", "4", DATA_PATH="x"): run a launcher with a stand-in for python.

    `at` is where it is called, the checkout or another folder.
    """
    python, calls = tmp_path / "python", tmp_path / "calls"
    python.write_text(PYTHON, encoding="utf-8")
    python.chmod(0o755)

    def run(name: str, *argv: str, at: Path = ROOT, **variables: str) -> Launched:
        calls.write_text("", encoding="utf-8")
        env = {"PATH": os.environ["PATH"], "PYTHON": str(python), "CALLS": str(calls), "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            ["bash", str(ROOT / "scripts" / name), *argv],
            cwd=at, env=env | variables, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        lines = [line.split("\x1f") for line in calls.read_text(encoding="utf-8").splitlines()]
        return Launched(done.returncode, [Call(visible, argv) for visible, *argv in lines], done.stderr)

    return run
