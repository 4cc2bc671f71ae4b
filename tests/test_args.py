"""Flags: every spelling the original took, and every refusal with its sentence."""

import errno
import os
import sys

import pytest

from vicuna.answer.flags import AskFlags, DecodingFlags, PredictFlags, ServeFlags
from vicuna.args import parse
from vicuna.data.flags import DataFlags
from vicuna.errors import run
from vicuna.model.flags import LoraFlags, ModelFlags
from vicuna.train.flags import RunFlags

TRAIN = (ModelFlags, DataFlags, LoraFlags, RunFlags)
SERVE = (ModelFlags, AskFlags, PredictFlags, ServeFlags, DecodingFlags)


def parsed(groups: tuple[type, ...], *argv: str) -> dict:
    """The flags of all groups as one dictionary."""
    return {name: value for group in parse("test", *groups, argv=list(argv)) for name, value in vars(group).items()}


def refusal(capsys: pytest.CaptureFixture, groups: tuple[type, ...], *argv: str) -> str:
    """What the parser prints when it ends the program with status 2."""
    with pytest.raises(SystemExit) as end:
        parse("test", *groups, argv=list(argv))
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--ignore_data_skip", "True"], "ignore_data_skip", True),
        (["--ignore_data_skip", "False"], "ignore_data_skip", False),
        (["--ignore_data_skip=False"], "ignore_data_skip", False),
        (["--ignore-data-skip", "1"], "ignore_data_skip", True),
        (["--ignore_data_skip"], "ignore_data_skip", True),
        (["--wandb"], "wandb", True),
        (["--wandb", "0"], "wandb", False),
        (["--int8"], "bits", 8),
        (["--int8", "1"], "bits", 8),
        (["--int8", "0"], "bits", 16),
        (["--int8", "False"], "bits", 16),
        (["--int8", "1", "--bits", "8"], "bits", 8),
        (["--bits", "4"], "bits", 4),
        ([], "bits", 8),
        (["--data-path", "my.jsonl"], "data_path", ["my.jsonl"]),
        (["--data_path", "a.jsonl", "b.jsonl:2"], "data_path", ["a.jsonl", "b.jsonl:2"]),
        (["--data_path", "2023"], "data_path", ["2023"]),
        (["--model_path", "decapoda-research/llama-7b-hf"], "model_path", "decapoda-research/llama-7b-hf"),
        (["--output_path", "out"], "output_path", "out"),
        (["--eval_steps", "100"], "eval_steps", 100),
        (["--save_steps", "100"], "save_steps", 100),
        (["--log_steps", "5"], "log_steps", 5),
        (["--test_size", "0"], "test_size", 0),
        ([], "test_size", None),
        (["--num_epoch", "2"], "num_epoch", 2),
        (["--micro_batch", "2"], "micro_batch", 2),
        (["--total_batch", "64"], "total_batch", 64),
        (["--warmup_ratio", "0.05"], "warmup_ratio", 0.05),
        (["--resume_from_checkpoint", "a/checkpoint-1"], "resume_from_checkpoint", "a/checkpoint-1"),
        (["--lora_remote_checkpoint", "owner/name"], "lora_remote_checkpoint", "owner/name"),
        (["--local_rank", "1"], "local_rank", 1),
        (["--lora_target_modules", "q_proj", "o_proj"], "lora_target_modules", ["q_proj", "o_proj"]),
        (["--lora-target-modules", "q_proj"], "lora_target_modules", ["q_proj"]),
    ],
)
def test_a_spelling_of_finetune_means_what_it_always_did(argv, name, value):
    found = parsed(TRAIN, *argv)[name]

    assert found == value
    assert type(found) is type(value) or name == "num_epoch"


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--use_typewriter", "1"], "use_typewriter", True),
        (["--use_typewriter", "0"], "use_typewriter", False),
        (["--use-typewriter", "False"], "use_typewriter", False),
        (["--show_beam", "0"], "show_beam", False),
        (["--share_link", "1"], "share_link", True),
        (["--share_link"], "share_link", True),
        ([], "share_link", False),
        (["--use_local", "1"], "use_local", True),
        (["--use_local", "0"], "use_local", False),
        ([], "use_local", None),
        (["--int8", "0"], "bits", 16),
        (["--lora_path", "Chinese-Vicuna/name"], "lora_path", "Chinese-Vicuna/name"),
        (["--prompt_type", "chat"], "prompt_type", "chat"),
        ([], "prompt_type", None),
        (["--do_sample"], "do_sample", True),
        (["--do-sample", "0"], "do_sample", False),
        (["--temperature", "0"], "temperature", 0.0),
        (["--text", "你好"], "text", "你好"),
    ],
)
def test_a_spelling_of_generate_means_what_it_always_did(argv, name, value):
    found = parsed(SERVE, *argv)[name]

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--bits", "7"], ["--bits", "invalid choice", "7"]),
        (["--bits", "eight"], ["--bits", "eight"]),
        (["--int8", "1", "--bits", "4"], ["--int8 1 means --bits 8, but --bits 4 was given", "drop --int8"]),
        (["--int8", "0", "--bits", "8"], ["--int8 0 means --bits 16, but --bits 8 was given"]),
        (["--wandb", "maybe"], ["--wandb", "maybe"]),
        (["--num_epoch", "many"], ["--num_epoch", "many"]),
        (["--num_epoch", "0"], ["--num_epoch 0.0 must be above 0"]),
        (["--num_epoch", "inf"], ["--num_epoch inf"]),
        (["--learning_rate", "inf"], ["--learning_rate inf"]),
        (["--weight_decay", "nan"], ["--weight_decay nan"]),
        (["--max_grad_norm", "nan"], ["--max_grad_norm nan"]),
        (["--seed", "-1"], ["--seed -1 is too small: expected 0 or more"]),
        (["--seed", "4294967296"], ["--seed 4294967296"]),
        (["--optim", "adam"], ["--optim", "adam", "adamw_torch"]),
        (["--learning_rate", "0"], ["--learning_rate 0.0 must be above 0"]),
        (["--learning_rate", "nan"], ["--learning_rate nan must be above 0"]),
        (["--test_size", "-1"], ["--test_size -1 is too small: expected 0 or more"]),
        (["--cutoff_len", "0"], ["--cutoff_len 0 is too small: expected 8 or more"]),
        (["--total_batch", "0"], ["--total_batch 0 is too small: expected 1 or more"]),
        (["--micro_batch", "0"], ["--micro_batch 0 is too small: expected 1 or more"]),
        (["--log_steps", "0"], ["--log_steps 0 is too small: expected 1 or more"]),
        (["--eval_steps", "-1"], ["--eval_steps -1 is too small: expected 0 or more"]),
        (["--warmup_steps", "-1"], ["--warmup_steps -1 is too small: expected 0 or more"]),
        (["--warmup_steps", "9", "--warmup_ratio", "0.1"], ["--warmup_steps and --warmup_ratio", "give one of them"]),
        (["--warmup_steps", "0", "--warmup_ratio", "0.1"], ["--warmup_steps and --warmup_ratio", "give one of them"]),
        (["--warmup_ratio", "1"], ["--warmup_ratio 1.0 is not a share of the steps"]),
        (["--lora_r", "0"], ["--lora_r 0 is too small"]),
        (["--lora_dropout", "1"], ["--lora_dropout 1.0 is not a probability"]),
        (["--prompt_type", "alpaca"], ["--prompt_type", "alpaca", "instruct"]),
        (["--micro_batc", "4"], ["'--micro_batc' is not a flag", "did you mean --micro_batch?"]),
        (["--micro-batc=4"], ["'--micro-batc=4' is not a flag", "did you mean --micro_batch?"]),
        (["--out", "x"], ["'--out' is not a flag"]),
        (["--frobnicate"], ["'--frobnicate' is not a flag", "--help lists the flags"]),
        (["leftover"], ["'leftover' is not a flag"]),
    ],
)
def test_finetune_refuses_a_mistake_with_status_2_and_a_sentence(capsys, argv, words):
    printed = refusal(capsys, TRAIN, *argv)

    assert "Traceback" not in printed
    for word in words:
        assert word in printed


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--do_sample", "False", "--temperature", "0.7"], ["--do_sample False", "--temperature 0.7", "drop one"]),
        (["--do_sample", "0", "--top_p", "0.9"], ["--do_sample False", "--top_p 0.9"]),
        (["--do_sample", "0", "--top_k", "40"], ["--do_sample False", "--top_k 40"]),
        (["--do_sample", "True", "--temperature", "0"], ["--temperature 0 is greedy", "--do_sample True"]),
        (["--num_beams", "0"], ["--num_beams 0 is out of range: expected 1 to 10"]),
        (["--top_p", "1.5"], ["--top_p 1.5 is out of range: expected 0 to 1"]),
        (["--temperature", "nan"], ["--temperature nan is out of range"]),
        (["--repetition_penalty", "0"], ["--repetition_penalty 0.0 is out of range"]),
        (["--max_new_tokens", "0"], ["--max_new_tokens 0 is out of range"]),
        (["--seed", "-1"], ["--seed -1"]),
        (["--seed", "4294967296"], ["--seed 4294967296"]),
        (["--preset", "wild"], ["--preset", "wild", "balanced"]),
        (["--data_path", "q.jsonl"], ["--data_path q.jsonl is answered into a file: name it with --output_path"]),
        (["--output_path", "a.jsonl"], ["--output_path is for the records of --data_path, which is not given"]),
        (["--skip_bad_rows"], ["--skip_bad_rows is for the records of --data_path"]),
        (["--encoding", "gbk"], ["--encoding is for the records of --data_path"]),
        (["--fields", "instruction=q"], ["--fields is for the records of --data_path"]),
        (["--fields", "q"], ["--fields q: 'q' is not a field to fill"]),
        (["--data_path", "q", "--output_path", "a.csv"], ["--output_path a.csv gets a line of JSON for each record"]),
        (["--micro_batch", "0"], ["--micro_batch 0 is too small: expected 1 or more"]),
    ],
)
def test_generate_refuses_a_contradiction_with_status_2_and_a_sentence(capsys, argv, words):
    printed = refusal(capsys, SERVE, *argv)

    assert "Traceback" not in printed
    for word in words:
        assert word in printed


