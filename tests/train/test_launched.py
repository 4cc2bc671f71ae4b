"""Processes of a run that end when their launcher is gone."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
RANK = """
import os, sys
from vicuna.errors import ended_by_signals, run
from vicuna.train.launched import end_with_launcher

def program():
    with ended_by_signals():
        end_with_launcher(os.environ)
        print(os.getppid(), flush=True)
        sys.stdin.read()

run(program)
"""
LAUNCHER = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]]).wait()"


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells it on Linux alone")
@pytest.mark.parametrize(("environ", "said"), [({"LOCAL_RANK": "0", "RANK": "0"}, "stopped by SIGTERM"), ({}, "")])
def test_a_rank_ends_as_by_sigterm_when_its_launcher_is_killed_and_other_processes_go_on(environ, said):
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", LAUNCHER, RANK], text=True, env=env, **pipes) as launcher:
        assert int(launcher.stdout.readline()) == launcher.pid
        os.kill(launcher.pid, signal.SIGKILL)
        if not said:
            launcher.stdin.close()  # which nothing else than this ends
        assert launcher.stderr.read().strip() == (f"-c: {said}" if said else "")  # to the end of the rank
