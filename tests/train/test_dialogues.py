"""Runs on dialogues of which each answer is a row: these stand together, on any number of processes; and resuming."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.own_bases import write_base
from tests.train.runs import losses, train
from tests.train.test_batches import torn
from vicuna.data.examples import tokenise
from vicuna.data.records import read_records
from vicuna.prompt.templates import BASE
from vicuna.prompt.tokenizer import TextTokenizer
from vicuna.train.batches import StepBatchSampler
from vicuna.train.checkpoint import seal_checkpoint
from vicuna.train.flags import RunFlags
from vicuna.train.resume import DIALOGUES

TURNS = (4, 1, 3, 2, 5, 2, 3, 1, 4, 2)  # answers of each dialogue
# Two epochs of four steps, a checkpoint within the second.
EPOCHS = ["--train_turns", "all", "--total_batch", 7, "--micro_batch", 2, "--num_epoch", 2, "--test_size", 2]
EPOCHS += ["--eval_steps", 5, "--save_steps", 5]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """Whose template writes the thinking of the last answer alone."""
    return write_base(tmp_path_factory.mktemp("own") / "thinking", "thinking")


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("data") / "dialogues.jsonl"
    rows = [
        [
            message
            for turn in range(count)
            for message in (
                {"role": "user", "content": f"{number} + {turn} ="},
                {"role": "assistant", "content": f"{number + turn}", "reasoning_content": f"{turn} 加 {number}"},
            )
        ]
        for number, count in enumerate(TURNS)
    ]
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def together(program, base, dialogues, tmp_path_factory) -> Path:
    return train(program, base, dialogues, tmp_path_factory.mktemp("together") / "out", *EPOCHS)


def records_of(folder: Path) -> list[list[int]]:
    """The records of every step."""
    steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text(encoding="utf-8").splitlines()]
    return [step["records"] for step in steps if "records" in step]


def test_a_dialogue_is_met_in_one_step_of_an_epoch(together):
    said = json.loads((together / "run_args.json").read_text(encoding="utf-8"))["plan"]
    log = (together / "session.log").read_text(encoding="utf-8")
    assert f"every answer ({said[DIALOGUES]} dialogues in several rows)" in log
    assert said["sharing"]["computed"] < 0.75 * said["sharing"]["tokens"]
    for epoch in range(2):
        steps = records_of(together)[epoch * said["steps_per_epoch"] :][: said["steps_per_epoch"]]
        met = Counter(record for step in steps for record in {*step})
        assert len(met) == len(TURNS) - 2
        assert sum(met.values()) - len(met) < len(steps)


def test_losses_are_those_of_rows_computed_whole(program, base, dialogues, together, tmp_path):
    apart = train(program, base, dialogues, tmp_path / "out", *EPOCHS, "--share_prefix", False)
    for key in ("loss", "eval_loss"):
        assert losses(together, key) == pytest.approx(losses(apart, key), rel=1e-5)
    assert list(map(set, records_of(together))) == list(map(set, records_of(apart)))


def test_two_processes_give_the_losses_of_one(program, base, dialogues, together, tmp_path):
    short = ["--max_steps", 3, "--save_steps", 0]  # of which the rates are those of the whole run
    output = train(program, base, dialogues, tmp_path / "two", *EPOCHS, *short, processes=2)
    assert losses(output) == pytest.approx(losses(together)[:3], rel=1e-4)
    assert list(map(set, records_of(output))) == list(map(set, records_of(together)))[:3]


def test_a_run_resumed_within_an_epoch_ends_as_if_it_had_never_stopped(program, base, dialogues, together, tmp_path):
    resumed = ["--resume_from_checkpoint", together / "checkpoint-5"]
    output = train(program, base, dialogues, tmp_path / "out", *EPOCHS, *resumed)
    for name in ("adapter_model.safetensors", "steps.jsonl"):
        assert (output / name).read_bytes() == (together / name).read_bytes()


def test_a_run_that_drew_the_answers_apart_goes_on_only_with_its_data_anew(
    program, base, dialogues, together, tmp_path
):
    before = Path(shutil.copytree(together / "checkpoint-5", tmp_path / "checkpoint-5"))
    known = json.loads((before / "run_args.json").read_text(encoding="utf-8"))
    del known["plan"][DIALOGUES]  # as the version wrote it that drew them so
    (before / "run_args.json").write_text(json.dumps(known), encoding="utf-8")
    seal_checkpoint(before)
    argv = ["finetune.py", "--model_path", base, "--data_path", dialogues, "--output_path", tmp_path / "out"]
    argv += ["--log_steps", 1, "--lora_dropout", 0, "--bits", 32, "--learning_rate", 1e-2, "--warmup_steps", 2]
    argv += [*EPOCHS, "--plan_only", "--resume_from_checkpoint", before]
    done = program(*argv)
    assert done.returncode == 1
    assert "was begun with the answers of a dialogue drawn apart" in done.stderr
    done = program(*argv, "--ignore_data_skip")
    assert "the data starts at its beginning" in done.stdout


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("micro_batch", [1, 3])
def test_every_step_has_exactly_total_batch_rows(base, dialogues, micro_batch, world_size):
    records = read_records(str(dialogues), BASE)
    examples = tokenise(TextTokenizer(base), records, range(len(TURNS)), BASE, 512, train_turns="all")
    assert examples.dialogue_rows == list(TURNS)
    run = RunFlags(total_batch=7, micro_batch=micro_batch, num_epoch=1)
    samplers = [
        StepBatchSampler(examples.lengths, run, world_size, rank, rows=examples.rows, dialogue_rows=TURNS)
        for rank in range(world_size)
    ]
    steps = [
        [row for sampler in samplers for batch in sampler.micro_batches(step) for row in batch]
        for step in range(samplers[0].steps)
    ]
    assert [len(step) for step in steps] == [7, 7, 7, 6]
    assert sorted(row for step in steps for row in step) == list(range(sum(TURNS)))
    assert len(torn(steps, TURNS)) < len(steps)
