"""Answers of a base that thinks, where only the answer is wanted: of generate.py to one question, and to files."""

import json

from tests import taught
from vicuna.answer.flags import DecodingFlags, ServeFlags
from vicuna.answer.history import trim
from vicuna.answer.loading import check_assistant
from vicuna.evaluation.respondents import Asked, LocalModel
from vicuna.model.flags import ModelFlags
from vicuna.prompt.templates import BASE

PLAIN = ("--bits", 32, "--repetition_penalty", "1.0", "--max_new_tokens", 80)


def test_one_answer_is_printed_without_its_thinking(program, thinker):
    done = program("generate.py", "--model_path", thinker, "--text", "你好", *PLAIN)

    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{taught.GREETING}\n"
    cut = program("generate.py", "--model_path", thinker, "--text", "你好", *PLAIN, "--max_new_tokens", 6)
    assert cut.stdout == "\n"
    assert "ended while it was thought about; --max_new_tokens allows more" in cut.stderr


def test_answers_to_a_file_have_their_thinking_beside_them(program, thinker, tmp_path):
    rows = [
        {"messages": taught.HELLO},
        {"messages": taught.ASK_WEATHER, "tools": [taught.WEATHER]},
        {"messages": [*taught.TOLD, {"role": "assistant", "content": taught.SUNNY}], "tools": [taught.WEATHER]},
    ]
    file, output = tmp_path / "asked.jsonl", tmp_path / "answers.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    done = program("generate.py", "--model_path", thinker, "--data_path", file, "--output_path", output, *PLAIN)

    assert done.returncode == 0, done.stderr
    hello, called, sunny = map(json.loads, output.read_text(encoding="utf-8").splitlines())
    assert (hello["answer"], hello["reasoning_content"]) == (taught.GREETING, taught.THOUGHT)
    assert called["answer"].startswith(f"{taught.SAID_BEFORE}<tool_call>")
    assert (sunny["answer"], sunny["reference"]) == (taught.SUNNY, taught.SUNNY)
    assert "reasoning_content" not in called.keys() | sunny.keys()


def test_an_evaluated_answer_is_without_its_thinking(thinker):
    checked = check_assistant(ModelFlags(model_path=str(thinker), bits=32), ServeFlags())
    model = LocalModel("thinker", str(thinker), checked, 2)
    settings = model.settings(DecodingFlags(preset="precise", repetition_penalty=1.0, max_new_tokens=80))
    (answered,) = model.answer([Asked(1, taught.HELLO)], settings, 0, set())

    assert answered.text == taught.GREETING
    assert trim(checked.tokenizer, BASE, taught.HELLO, 500, 80).prompt_end.endswith("<|im_start|>assistant\n")
