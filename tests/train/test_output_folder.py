"""The output folder belongs to one run at a time, and keeps what an earlier one left until a new adapter stands."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.starting import Started
from tests.train.runs import ROOT, STEPS, train
from vicuna.errors import UserError
from vicuna.train.checkpoint import torn_reason
from vicuna.train.earlier_runs import check_output
from vicuna.train.work_folder import work_folder

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
def run_held_after_step_1(command: list[str], output: Path, status: int = 0) -> Iterator[tuple[subprocess.Popen, int]]:
    """A run, and its process that holds the folder, which stands still from the first step on; after the block it goes
    on, and ends with `status`."""
    steps = output / "steps.jsonl"
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    with Started(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environ) as process:
        wait_for(lambda: steps.is_file() and bool(steps.read_text(encoding="utf-8")), process)
        held_by = json.loads((output / ".lock").read_text(encoding="utf-8"))["pid"]
        os.kill(held_by, signal.SIGSTOP)
        try:
            yield process, held_by
        finally:
            os.kill(held_by, signal.SIGCONT)
        stderr = process.communicate()[1]
        assert process.returncode == status, stderr[-2000:]


def test_a_second_run_is_refused_before_anything_is_removed(program, tiny_base, records, tmp_path):
    output = tmp_path / "out"
    argv = words(tiny_base, records, output)
    with run_held_after_step_1([sys.executable, *argv], output) as (_, pid):
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
    with run_held_after_step_1([sys.executable, *argv], output) as (_, pid):
        second = program(*argv, warm=True)
        assert second.returncode == 1
        assert f"is in use by process {pid}" in second.stderr
        assert "Traceback" not in second.stderr
    resumed = program(*argv, "--resume_from_checkpoint", str(output / "checkpoint-2"), warm=True)
    assert resumed.returncode == 0, resumed.stderr[-2000:]


DIVERGES = ["--learning_rate", "1e30", "--warmup_steps", 0, "--eval_steps", 1, "--test_size", 5, "--save_steps", 1]


def test_a_run_that_fails_leaves_the_finished_adapter_as_it_was(program, tiny_base, records, straight, tmp_path):
    """Its label, its steps, its best and its checkpoints, also those of the same step."""
    output = tmp_path / "out"
    shutil.copytree(straight, output)
    before = contents(output)
    other = ["--prompt_type", "chat", "--seed", 7, *map(str, DIVERGES), "--overwrite"]

    failed = program(*words(tiny_base, records, output), *other)

    assert failed.returncode == 1
    assert "diverged" in failed.stderr
    after = contents(output)
    assert {name: after.get(name) for name in before} == before
    assert all(name.startswith("unfinished-1/") for name in set(after) - set(before))
    assert f"{output} holds a result of an earlier one, which stays as it is until this one ends" in failed.stderr


def test_a_new_adapter_replaces_the_old_one_with_all_that_is_said_of_it(
    program, tiny_base, records, straight, tmp_path
):
    """Stopped and resumed beside the old one, the new one is what it is in a folder of its own."""
    output, alone = tmp_path / "out", tmp_path / "alone"
    shutil.copytree(straight, output)
    before = contents(output)
    more = [*SHORT, "--seed", 7, "--test_size", 5, "--eval_steps", 2]
    train(program, tiny_base, records, alone, *more)
    flags = [*words(tiny_base, records, output)[1:], *map(str, more)]

    refused = program("finetune.py", *flags)
    assert refused.returncode == 1
    assert f"--output_path {output} holds a finished adapter or model. Name another folder; pass" in refused.stderr
    assert contents(output) == before

    stopped = program("tests/train/stop_at.py", "step_end", 3, *flags, "--overwrite")
    assert stopped.returncode == 143, stopped.stderr[-2000:]
    after = contents(output)
    assert {name: after.get(name) for name in before} == before
    assert stopped.stderr.rstrip().endswith(f"--resume_from_checkpoint {output}/unfinished-1/checkpoint-3")
    train(program, tiny_base, records, output, *more, "--resume_from_checkpoint", "auto")

    assert not list(output.glob("unfinished-*"))
    for name in ("adapter_model.safetensors", "steps.jsonl", "best/adapter_model.safetensors"):
        assert (output / name).read_bytes() == (alone / name).read_bytes()
    assert json.loads((output / "run_args.json").read_text(encoding="utf-8"))["flags"]["seed"] == 7
    for checkpoint in output.glob("checkpoint-*"):
        assert not torn_reason(checkpoint)


def test_where_a_run_works(tmp_path):
    checkpoint = tmp_path / "checkpoint-4"
    assert work_folder(tmp_path) == tmp_path
    checkpoint.mkdir()
    assert work_folder(tmp_path, checkpoint) == tmp_path
    assert work_folder(tmp_path) == tmp_path / "unfinished-1"
    (tmp_path / "adapter_model.safetensors").touch()
    assert work_folder(tmp_path, checkpoint) == tmp_path / "unfinished-1"
    aside = tmp_path / "unfinished-1" / "checkpoint-2"
    aside.mkdir(parents=True)
    assert work_folder(tmp_path) == tmp_path / "unfinished-2"
    assert work_folder(tmp_path, aside) == tmp_path / "unfinished-1"


def test_what_a_run_writes_over_and_what_not(tmp_path):
    base, output, other = (tmp_path / name for name in ("base", "out", "other"))
    for folder in (base, output / "checkpoint-2", output / "unfinished-1" / "checkpoint-2", other / "checkpoint-2"):
        folder.mkdir(parents=True)
    (base / "pytorch_model.bin").touch()
    check_output(output, base, None, overwrite=False)
    check_output(tmp_path / "new", base, None, overwrite=False)
    (tmp_path / "link").symlink_to(output)
    check_output(tmp_path / "link", base, None, overwrite=False)
    for name in (base, tmp_path / "base-link"):
        if not name.exists():
            name.symlink_to(base)
        with pytest.raises(UserError, match="is the base itself, which is not written to"):
            check_output(name, base, None, overwrite=True)

    (output / "adapter_model.safetensors").touch()
    own = [output / "checkpoint-2", output / "unfinished-1" / "checkpoint-2", tmp_path / "link" / "checkpoint-2"]
    for resume in own:
        check_output(output, base, resume, overwrite=False)
    check_output(output, base, None, overwrite=True)
    for resume in (None, other / "checkpoint-2"):
        with pytest.raises(
            UserError, match=r"holds a finished adapter or model\. Name another folder; pass --overwrite"
        ):
            check_output(output, base, resume, overwrite=False)


@pytest.mark.parametrize("name", ["session.log", "best", "unfinished-3"])
def test_nothing_is_written_through_a_link_in_the_output_folder(tmp_path, name):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"out/{name} is a link, and nothing is written through one"):
        check_output(tmp_path / "out", tmp_path, None, overwrite=False)


UNMAKEABLE = {
    "below a file": lambda folder: folder / "file" / "out",
    "link to nowhere": lambda folder: folder / "link",
    "name too long": lambda folder: folder / ("长" * 100),
    "not a disk": lambda folder: Path("/proc/out"),
}


@pytest.mark.parametrize("more", [[], ["--plan_only"]], ids=["run", "plan"])
@pytest.mark.parametrize("place", UNMAKEABLE.values(), ids=list(UNMAKEABLE))
def test_a_folder_that_can_not_be_made_is_refused_also_by_the_plan(program, tmp_path, place, more):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere/at/all")
    done = program("finetune.py", "--data_path", "nosuch", "--output_path", place(tmp_path), *more)
    assert done.returncode == 1
    assert f"--output_path {place(tmp_path)} is no folder that can be written to: " in done.stderr
    assert "Traceback" not in done.stderr
    assert len(list(tmp_path.iterdir())) == 2


def test_a_plan_leaves_no_folder(program, tiny_base, records, tmp_path):
    done = program(*words(tiny_base, records, tmp_path / "new" / "out"), "--plan_only")
    assert done.returncode == 0
    assert not list(tmp_path.iterdir())
