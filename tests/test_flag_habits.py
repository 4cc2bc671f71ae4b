"""Flags as people type them who come from other toolkits, lists that are given twice, and consoles in GBK."""

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from tests.test_args import SERVE, TRAIN, parsed, refusal
from vicuna.answer.flags import ChatFlags, ServeFlags
from vicuna.args import ELSEWHERE, Gather, parse
from vicuna.data.flags import DataFlags
from vicuna.model.flags import LoraFlags

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("groups", "word", "hint"),
    [
        (TRAIN, "--batch_size", "here it is --total_batch or --micro_batch."),
        (TRAIN, "--per-device-train-batch-size=2", "here it is --micro_batch."),
        (TRAIN, "--lora_weights", "here it is --resume_from_checkpoint."),
        (TRAIN, "--lora_rank", "here it is --lora_r."),
        (TRAIN, "--lr", "here it is --learning_rate."),
        (TRAIN, "--num_train_epochs", "here it is --num_epoch."),
        (TRAIN, "--model_name_or_path", "here it is --model_path."),
        (TRAIN, "--max_seq_length", "here it is --cutoff_len."),
        (TRAIN, "--val_set_size", "here it is --test_size."),
        (TRAIN, "--load_in_4bit", "here it is --bits."),
        (TRAIN, "--output_dir", "here it is --output_path."),
        (TRAIN, "--local_ran", "did you mean --lora_r?"),  # never --local_rank, which does nothing
        (SERVE, "--lora_weights", "here it is --lora_path."),
        (SERVE, "--batch_size", "here it is --micro_batch."),
        (SERVE, "--input_file", "here it is --data_path."),
        (SERVE, "--server_name", "here it is --host."),
    ],
)
def test_a_flag_of_another_toolkit_is_answered_with_ours(capsys, groups, word, hint):
    assert hint in refusal(capsys, groups, word, "1")


def test_every_name_from_elsewhere_means_a_flag_and_is_none_itself():
    flags = {name for group in (*TRAIN, *SERVE, ChatFlags) for name in group.__dataclass_fields__} | {"out_path"}

    assert set(ELSEWHERE) <= flags
    for name, words in ELSEWHERE.items():
        assert name not in words.split()


@pytest.mark.parametrize(
    ("argv", "found"),
    [
        (["--data_path", "a"], ["a"]),
        (["--data_path", "a", "b"], ["a", "b"]),
        (["--data_path", "a", "--data_path", "b", "c"], ["a", "b", "c"]),
        (["--data_path=a", "--data-path=b"], ["a", "b"]),
        ([], ["sample/instruct/data_sample.jsonl"]),
    ],
)
def test_a_list_that_is_given_twice_has_the_values_of_both(argv, found):
    assert parsed(TRAIN, *argv)["data_path"] == found
    assert parsed(TRAIN)["data_path"] == ["sample/instruct/data_sample.jsonl"]  # no call leaves anything behind


@pytest.mark.parametrize(
    ("group", "name"),
    [(DataFlags, "data_path"), (LoraFlags, "lora_target_modules"), (ServeFlags, "auth"), (ChatFlags, "lora_path")],
)
def test_a_list_flag_of_every_group_gathers(group, name):
    (found,) = parse("test", group, argv=[f"--{name}", "a:b", f"--{name}", "c:d"])

    assert getattr(found, name) == ["a:b", "c:d"]


@pytest.mark.parametrize("group", [*TRAIN, *SERVE, ChatFlags])
def test_every_list_flag_is_declared_as_one_that_gathers(group):
    lists = [one for one in fields(group) if str(one.type).startswith("list")]

    assert [one.name for one in lists if one.metadata["action"] is not Gather] == []


@pytest.mark.parametrize(
    "words",
    [["q_proj", "v_proj"], ["q_proj,v_proj"], ["[q_proj,v_proj]"], ["['q_proj',", "'v_proj']"], ["q_proj, v_proj"]],
)
def test_target_modules_are_read_as_the_list_they_are(words):
    assert parsed(TRAIN, "--lora_target_modules", *words)["lora_target_modules"] == ["q_proj", "v_proj"]


def test_no_target_module_is_refused(capsys):
    assert "--lora_target_modules names no module" in refusal(capsys, TRAIN, "--lora_target_modules", "[]")


@pytest.mark.parametrize(
    ("name", "argv"),
    [
        ("finetune.py", ["--data_path", "sample/instruct/data_sample.jsonl", "--bits", "32", "--plan_only"]),
        ("tools/check_data.py", ["sample/instruct/data_sample.jsonl", "--show", "1"]),
        ("finetune.py", ["--help"]),
        ("tools/verify_export.py", ["--help"]),
        ("tools/eval_ppl.py", ["--help"]),  # with lists of numbers among its defaults
    ],
)
def test_a_console_in_gbk_ends_no_program(tiny_base, tmp_path, name, argv):
    """Their output holds signs that GBK lacks, such as ⏎ and ⟦."""
    console = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "gbk"}
    base = ["--model_path", tiny_base, "--output_path", tmp_path] if name == "finetune.py" else []
    done = subprocess.run(
        [sys.executable, name, *argv, *map(str, base)],
        cwd=ROOT, env={**os.environ, **console, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, timeout=550,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr.decode("gbk")
    assert done.stdout.decode("gbk").strip()
