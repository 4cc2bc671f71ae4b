"""Runs that compute what rows share once: the losses of runs that do not, on any number of processes; and resuming."""

import json
import shutil
from pathlib import Path

import pytest

from tests.train.runs import STEPS, TWO_EPOCHS, losses, train
from vicuna.train.checkpoint import seal_checkpoint


@pytest.fixture(scope="module")
def apart(program, tiny_base, records, tmp_path_factory) -> Path:
    """The run `straight` with every row computed whole."""
    output = tmp_path_factory.mktemp("apart") / "out"
    return train(program, tiny_base, records, output, *TWO_EPOCHS, "--save_steps", 3, "--share_prefix", False)


def run_args(folder: Path) -> dict:
    return json.loads((folder / "run_args.json").read_text(encoding="utf-8"))


def records_of(folder: Path) -> list[list[int]]:
    """The records of every step."""
    steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text(encoding="utf-8").splitlines()]
    return [step["records"] for step in steps if "records" in step]


def test_losses_are_those_of_rows_computed_whole(straight, apart):
    for key in ("loss", "eval_loss"):
        assert losses(straight, key) == pytest.approx(losses(apart, key), rel=1e-5)
    assert records_of(straight) == records_of(apart)


def test_what_is_counted_stands_in_run_args_and_the_plan_says_what_it_saves(straight, apart):
    assert run_args(apart)["exact"]["operations"] is None
    counts = run_args(straight)["exact"]["operations"]
    assert set(counts) == {"token", "pair", "call"}
    said = (straight / "session.log").read_text(encoding="utf-8")
    (line,) = [line for line in said.splitlines() if line.strip().startswith("sharing ")]
    facts = run_args(straight)["plan"]["sharing"]
    assert f"{facts['computed']:,} of {facts['tokens']:,} tokens" in line
    assert facts["computed"] < facts["tokens"]
    assert facts["micro_batches"] < 8 * 6  # of rows apart
    assert "sharing " not in (apart / "session.log").read_text(encoding="utf-8")


def test_two_processes_give_the_losses_of_one(program, tiny_base, records, straight, tmp_path):
    output = train(program, tiny_base, records, tmp_path / "two", *TWO_EPOCHS, "--save_steps", 0, processes=2)
    for key in ("loss", "eval_loss"):
        assert losses(output, key) == pytest.approx(losses(straight, key), rel=1e-4)


def test_a_run_goes_on_only_as_it_was_begun(program, tiny_base, records, straight, apart, tmp_path):
    """Also one from before there was the flag, which computed each row whole."""
    before = Path(shutil.copytree(apart / "checkpoint-3", tmp_path / "checkpoint-3"))
    known = run_args(before)
    del known["flags"]["share_prefix"], known["exact"]["operations"]
    (before / "run_args.json").write_text(json.dumps(known), encoding="utf-8")
    seal_checkpoint(before)
    argv = ["finetune.py", "--model_path", tiny_base, "--data_path", records, "--output_path", tmp_path / "out"]
    argv += [*STEPS, *TWO_EPOCHS, "--plan_only", "--resume_from_checkpoint"]
    done = program(*argv, before)
    assert done.returncode == 1
    assert "was begun with --share_prefix False, this run has True: a resumed run must keep it" in done.stderr
    done = program(*argv, before, "--share_prefix", False)
    assert "resumes " in done.stdout
    done = program(*argv, straight / "checkpoint-3", "--share_prefix", False)
    assert "was begun with --share_prefix True, this run has False" in done.stderr