@pytest.mark.parametrize("argv", [["--temp", "0.5"], ["--num_beam", "2"], ["--lora", "x"]])
def test_an_abbreviation_is_refused_and_not_guessed(capsys, argv):
    assert f"{argv[0]!r} is not a flag" in refusal(capsys, SERVE, *argv)


def test_temperature_0_beside_do_sample_false_is_the_same_said_twice():
    assert parsed(SERVE, "--do_sample", "False", "--temperature", "0")["temperature"] == 0


def test_a_program_can_change_a_default():
    model, *_ = parse("test", *TRAIN, argv=[], model_path="elsewhere")

    assert model.model_path == "elsewhere"


def test_an_args_file_lying_around_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "finetune.args").write_text("--bits 4", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "finetune.py")])
    model, *_ = parse("test", *TRAIN)

    assert model.bits == 8


@pytest.mark.parametrize("group", [*TRAIN, *SERVE])
def test_every_flag_has_a_help_text(group):
    lacking = [name for name, field in group.__dataclass_fields__.items() if not field.metadata.get("help")]

    assert lacking == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_what_the_machine_refuses_is_a_sentence_and_status_1(number, capsys):
    def program():
        raise OSError(number, os.strerror(number), "/some/file")

    with pytest.raises(SystemExit) as stopped:
        run(program)
    assert stopped.value.code == 1
    assert f"error: {os.strerror(number)}: /some/file. Free it, or name another place." in capsys.readouterr().err


def test_an_error_of_the_program_itself_keeps_its_traceback():
    def program():
        raise OSError(errno.EBADF, "a bug")

    with pytest.raises(OSError, match="a bug"):
        run(program)
