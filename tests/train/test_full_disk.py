"""A disk that is full before, in the middle and at the end of a run: on a small tmpfs, where one can be mounted."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.starting import Started
from tests.train.runs import ROOT, train
from tests.train.stop_at import fill
from tests.train.test_output_folder import SHORT, words

MIB = 2**20
EVERY_STEP = ["--save_steps", 1]


@pytest.fixture(scope="module")
def whole(program, tiny_base, records, tmp_path_factory) -> Path:
    return train(program, tiny_base, records, tmp_path_factory.mktemp("whole") / "out", *SHORT, *EVERY_STEP)


def flags(base: Path, records: Path, output: Path) -> list[str]:
    return [*words(base, records, output)[1:], *map(str, EVERY_STEP)]


def adapter(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def test_the_plan_warns_of_a_disk_with_too_little_room(program, tiny_base, records, small_disk):
    argv = ["finetune.py", *flags(tiny_base, records, small_disk / "out"), "--plan_only"]
    roomy = program(*argv)
    assert "what is kept of this run takes" not in roomy.stdout
    assert " in all, 4.0 MiB free" in roomy.stdout
    fill(small_disk / "filler")
    (small_disk / "filler").write_bytes(bytes(4 * MIB - 100_000))
    full = program(*argv)
    assert full.returncode == 0, full.stderr
    assert f"but the disk of {small_disk}/out has 0.1 MiB free: make room, name a folder" in full.stdout


@pytest.mark.parametrize("place", ["fill", "fill:SIGINT"])
def test_a_checkpoint_without_room_names_the_one_that_stands(program, tiny_base, records, whole, small_disk, place):
    output = small_disk / "out"
    argv = flags(tiny_base, records, output)
    ended = program("tests/train/stop_at.py", place, 2, *argv)
    assert ended.returncode == 1
    assert f"the disk of {output} is full, at step 2 of 4. Make room. {output}/checkpoint-1 stands" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert [folder.name for folder in output.glob("checkpoint-*")] == ["checkpoint-1"]
    (output / "filler").unlink()
    command = shlex.split(ended.stderr.strip().splitlines()[-1])
    assert command[-2:] == ["--resume_from_checkpoint", f"{output}/checkpoint-1"]
    resumed = program("finetune.py", *argv, *command[-2:])
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert adapter(output) == adapter(whole)
    assert (output / "steps.jsonl").read_bytes() == (whole / "steps.jsonl").read_bytes()


def test_at_the_end_the_run_waits_for_room(tiny_base, records, whole, small_disk):
    output = small_disk / "out"
    command = [sys.executable, "tests/train/stop_at.py", "fill", "4", *flags(tiny_base, records, output)]
    with Started(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        said = ""
        while "trying again for 60 s" not in said:
            line = process.stderr.readline()
            assert line, said[-2000:]
            said += line
        (output / "filler").unlink()
        said += process.stderr.read()
    assert process.returncode == 0, said[-2000:]
    assert f"the disk of {output} is full, at step 4 of 4: its checkpoint is left out" in said
    assert adapter(output) == adapter(whole)


def test_without_room_the_adapter_goes_to_another_disk(program, tiny_base, records, whole, small_disk, tmp_path):
    output, elsewhere = small_disk / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    argv = flags(tiny_base, records, output)
    ended = program(
        "tests/train/stop_at.py", "fill", 4, *argv, env={"WAIT_S": "0", "TMPDIR": str(elsewhere)}, warm=True
    )
    assert ended.returncode == 1
    (folder,) = elsewhere.glob("out-*")
    assert f"the disk of {output} is full: the adapter is in {folder}. " in ended.stderr
    assert f"{output}/checkpoint-3 stands; go on with:" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert adapter(folder) == adapter(whole)
    assert (folder / "run_args.json").is_file()
