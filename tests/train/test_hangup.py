"""A terminal that is closed stops a run as SIGTERM does, unless it was started with nohup."""

import os
import pty
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.starting import IN_TERMINAL, Started
from tests.train.runs import ROOT
from tests.train.test_output_folder import LAUNCHER, run_held_after_step_1, wait_for, words

ENDLESS = ["--num_epoch", "10000", "--save_steps", "0"]


@contextmanager
def nohup() -> Iterator[None]:
    """What is started in the block ignores SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def told(output: Path) -> str:
    return (output / "session.log").read_text(encoding="utf-8")


@pytest.mark.parametrize("buffered", [True, False])
def test_a_closed_terminal_saves_and_says_so_where_it_can_be_read(tiny_base, records, tmp_path, buffered):
    """The status is the signal's also where something printed can not be written any more."""
    output = tmp_path / "out"
    master, terminal = pty.openpty()
    with Started(
        [sys.executable, "-c", IN_TERMINAL, *words(tiny_base, records, output), *ENDLESS],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "" if buffered else "1"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    ) as process:
        os.close(terminal)
        steps = output / "steps.jsonl"
        wait_for(lambda: steps.is_file() and bool(steps.read_text(encoding="utf-8")), process)
        os.close(master)
        assert process.wait() == 128 + signal.SIGHUP
    assert "stopped by SIGHUP after step" in told(output)
    assert f"--resume_from_checkpoint {output}/checkpoint-" in told(output)
    (checkpoint,) = output.glob("checkpoint-*")
    assert (checkpoint / "manifest.json").is_file()


def test_sighup_stops_a_run_and_nohup_keeps_it_going(program, tiny_base, records, tmp_path):
    flags = words(tiny_base, records, tmp_path / "out")[1:]
    stopped = program("tests/train/stop_at.py", "step_end:SIGHUP", 2, *flags)
    assert stopped.returncode == 129, stopped.stderr[-2000:]
    assert "stopped by SIGHUP after step 2 of 4; go on with:" in stopped.stderr

    flags[flags.index("--output_path") + 1] = str(tmp_path / "nohup")
    with nohup():
        done = program("tests/train/stop_at.py", "step_end:SIGHUP", 2, *flags)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "SIGHUP" not in done.stderr


def test_the_launcher_stops_on_sighup(program, tiny_base, records, tmp_path):
    output = tmp_path / "out"
    argv = [*LAUNCHER, *words(tiny_base, records, output), *ENDLESS]
    with run_held_after_step_1([sys.executable, *argv], output, status=129) as (process, _):
        process.send_signal(signal.SIGHUP)
    assert "stopped by SIGHUP after step" in told(output)
    assert list(output.glob("checkpoint-*/manifest.json"))


def test_nohup_holds_for_many_processes(tiny_base, records, tmp_path):
    output = tmp_path / "out"
    command = [sys.executable, *LAUNCHER, *words(tiny_base, records, output)]
    with nohup(), run_held_after_step_1(command, output) as (process, _):
        process.send_signal(signal.SIGHUP)
    assert (output / "adapter_model.safetensors").is_file()
    assert "SIGHUP" not in told(output)
