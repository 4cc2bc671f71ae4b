"""Thinking, by the families of templates that know it: what is learnt under --thinking, and how an answer is split.

The two templates here are written in the style of QwQ and the R1 distills (the prompt opens the block, earlier turns
lose theirs) and of SmolLM3 (a mode in the system message, thoughts in the content); Qwen3's is in tests/own_bases.py.
"""

import json
from itertools import pairwise

import pytest

from tests.own_bases import CHATML, text_of, write_tokenizer
from vicuna.errors import UserError
from vicuna.gguf.llama_cpp_source import source_folder
from vicuna.prompt.own_template import SplitAnswer, split_answer
from vicuna.prompt.templates import BASE, IGNORE_INDEX, encode, prompt_ids, render
from vicuna.prompt.tokenizer import TextTokenizer

OPENING = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'].split('</think>')[-1].lstrip('\\n') -}}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n<think>\\n' -}}{%- endif -%}"
)
WITH_MODE = (
    "{%- set mode = 'off' if enable_thinking is defined and not enable_thinking else 'on' -%}"
    "{{- '<|im_start|>system\\nThinking: ' + mode + '<|im_end|>\\n' -}}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['role'] == 'assistant' and mode == 'off' -%}{{- '<think>\\n\\n</think>\\n' -}}{%- endif -%}"
    "{{- message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}"
    "{%- if mode == 'off' -%}{{- '<think>\\n\\n</think>\\n' -}}{%- endif -%}"
    "{%- endif -%}"
)
CLOSING = OPENING.replace(
    "{%- endif -%}", "{%- if not enable_thinking -%}{{- '</think>' -}}{%- endif -%}{%- endif -%}"
)  # as many copies of QwQ's and R1's have it: nothing of the block stands in a dialogue
OWN = {"opening": OPENING, "with mode": WITH_MODE, "closing": CLOSING}
PUBLISHED = ("Qwen-Qwen3-0.6B", "Qwen-QwQ-32B", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "HuggingFaceTB-SmolLM3-3B")
ASK = {"role": "user", "content": "17 * 23?"}
SAY = {"role": "assistant", "content": "391"}
THOUGHT = {**SAY, "reasoning_content": "17 * 20 = 340，还有 51"}
THINKING = ("", "keep", "drop", "empty")


def tokenizer_of(folder, template, special=()):
    """A tokenizer with this template, and further control tokens."""
    write_tokenizer(folder, "thinking")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    files = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    for one in files["added_tokens"]:
        one["special"] |= one["content"] in special
    (folder / "tokenizer.json").write_text(json.dumps(files), encoding="utf-8")
    return TextTokenizer(folder)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    place = tmp_path_factory.mktemp("thinking")
    return {name: tokenizer_of(place / name.replace(" ", "-"), text) for name, text in OWN.items()}


def parts(tokenizer, answer):
    """What leads to an answer, behind the last turn's beginning, and what is learnt of it."""
    example = encode(tokenizer, BASE, [ASK, answer], 1000)
    learnt = [i for i in example.labels if i != IGNORE_INDEX]
    before = text_of(tokenizer, example.input_ids[: -len(learnt)])
    return before.rpartition("<|im_start|>assistant\n")[2], text_of(tokenizer, learnt)


@pytest.mark.parametrize(
    ("name", "thinking", "prompt", "answer"),
    [
        ("opening", "keep", "<think>\n", "17 * 20 = 340，还有 51\n</think>\n\n391<|im_end|>"),
        ("opening", "drop", "", "391<|im_end|>"),
        ("opening", "empty", "<think>\n</think>\n\n", "391<|im_end|>"),
        ("closing", "keep", "<think>\n", "17 * 20 = 340，还有 51\n</think>\n\n391<|im_end|>"),
        ("closing", "drop", "<think>\n</think>", "391<|im_end|>"),
        ("closing", "empty", "<think>\n</think>", "391<|im_end|>"),
        ("with mode", "keep", "", "<think>\n17 * 20 = 340，还有 51\n</think>\n\n391<|im_end|>"),
        ("with mode", "drop", "", "391<|im_end|>"),
        ("with mode", "empty", "<think>\n\n</think>\n", "391<|im_end|>"),
    ],
)
def test_a_thought_is_learnt_left_out_or_closed_in_the_prompt(own, name, thinking, prompt, answer):
    view = own[name].with_settings(thinking=thinking)

    assert parts(view, THOUGHT) == (prompt, answer)
    asked = prompt_ids(view, BASE, [ASK])
    assert encode(view, BASE, [ASK, THOUGHT], 1000).input_ids[: len(asked)] == asked


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("thinking", THINKING)
def test_a_block_that_holds_nothing_is_never_learnt(own, name, thinking):
    assert parts(own[name].with_settings(thinking=thinking), SAY)[1] == "391<|im_end|>"


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("thinking", THINKING)
@pytest.mark.parametrize("text", ["end", "im", "think", "1"])
def test_an_answer_whose_text_stands_elsewhere_too_is_found_whole(own, name, thinking, text):
    assert parts(own[name].with_settings(thinking=thinking), {**SAY, "content": text})[1] == f"{text}<|im_end|>"


