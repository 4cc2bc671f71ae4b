"""SIGTERM and Ctrl-C: the run is saved where it is, ends with its command, and goes on bit by bit."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.starting import Started
from vicuna.errors import Stopped
from vicuna.train.signals import GracefulStopCallback, resume_command

ROOT = Path(__file__).resolve().parent.parent.parent
TORCHRUN = ["-m", "vicuna.train.launch", "--standalone", "--nproc_per_node=2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("data") / "records.jsonl"
    lines = (ROOT / "sample/instruct/data_sample.jsonl").read_text(encoding="utf-8").splitlines()[:28]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def flags(base: Path, data: Path, output: Path) -> list[str]:
    """Two epochs of 5 steps, dropout on, evaluation after step 4, 8 and 10; no checkpoints but those of a stop."""
    words = ["--bits", 32, "--total_batch", 5, "--micro_batch", 1, "--num_epoch", 2, "--save_steps", 0]
    words += ["--test_size", 5, "--eval_steps", 4, "--warmup_steps", 2, "--learning_rate", 1e-2, "--log_steps", 4]
    words += ["--model_path", base, "--data_path", data, "--output_path", output]
    return [str(word) for word in words]


def outcome(output: Path) -> tuple[bytes, list[dict]]:
    lines = (output / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    return (output / "adapter_model.safetensors").read_bytes(), [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def straight(program, tiny_base, data, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("straight") / "out"
    done = program("finetune.py", *flags(tiny_base, data, output))
    assert done.returncode == 0, done.stderr[-2000:]
    return output


def log_lines(stderr: str) -> list[str]:
    """The mean losses shown, without speed and time."""
    return [line.split("  learning rate")[0] for line in stderr.splitlines() if line.startswith("step ")]


@pytest.mark.parametrize(
    ("place", "step", "saved"),
    [
        ("substep", 6, 5),  # the first step of the second epoch, in the middle of a log window
        ("step_end", 4, 4),  # the evaluation that is due is left out, and made up for
        ("evaluation", 8, 8),
        ("step_end", 10, 10),  # the last step: evaluation and adapter are still to come
    ],
)
def test_a_run_that_was_stopped_goes_on_bit_by_bit(program, tiny_base, data, straight, tmp_path, place, step, saved):
    output = tmp_path / "out"
    words = flags(tiny_base, data, output)
    stopped = program("tests/train/stop_at.py", place, step, *words)
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr[-2000:]
    assert f"stopped by SIGTERM after step {saved} of 10; go on with:" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    checkpoint = output / f"checkpoint-{saved}"
    command = shlex.split(stopped.stderr.strip().splitlines()[-1])
    assert command[-2:] == ["--resume_from_checkpoint", str(checkpoint)]
    resumed = program("finetune.py", *words, *command[-2:])
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert outcome(output) == outcome(straight)
    shown = (straight / "session.log").read_text(encoding="utf-8").splitlines()
    expected = log_lines("\n".join(line.partition("INFO ")[2] for line in shown))
    assert log_lines(stopped.stderr + resumed.stderr) == expected  # the window that was open when it stopped, too


def test_a_signal_in_the_first_step_leaves_nothing_and_says_so(program, tiny_base, data, tmp_path):
    stopped = program("tests/train/stop_at.py", "substep", 1, *flags(tiny_base, data, tmp_path / "out"))
    assert stopped.returncode == 143
    assert "after step 0 of 10, before there was anything to save" in stopped.stderr
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_a_signal_inside_a_save_does_not_save_twice(program, tiny_base, data, straight, tmp_path):
    output = tmp_path / "out"
    words = [*flags(tiny_base, data, output), "--save_steps", "3"]
    stopped = program("tests/train/stop_at.py", "save", 3, *words)
    assert "after step 3 of 10" in stopped.stderr
    assert stopped.returncode == 143
    resumed = program("finetune.py", *words, "--resume_from_checkpoint", "auto")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert outcome(output) == outcome(straight)


def test_two_processes_in_a_step_longer_than_torchruns_patience(program, tiny_base, data, tmp_path):
    """torchrun repeats the signal to its processes and kills them 30 s later; the second step takes 40 s."""
    whole, output = tmp_path / "whole", tmp_path / "out"
    more = ["--total_batch", "20", "--micro_batch", "1", "--num_epoch", "3", "--test_size", "0"]
    done = program(*TORCHRUN, "finetune.py", *flags(tiny_base, data, whole), *more, warm=True)
    assert done.returncode == 0, done.stderr[-2000:]

    command = [*TORCHRUN, "tests/train/stop_at.py", "slow", "2", *flags(tiny_base, data, output), *more]
    with Started(
        [sys.executable, *command], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        steps = output / "steps.jsonl"
        while not (steps.is_file() and steps.read_text(encoding="utf-8")):
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(1.5)  # into the second step
        os.kill(process.pid, signal.SIGTERM)
        stderr = process.communicate(timeout=300)[1]
    assert len(steps.read_text(encoding="utf-8").splitlines()) == 1  # the second step was not waited for
    assert process.returncode == 128 + signal.SIGTERM
    assert stderr.count("stopped by SIGTERM after step 1 of 6; go on with:") == 1
    assert "Traceback" not in stderr
    assert (output / "checkpoint-1/manifest.json").is_file()
    more += ["--resume_from_checkpoint", "auto"]
    done = program(*TORCHRUN, "finetune.py", *flags(tiny_base, data, output), *more, warm=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert outcome(output) == outcome(whole)


def test_the_rank_that_failed_is_named_first_and_all_end(program, tiny_base, data, tmp_path):
    done = program(
        *TORCHRUN, "tests/train/stop_at.py", "fail", "2", *flags(tiny_base, data, tmp_path / "out"), warm=True
    )
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    assert said[0] == "rank 1: stop_at.py: error: planted"
    assert "Traceback" not in done.stderr


def test_the_command_is_the_users_own():
    argv = ["finetune.py", "--resume_from_checkpoint", "old", "--ignore_data_skip", "--data_path", "my data.jsonl"]
    assert resume_command(argv, {}, Path("out/checkpoint-7")) == (
        "python finetune.py --data_path 'my data.jsonl' --resume_from_checkpoint out/checkpoint-7"
    )
    many = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "1"}
    assert resume_command(["finetune.py", "--ignore_data_skip=1"], many, Path("c")) == (
        "torchrun --standalone --nproc_per_node=4 finetune.py --resume_from_checkpoint c"
    )


def test_ctrl_c_ends_with_its_own_status_and_twice_ends_at_once(tmp_path, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    stopper = GracefulStopCallback(tmp_path, saved=5, resume=tmp_path / "checkpoint-5")
    with stopper.catch_signals():
        os.kill(os.getpid(), signal.SIGINT)
        assert stopper.stop_requested("cpu")
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(Stopped, match="stopped by SIGINT after step 5 of 9") as stopped:
        stopper.raise_if_stopped(5, 9)
    assert stopped.value.status == 130


def test_a_signal_that_comes_while_ranks_agree_is_told_the_next_time(tmp_path, monkeypatch):
    """The ranks' answer, made before it, says that there was none."""
    stopper = GracefulStopCallback(tmp_path)
    agree = torch.distributed.all_reduce

    def meanwhile(*args) -> None:
        agree(*args)
        os.kill(os.getpid(), signal.SIGTERM)

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        with stopper.catch_signals():
            assert not stopper.stop_requested(torch.device("cpu"))
            monkeypatch.setattr(torch.distributed, "all_reduce", meanwhile)
            assert not stopper.stop_requested(torch.device("cpu"))
            monkeypatch.undo()
            assert stopper.stop_requested(torch.device("cpu"))
    finally:
        torch.distributed.destroy_process_group()
    with pytest.raises(Stopped, match="stopped by SIGTERM after step 3 of 9"):
        stopper.raise_if_stopped(3, 9)
