"""finetune.py refuses a mistake in a sentence, before anything is written."""

import os
import subprocess
import sys

import pytest

from tests.train.runs import ROOT

REFUSALS = [
    (["--bits", "7"], 2, "invalid choice: '7'"),
    (["--nosuch", "1"], 2, "'--nosuch' is not a flag of finetune.py"),
    (["--int8", "1", "--bits", "4"], 2, "--int8 1 means --bits 8, but --bits 4 was given"),
    (["--warmup_steps", "1", "--warmup_ratio", "0.1"], 2, "give one of them"),
    (["--data_path", "nosuch.json"], 1, "--data_path nosuch.json does not exist"),
    (["--data_path", "README.md"], 1, "expected a .json, .jsonl, .txt, .csv, .tsv or .parquet file"),
    (["--model_path", "./nosuch"], 1, "--model_path ./nosuch does not exist"),
    (["--model_path", "vicuna"], 1, "has no config.json"),
    (["--test_size", "41"], 1, "--test_size 41 leaves nothing to train on: there are 41 records"),
    (["--lora_target_modules", "q_proj", "w_proj"], 1, "--lora_target_modules w_proj: no such linear layers"),
    (["--resume_from_checkpoint", "./nosuch"], 1, "--resume_from_checkpoint ./nosuch does not exist"),
    (["--resume_from_checkpoint", "sample"], 1, "has no adapter"),
    (["--output_path", "README.md"], 1, "--output_path README.md is a file"),
    (["--deepspeed", "nosuch.json"], 1, "--deepspeed nosuch.json can not be read"),
    (["--deepspeed"], 1, "is ZeRO-3, which can not cut a base of 8 bits in parts"),
    (["--fsdp", "--bits", "16"], 1, "--fsdp needs NVIDIA GPUs, this run is on cpu"),
    (["--train", "full"], 1, "--train full changes every weight, which 8 bits can not hold: pass --bits 16 or"),
    (["--train", "all"], 2, "argument --train: invalid choice: 'all'"),
    (["--optim", "sgdd"], 2, "argument --optim: invalid choice: 'sgdd'"),
]


@pytest.mark.parametrize(("argv", "status", "message"), REFUSALS, ids=[" ".join(case[0]) for case in REFUSALS])
def test_a_mistake_ends_in_a_sentence(program, tiny_base, records, tmp_path, argv, status, message):
    good = ["--model_path", tiny_base, "--data_path", records, "--output_path", tmp_path / "out"]
    done = program("finetune.py", *good, *argv)
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_mistake_through_the_launcher_ends_in_a_sentence_before_processes_start(tiny_base, tmp_path):
    data = tmp_path / "bad.jsonl"
    data.write_text('{"instruction": "问", "output": ""}\n', encoding="utf-8")
    env = {**os.environ, "PYTHON": sys.executable, "NUM_PROCESSES": "2", "MODEL_PATH": str(tiny_base)}
    env |= {"DATA_PATH": str(data), "OUTPUT_PATH": str(tmp_path / "out"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(["bash", ROOT / "scripts/finetune.sh"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "line 1: field output is empty" in done.stderr
    assert "Traceback" not in done.stderr
    assert "torch.distributed" not in done.stderr


def test_gpus_that_are_not_there_are_refused(program, tiny_base, records):
    argv = ["--model_path", tiny_base, "--data_path", records, "--plan_only"]
    done = program("finetune.py", *argv, env={"CUDA_VISIBLE_DEVICES": "7"}, warm=True)
    assert done.returncode == 1
    assert "CUDA_VISIBLE_DEVICES=7 names no GPU" in done.stderr


def test_wandb_without_a_login_is_refused_before_training(program, tiny_base, records, tmp_path):
    env = {"WANDB_MODE": "online", "WANDB_API_KEY": "", "HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    argv = ["--model_path", tiny_base, "--data_path", records, "--output_path", tmp_path / "out", "--wandb"]
    done = program("finetune.py", *argv, env=env, warm=True)
    assert done.returncode == 1
    assert "wandb login" in done.stderr
    assert "Traceback" not in done.stderr
