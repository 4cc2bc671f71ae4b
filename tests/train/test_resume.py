"""Going on with a run, from its checkpoint or its adapter, and what a resumed run has to keep."""

import os
import shlex
import subprocess

import pytest

from tests.train.runs import ROOT, STEPS, TWO_EPOCHS, losses, train


def test_a_run_resumed_in_its_second_epoch_ends_as_the_straight_one(program, tiny_base, records, straight, tmp_path):
    more = [*TWO_EPOCHS, "--save_steps", 3, "--resume_from_checkpoint", straight / "checkpoint-6"]
    output = train(program, tiny_base, records, tmp_path / "out", *more)
    for name in ("adapter_model.safetensors",):
        assert (output / name).read_bytes() == (straight / name).read_bytes()
    assert losses(output) == losses(straight)


def test_a_folder_with_only_an_adapter_is_a_warm_start(program, tiny_base, records, straight, tmp_path):
    more = ["--resume_from_checkpoint", straight / "best", "--num_epoch", 1, "--total_batch", 20, "--lora_r", 32]
    output = train(program, tiny_base, records, tmp_path / "out", *more)
    log = (output / "session.log").read_text(encoding="utf-8")
    assert "starts from the adapter in" in log
    assert "r 8, alpha 16 on q_proj v_proj" in log  # the adapter's, not the flag's
    assert losses(output)[0] < losses(straight)[0] - 0.1


def test_resuming_with_another_flag_is_refused_by_name(program, tiny_base, records, straight, tmp_path):
    good = ["--model_path", tiny_base, "--data_path", records, "--output_path", tmp_path / "out", *STEPS, *TWO_EPOCHS]
    resume = ["--resume_from_checkpoint", straight / "checkpoint-6"]
    done = program("finetune.py", *good, *resume, "--learning_rate", "5e-3")
    assert done.returncode == 1
    assert "was begun with --learning_rate 0.01, this run has 0.005" in done.stderr
    assert "Traceback" not in done.stderr


def test_all_flags_that_differ_are_named_with_the_command_that_keeps_them(
    program, tiny_base, records, straight, tmp_path
):
    other = tmp_path / "other.jsonl"
    other.write_text(records.read_text(encoding="utf-8").replace("。", "！"), encoding="utf-8")
    good = ["--model_path", tiny_base, "--data_path", other, "--output_path", tmp_path / "my out", *STEPS, *TWO_EPOCHS]
    resume = ["--resume_from_checkpoint", straight / "checkpoint-6", "--plan_only"]
    lora = ["--lora_target_modules", "k_proj", "o_proj", "--lora-r=4"]
    said = program("finetune.py", *good, *resume, *lora, "--learning_rate", "5e-3").stderr

    assert "with --learning_rate 0.01, this run has 0.005" in said
    assert "with --lora_r 8, this run has 4" in said
    assert "with --lora_target_modules ['q_proj', 'v_proj'], this run has ['k_proj', 'o_proj']" in said
    assert "a resumed run must keep them; with data_sha256 " in said
    command = said.split("With the flags that it had: ")[1].split(". To begin a new schedule")[0]
    python, *argv = shlex.split(command)
    assert python == "python"
    argv[argv.index("--data_path") + 1] = str(records)
    assert "resumes " in program(*argv).stdout


def test_a_run_is_resumed_with_the_flags_it_had_unless_told_otherwise(program, straight, tmp_path):
    said = program(
        *("finetune.py", "--as_before", "--output_path", tmp_path / "out", "--plan_only", "--save_steps", 2),
        *("--resume_from_checkpoint", straight / "checkpoint-6"),
    ).stdout

    assert "at step 6: the data goes on where it stopped" in said
    assert "every 2 steps and at the end" in said
    said = program("finetune.py", "--as_before", "--output_path", tmp_path, "--resume_from_checkpoint", "auto").stderr
    assert f"--output_path {tmp_path} has no whole one: name the folder of the run" in said
    assert "--resume_from_checkpoint names: give it, too" in program("finetune.py", "--as_before").stderr


