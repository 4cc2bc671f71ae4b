"""Runs so short that a warm-up from rate 0 is all they have."""

import json

import pytest

from tests.train.runs import train
from vicuna.errors import UserError
from vicuna.train.flags import RunFlags

ONE_STEP = ["--total_batch", 100, "--micro_batch", 4, "--num_epoch", 1, "--save_steps", 0]


@pytest.mark.parametrize("warmup", [["--warmup_steps", 100], ["--lr_scheduler", "constant_with_warmup"]])
def test_a_run_of_one_step_learns(program, tiny_base, records, tmp_path, warmup):
    output = train(program, tiny_base, records, tmp_path / "out", *ONE_STEP, "--test_size", 0, *warmup)
    (step,) = (output / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(step)["learning_rate"] > 0
    assert "0 warm-up steps in a run of one step" in (output / "session.log").read_text(encoding="utf-8")


def test_an_evaluation_after_a_step_of_rate_0_ends_no_run(program, tiny_base, records, tmp_path):
    """The adapter of that moment is the base itself, and may be the best."""
    more = ["--total_batch", 11, "--micro_batch", 4, "--num_epoch", 1, "--test_size", 5, "--eval_steps", 1]
    output = train(program, tiny_base, records, tmp_path / "out", *more, "--save_steps", 0)
    assert json.loads((output / "best/run_args.json").read_text(encoding="utf-8"))["step"] >= 1


def test_nothing_learnt_is_said_in_a_sentence(program, tiny_base, records, tmp_path):
    argv = ["--model_path", tiny_base, "--data_path", records, "--output_path", tmp_path / "out", "--bits", 32]
    argv += [*ONE_STEP, "--test_size", 0, "--learning_rate", "1e-37", "--optim", "sgd", "--max_grad_norm", "1e-30"]
    done = program("finetune.py", *argv)
    assert done.returncode == 1
    assert "nothing was learnt in 1 steps: every lora_B is still zero, and no adapter is written" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_rate_that_is_zero_in_float32_is_refused():
    with pytest.raises(UserError, match="--learning_rate 1e-40 is zero in float32: expected 1e-37 or more"):
        RunFlags(learning_rate=1e-40)
