"""finetune_chat.py as a user runs it: its defaults, mixed formats, every answer trained, and the adapter asked."""

import json
from pathlib import Path

import pytest

from finetune_chat import DEFAULTS
from vicuna.args import Words, parse
from vicuna.data.flags import DataFlags
from vicuna.model.flags import LoraFlags, ModelFlags
from vicuna.train.flags import RunFlags

ROOT = Path(__file__).resolve().parent.parent.parent
GROUPS = (ModelFlags, DataFlags, LoraFlags, RunFlags)


def chosen(*argv: str) -> dict:
    return {
        name: one for group in parse("test", *GROUPS, argv=list(argv), **DEFAULTS) for name, one in vars(group).items()
    }


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> list[str]:
    """Dialogues in the original's form, weight 2, and instructions, weight 0.5."""
    folder = tmp_path_factory.mktemp("mixed")
    messages = [
        {"messages": [{"role": role, "content": text} for pair in zip(row["input"], row["output"], strict=True)
                      for role, text in zip(("user", "assistant"), pair, strict=True)]}
        for row in map(json.loads, (ROOT / "sample/chat/data_sample.jsonl").read_text(encoding="utf-8").splitlines())
    ]  # fmt: skip
    (folder / "messages.json").write_text(json.dumps(messages, ensure_ascii=False), encoding="utf-8")
    lines = (ROOT / "sample/instruct/data_sample.jsonl").read_text(encoding="utf-8").splitlines()[:20]
    (folder / "instruct.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return [f"{folder / 'messages.json'}:2", f"{folder / 'instruct.jsonl'}:0.5"]


def test_the_defaults_are_those_of_dialogues():
    assert {name: chosen()[name] for name in DEFAULTS} == DEFAULTS
    assert chosen("--cutoff_len", "512")["cutoff_len"] == 512


def test_a_default_ratio_gives_way_to_warm_up_steps():
    found = chosen("--warmup_steps", "7")

    assert (found["warmup_steps"], found["warmup_ratio"]) == (7, None)
    assert chosen("--warmup_ratio", "0.1")["warmup_ratio"] == 0.1


def test_both_warm_ups_given_are_refused(capsys):
    with pytest.raises(SystemExit):
        chosen("--warmup_steps", "7", "--warmup_ratio", "0.1")
    assert "--warmup_steps and --warmup_ratio are two ways to say the same" in capsys.readouterr().err


@pytest.mark.parametrize("prompt_type", ["instruct", "text", "bot"])
def test_all_turns_are_refused_by_a_prompt_type_without_eos(capsys, prompt_type):
    with pytest.raises(SystemExit):
        chosen("--train_turns", "all", "--prompt_type", prompt_type)
    assert (
        f"--train_turns all puts EOS behind every answer, which --prompt_type {prompt_type}" in capsys.readouterr().err
    )


def test_all_turns_of_chat_are_the_prompt_type_chat_eos():
    assert chosen("--train_turns", "all")["prompt_type"] == "chat_eos"
    assert chosen()["prompt_type"] == "chat"


def test_the_help_shows_the_defaults_of_this_program(program):
    shown = " ".join(program("finetune_chat.py", "--help").stdout.split())

    for name in ("cutoff_len", "log_steps", "prompt_type"):
        assert f"(default: {DEFAULTS[name]})" in shown
    assert f"(default: {Words(DEFAULTS['lora_target_modules'])})" in shown
    assert "(default: sample/chat/data_sample.jsonl)" in shown


def test_mixed_files_train_every_answer_and_the_adapter_is_asked_as_it_was_trained(program, tiny_base, mixed, tmp_path):
    output = tmp_path / "out"
    argv = ["--model_path", tiny_base, "--data_path", *mixed, "--output_path", output, "--bits", 32]
    argv += ["--train_turns", "all", "--cutoff_len", 256, "--total_batch", 8, "--num_epoch", 3, "--test_size", 4]
    done = program("finetune_chat.py", *argv, "--learning_rate", 1e-2, "--log_steps", 1, "--warmup_steps", 2)
    assert done.returncode == 0, done.stderr[-3000:]

    args = json.loads((output / "run_args.json").read_text(encoding="utf-8"))
    history = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert args["prompt_type"] == args["flags"]["prompt_type"] == "chat_eos"
    assert args["flags"]["data_path"] == mixed
    assert [(one["weight"], one["rows"]) for one in args["plan"]["files"]] == [(2, 12), (0.5, 20)]
    assert args["plan"]["rows"] == 32
    assert args["plan"]["rows_eval"] == 4
    assert {"rows_shortened", "rows_cut"} <= args["plan"].keys()
    assert losses[-1] < losses[0]
    assert "messages.json x 2  12 rows (utf-8) + " in done.stderr
    assert "prompt type chat_eos, every answer" in done.stderr

    asked = ["--model_path", tiny_base, "--lora_path", output, "--bits", 32, "--text", "你好", "--max_new_tokens", 8]
    answer = program("generate.py", *asked)
    assert answer.returncode == 0, answer.stderr
    assert "WARNING" not in answer.stderr
    warned = program("generate.py", *asked, "--prompt_type", "chat")
    assert "the adapter in out was trained with --prompt_type chat_eos; chat gives worse answers" in warned.stderr


def test_a_default_run_plans_the_sample(program, tiny_base):
    done = program("finetune_chat.py", "--model_path", tiny_base, "--plan_only", "--cutoff_len", 90)

    assert done.returncode == 0, done.stderr
    assert "sample/chat/data_sample.jsonl  12 rows (utf-8): 12 train, 0 eval" in done.stdout
    assert "without their oldest turns" in done.stdout
