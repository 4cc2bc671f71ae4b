"""A run ends when its evaluation loss no longer falls, in the same place however often it was stopped."""

import pytest

from tests.train.runs import train
from vicuna.errors import UserError
from vicuna.train.early_stopping import is_over
from vicuna.train.flags import RunFlags

# At this rate an update is lost in the sums: every evaluation has the loss of the base, none is better than the first.
STILL = ["--learning_rate", "1e-30", "--warmup_steps", 0, "--early_stopping", 2]
EIGHT_STEPS = ["--total_batch", 11, "--micro_batch", 4, "--num_epoch", 2, "--test_size", 5, "--eval_steps", 1]


@pytest.mark.parametrize(
    ("losses", "patience", "over"),
    [
        ([3.0, 2.0, 1.0], 1, False),
        ([3.0, 2.0, 2.0], 1, True),  # as good is not better
        ([3.0, 2.0, 2.5], 2, False),
        ([3.0, 2.0, 2.5, 2.1], 2, True),
        ([3.0, 3.0, 3.0], 0, False),
        ([], 1, False),
    ],
)
def test_when_a_run_is_over(losses, patience, over):
    history = [{"loss": 1.0}, *({"eval_loss": loss} for loss in losses)]
    assert is_over(history, patience) == over


def outcome(folder) -> tuple[bytes, bytes]:
    return (folder / "adapter_model.safetensors").read_bytes(), (folder / "steps.jsonl").read_bytes()


def test_a_run_that_no_longer_improves_ends_and_is_resumed_to_the_same_end(program, tiny_base, records, tmp_path):
    straight = train(program, tiny_base, records, tmp_path / "straight", *EIGHT_STEPS, "--save_steps", 0, *STILL)
    said = (straight / "session.log").read_text(encoding="utf-8")
    assert "step 3/8  2 evaluations without a better loss than" in said
    assert "of step 1: the run ends here" in said
    assert [folder.name for folder in straight.glob("checkpoint-*")] == ["checkpoint-3"]

    flags = ["--model_path", tiny_base, "--data_path", records, "--log_steps", 1, "--lora_dropout", 0, "--bits", 32]
    for step in (2, 3):  # at 3 the evaluation that ends it is left out, and made up for
        output = tmp_path / f"stopped-{step}"
        argv = [*flags, *EIGHT_STEPS, "--save_steps", 0, *STILL, "--output_path", output]
        stopped = program("tests/train/stop_at.py", "step_end", step, *argv)
        assert stopped.returncode == 143, stopped.stderr[-2000:]
        resumed = program("finetune.py", *argv, "--resume_from_checkpoint", "auto")
        assert resumed.returncode == 0, resumed.stderr[-2000:]
        assert outcome(output) == outcome(straight)

    argv = [*flags, *EIGHT_STEPS, "--save_steps", 0, *STILL, "--output_path", tmp_path / "again"]
    over = program("finetune.py", *argv, "--resume_from_checkpoint", straight / "checkpoint-3")
    assert over.returncode == 0, over.stderr[-2000:]
    assert outcome(tmp_path / "again") == outcome(straight)
    other = program("finetune.py", *argv, "--eval_steps", 2, "--resume_from_checkpoint", straight / "checkpoint-3")
    assert "was begun with --eval_steps 1, this run has 2" in other.stderr


def test_early_stopping_without_evaluations_is_refused(program, tiny_base, records):
    with pytest.raises(UserError, match="--early_stopping looks at evaluations, and --eval_steps 0 makes none"):
        RunFlags(early_stopping=1, eval_steps=0)
    argv = ["--model_path", tiny_base, "--data_path", records, "--test_size", 0, "--early_stopping", 1]
    refused = program("finetune.py", *argv, "--plan_only")
    assert refused.returncode == 1
    assert "--early_stopping needs records to evaluate on: raise --test_size above 0" in refused.stderr