def test_resuming_on_other_data_is_refused_unless_the_data_begins_anew(program, tiny_base, records, straight, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text(records.read_text(encoding="utf-8").replace("。", "！"), encoding="utf-8")
    good = ["--model_path", tiny_base, "--data_path", other, "--output_path", tmp_path / "out", *STEPS, *TWO_EPOCHS]
    resume = ["--resume_from_checkpoint", straight / "checkpoint-6", "--plan_only"]
    done = program("finetune.py", *good, *resume)
    assert done.returncode == 1
    assert "was begun with data_sha256 " in done.stderr
    assert "a resumed run must keep it, or pass --ignore_data_skip to begin the data anew" in done.stderr
    done = program("finetune.py", *good, *resume, "--ignore_data_skip")
    assert "the data starts at its beginning" in done.stdout
    assert "8, of which 6 are done and the others pass 0.5 times over this data" in done.stdout
    resume[1] = straight / "checkpoint-8"
    done = program("finetune.py", *good, *resume, "--ignore_data_skip")
    assert "checkpoint-8 is at step 8, and the run ends at step 8: raise --num_epoch above 2" in done.stderr


def test_a_run_of_so_many_steps_is_one_of_as_many_epochs_and_is_resumed(program, tiny_base, records, tmp_path):
    argv = ["--total_batch", 11, "--micro_batch", 2, "--test_size", 5, "--eval_steps", 0, "--save_steps", 2]
    expected = train(program, tiny_base, records, tmp_path / "epochs", *argv, "--num_epoch", 1.5)
    output = train(program, tiny_base, records, tmp_path / "steps", *argv, "--max_steps", 6)
    assert "6, which pass 1.5 times over the data; learning rate" in (output / "session.log").read_text("utf-8")
    weights = (expected / "adapter_model.safetensors").read_bytes()
    assert (output / "adapter_model.safetensors").read_bytes() == weights
    card = (output / "README.md").read_text("utf-8")
    assert ("| max_steps | 6 |" in card, "num_epoch" in card) == (True, False)

    good = ["--model_path", tiny_base, "--data_path", records, "--output_path", tmp_path / "out", *STEPS, *argv]
    resume = ["--resume_from_checkpoint", output / "checkpoint-4"]
    done = program("finetune.py", *good, "--max_steps", 8, *resume)
    assert "was begun with --max_steps 6, this run has 8: a resumed run must keep it" in done.stderr
    again = train(program, tiny_base, records, tmp_path / "again", *argv, "--max_steps", 6, *resume)
    assert (again / "adapter_model.safetensors").read_bytes() == weights


def test_an_elastic_resumption_takes_the_same_rows_per_step(
    program, interpreter, tiny_base, records, straight, tmp_path
):
    more = [*TWO_EPOCHS, "--resume_from_checkpoint", straight / "checkpoint-3", "--micro_batch", 3]
    good = ["--model_path", tiny_base, "--data_path", records, "--output_path", tmp_path / "refused", *STEPS, *more]
    done = program("finetune.py", *good)
    assert "was begun with --micro_batch 2, this run has 3: pass --elastic to go on with another one" in done.stderr
    output = train(program, tiny_base, records, tmp_path / "out", *more, "--elastic", "--save_steps", 6, processes=2)
    assert losses(output) == pytest.approx(losses(straight), abs=1e-4)
    assert losses(output, "eval_loss") == pytest.approx(losses(straight, "eval_loss"), abs=1e-4)

    # Its checkpoint is resumed by as many processes, which the launcher plans for.
    whole = losses(output)
    env = {
        **os.environ,
        "PYTHON": interpreter,
        "NUM_PROCESSES": "2",
        "lora_checkpoint": str(output / "checkpoint-6"),
    }
    env |= {"MODEL_PATH": str(tiny_base), "DATA_PATH": str(records), "OUTPUT_PATH": str(tmp_path / "again")}
    same = [*STEPS, *TWO_EPOCHS, "--micro_batch", 3]
    launcher = ["bash", ROOT / "scripts/finetune.sh", *map(str, same)]
    done = subprocess.run(launcher, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path / "again") == whole
    env["NUM_PROCESSES"] = "3"
    done = subprocess.run(launcher, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1
    assert "was begun with world_size 2, this run has 3: pass --elastic" in done.stderr
