"""Training with the base's own chat template: the default where there is one, kept for all that comes after."""

import json
from datetime import date

import pytest

from tests.own_bases import write_base, write_tokenizer
from tests.train.runs import train
from vicuna.data.flags import DataFlags
from vicuna.errors import UserError
from vicuna.prompt.templates import BASE
from vicuna.prompt.tokenizer import TextTokenizer
from vicuna.train.own_template import template_facts, with_template_settings

ROWS = [
    {"instruction": f"{number} + {number} =", "output": f"<think>\n{number} 加 {number}\n</think>\n\n{2 * number}"}
    for number in range(12)
]
SHORT = ["--total_batch", 4, "--micro_batch", 2, "--max_steps", 3, "--test_size", 2, "--eval_steps", 3]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    file = tmp_path_factory.mktemp("records") / "records.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("own") / "thinking", "thinking")


def facts(folder):
    return json.loads((folder / "run_args.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def straight(program, base, records, tmp_path_factory):
    return train(program, base, records, tmp_path_factory.mktemp("runs") / "straight", *SHORT, "--save_steps", 2)


def test_the_bases_own_template_is_the_default(straight):
    said = facts(straight)

    assert (said["prompt_type"], said["flags"]["prompt_type"]) == (BASE, BASE)
    assert said["template"] == {"day": "", "thinking": "keep"}
    log = (straight / "session.log").read_text(encoding="utf-8")
    assert "prompt type base" in log
    assert "<|im_start|>assistant⏎ [trained on: <think>⏎" in log
    assert "</think>⏎⏎" in log


def test_a_resumed_run_ends_as_if_it_had_never_stopped(program, base, records, straight, tmp_path):
    resumed = ["--resume_from_checkpoint", straight / "checkpoint-2", "--save_steps", 2]
    output = train(program, base, records, tmp_path / "out", *SHORT, *resumed)

    assert (output / "adapter_model.safetensors").read_bytes() == (straight / "adapter_model.safetensors").read_bytes()
    assert facts(output)["template"] == facts(straight)["template"]


def test_what_is_asked_is_what_was_trained(base, straight):
    from tests.served import assistant_of

    assistant = assistant_of(base, straight)
    question = [{"role": "user", "content": ROWS[3]["instruction"]}]
    trained = TextTokenizer(base).with_settings(thinking="keep")

    assert assistant.first.prompt_type == BASE
    assert trained.show(assistant.prompt_ids(question)) == trained.show(
        trained.encode_rendering(trained.chat.prompt(question))
    )
    assert assistant.tokenizer_of().chat.settings.thinking == "keep"


def test_a_merged_model_has_the_template_and_its_settings(base, straight, tmp_path):
    from tests.export.tool_models import tool
    from tests.served import assistant_of

    merge = tool("merge_lora")
    merge.main(merge.MergeFlags(model_path=str(base), lora_path=[str(straight)], out_path=str(tmp_path / "merged")))
    merged = assistant_of(tmp_path / "merged")
    question = [{"role": "user", "content": "你好"}]

    assert merged.first.trained_as == BASE
    assert merged.prompt_ids(question) == assistant_of(base, straight).prompt_ids(question)
    assert facts(tmp_path / "merged")["template"] == {"thinking": "keep"}


@pytest.fixture
def dated(tmp_path):
    write_tokenizer(tmp_path / "dated", "of_the_day")
    return TextTokenizer(tmp_path / "dated")


def test_a_run_keeps_the_day_on_which_it_began(dated, tmp_path):
    flags = DataFlags(prompt_type=BASE)
    (tmp_path / "run_args.json").write_text('{"template": {"day": "2025-01-31"}}', encoding="utf-8")
    before = date.today()
    begun, resumed = with_template_settings(dated, flags, None), with_template_settings(dated, flags, tmp_path)

    assert before <= date.fromisoformat(begun.chat.day) <= date.today()
    assert resumed.chat.day == "2025-01-31"
    assert template_facts(resumed, flags, {"rows_thinking": 0}) == {"template": {"day": "2025-01-31", "thinking": ""}}


def test_a_template_that_asks_for_no_day_is_told_none(tmp_path):
    write_tokenizer(tmp_path, "chatml")
    view = with_template_settings(TextTokenizer(tmp_path), DataFlags(prompt_type=BASE), None)

    assert view.chat.settings.day == ""


@pytest.mark.parametrize(("rows", "learnt"), [(0, "empty"), (3, "keep")])
def test_who_learns_no_thought_is_asked_without(tmp_path, rows, learnt):
    write_tokenizer(tmp_path, "thinking")
    flags = DataFlags(prompt_type=BASE)
    said = template_facts(TextTokenizer(tmp_path), flags, {"rows_thinking": rows})

    assert said["template"]["thinking"] == learnt


def test_a_base_without_a_template_is_refused_by_name(program, tiny_base, records, tmp_path):
    argv = ["--model_path", tiny_base, "--data_path", records, "--output_path", tmp_path / "out", "--prompt_type", BASE]
    done = program("finetune.py", *argv)

    assert done.returncode == 1
    assert "--prompt_type base is the base's own chat template, and this base declares none" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("more", [{"thinking": "keep"}, {"pack": True}])
def test_flags_that_do_not_go_together_are_refused_at_once(more):
    with pytest.raises(UserError, match=r"--(thinking keep|pack) "):
        DataFlags(prompt_type="chat", **more)