def test_a_call_of_which_the_template_shows_nothing_is_refused(own):
    call = {"type": "function", "function": {"name": "weather", "arguments": "{}"}}
    called = {"role": "assistant", "content": "我查。", "tool_calls": [call]}

    with pytest.raises(UserError, match="does not show the call of weather in an answer"):
        own["opening"].chat.turn([ASK, called])
    with pytest.raises(UserError, match="does not show the call of weather in an answer"):
        own["opening"].chat.turn([ASK, called, {"role": "tool", "content": "晴"}, SAY])


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Templates as they were published, which llama.cpp's source package has."""
    try:
        folder = source_folder() / "models/templates"
    except UserError as error:
        pytest.skip(str(error))
    place = tmp_path_factory.mktemp("published")
    control = ("<｜User｜>", "<｜Assistant｜>")
    found = {}
    for name in PUBLISHED:
        found[name] = tokenizer_of(place / name, (folder / f"{name}.jinja").read_text(encoding="utf-8"), control)
    return found


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("thinking", ["keep", "drop", "empty"])
def test_published_templates_learn_what_is_asked_for(published, name, thinking):
    view = published[name].with_settings(thinking=thinking, day="2026-01-01")
    assert view.chat.knows_thinking
    example = encode(view, BASE, [ASK, THOUGHT], 2000)
    learnt = [i for i in example.labels if i != IGNORE_INDEX]
    answer, asked = text_of(view, learnt), prompt_ids(view, BASE, [ASK])

    assert example.input_ids == [*asked, *learnt]
    thought = answer.removeprefix("<think>").lstrip("\n").startswith("17 * 20 = 340，还有 51\n</think>\n\n391")
    assert thought == (thinking == "keep")
    assert answer.startswith("391") == (thinking != "keep")
    alone = encode(view, BASE, [ASK, SAY], 2000)
    assert text_of(view, [i for i in alone.labels if i != IGNORE_INDEX]).startswith("391")


# --- what an answer is split into -------------------------------------------------------------------------------------

ANSWER = "<think>\n17 * 20 = 340\n\n还有 </thin\n</think>\n\n391 < 400，</think> 对。"
SPLIT = ("17 * 20 = 340\n\n还有 </thin", "391 < 400，</think> 对。")


@pytest.mark.parametrize(
    ("prompt_end", "text", "expected"),
    [
        ("assistant\n", ANSWER, SPLIT),
        ("assistant\n<think>\n", ANSWER.removeprefix("<think>\n"), SPLIT),
        ("assistant\n<think>\n", ANSWER, SPLIT),
        ("<think>\n\n</think>\n\n", " 391", ("", " 391")),
        ("assistant\n", "<thinker> 391", ("", "<thinker> 391")),
        ("assistant\n", "391 <think>x</think>", ("", "391 <think>x</think>")),
        ("assistant\n<think>", "只想到这里", ("只想到这里", "")),
        ("assistant\n", "\n\n", ("", "\n\n")),
        (None, ANSWER, ("", ANSWER)),
    ],
)
def test_an_answer_is_split_and_grows_without_taking_anything_back(prompt_end, text, expected):
    before, thoughts = SplitAnswer("", ""), 0
    for end in range(len(text) + 1):
        found = split_answer(prompt_end, text[:end], finished=False)
        assert found.thought.startswith(before.thought)
        assert found.content.startswith(before.content)
        assert not (found.content and found.is_thinking)
        thoughts += found.is_thinking
        before = found

    whole = split_answer(prompt_end, text)
    assert whole == SplitAnswer(*expected)
    assert whole.thought.startswith(before.thought)
    assert whole.content.startswith(before.content)
    assert bool(thoughts) == bool(expected[0])


@pytest.mark.parametrize("special", [(), ("<think>", "</think>", "<tool_call>")], ids=["text", "control"])
def test_tags_are_part_of_an_answers_text_as_control_tokens_too(tmp_path, special):
    tokenizer = tokenizer_of(tmp_path, CHATML, special)
    ids = tokenizer.encode_rendering("<think>\n想\n</think>\n\n好<tool_call>{}<|im_end|>", continues=True)

    assert ("<think>" in {tokenizer.markers[i] for i in tokenizer.controls if i in tokenizer.markers}) == bool(special)
    assert tokenizer.decode_continuation(ids) == "<think>\n想\n</think>\n\n好<tool_call>{}"
    texts = [tokenizer.stable_prefix(ids[:end])[1] for end in range(len(ids) + 1)]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts) if later)
    typed = [{"role": "user", "content": "</think> <tool_call>"}]
    assert "</think> <tool_call>" in render(BASE, typed, tokenizer.chat)
