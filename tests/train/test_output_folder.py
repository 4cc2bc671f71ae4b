"""The output folder belongs to one run at a time, and keeps what an earlier one left until a new adapter stands."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.train.runs import ROOT, STEPS, train

LAUNCHER = ["-m", "vicuna.train.launch", "--standalone", "--nproc_per_node=2"]
SHORT = ["--total_batch", 11, "--micro_batch", 2, "--num_epoch", 1, "--test_size", 0, "--save_steps", 2]


def words(base: Path, data: Path, output: Path) -> list[str]:
    flags = ["--model_path", base, "--data_path", data, "--output_path", output, *STEPS, *SHORT]
    return ["finetune.py", *map(str, flags)]


def contents(folder: Path) -> dict[str, str]:
    """Hashes of all files but the log, which only grows."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name not in ("session.log", ".lock")]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def wait_for(there: Callable[[], bool], process: subprocess.Popen) -> None:
    while not there():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@contextmanager
def run_held_after_step_1(argv: list[str], output: Path) -> Iterator[int]:
    """The process that holds the folder, which stands still from the first step on; it ends well after the block."""
    steps = output / "steps.jsonl"
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen([sys.executable, *argv], cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environ) as process:
        wait_for(lambda: steps.is_file() and bool(steps.read_text(encoding="utf-8")), process)
        held_by = json.loads((output / ".lock").read_text(encoding="utf-8"))["pid"]
        os.kill(held_by, signal.SIGSTOP)
        try:
            yield held_by
        finally:
            os.kill(held_by, signal.SIGCONT)
        stderr = process.communicate()[1]
        assert process.returncode == 0, stderr[-2000:]


def test_a_second_run_is_refused_before_anything_is_removed(program, tiny_base, records, tmp_path):
    output = tmp_path / "out"
    argv = words(tiny_base, records, output)
    with run_held_after_step_1(argv, output) as pid:
        before = contents(output)
        for more in ([], ["--resume_from_checkpoint", "auto"], ["--seed", "7"]):
            second = program(*argv, *more)
            assert second.returncode == 1
            assert f"--output_path {output} is in use by process {pid}, which writes its" in second.stderr
            assert "Traceback" not in second.stderr
        planned = program(*argv, "--plan_only")
        assert planned.returncode == 0
        assert f"is in use by process {pid}: a run would be refused now" in planned.stderr
        assert contents(output) == before
    whole = train(program, tiny_base, records, tmp_path / "alone", *SHORT)
    for name in ("adapter_model.safetensors", "steps.jsonl"):
        assert (output / name).read_bytes() == (whole / name).read_bytes()
    assert not (output / ".lock").exists()


def test_many_processes_hold_the_folder_as_one(program, tiny_base, records, tmp_path):
    output = tmp_path / "out"
    argv = [*LAUNCHER, *words(tiny_base, records, output)]
    with run_held_after_step_1(argv, output) as pid:
        second = program(*argv)
        assert second.returncode == 1
        assert f"is in use by process {pid}" in second.stderr
        assert "Traceback" not in second.stderr
    resumed = program(*argv, "--resume_from_checkpoint", str(output / "checkpoint-2"))
    assert resumed.returncode == 0, resumed.stderr[-2000:]
