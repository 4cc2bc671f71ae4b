"""The 70 chat templates that llama.cpp's sources hold: our own prompts and answers of them, and those of others."""

import re
from dataclasses import replace
from itertools import pairwise

import pytest

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: bash scripts/install_cpp.sh")

from lent_vocabulary import control_names
from template_engines import FIXED_DAY, published_templates

from vicuna.certificate.dialogues import EDGES, PLAIN
from vicuna.certificate.engines import LLAMA_CPP_PYTHON, Dialogue, compare_engines, render_in_transformers
from vicuna.errors import UserError
from vicuna.gguf.llama_cpp_source import render_program
from vicuna.prompt.own_template import ChatTemplate
from vicuna.prompt.rendering import Settings

LLAMA32, QWEN25 = "meta-llama-Llama-3.2-3B-Instruct", "Qwen-Qwen2.5-7B-Instruct"
NEMO, GEMMA2 = "mistralai-Mistral-Nemo-Instruct-2407", "google-gemma-2-2b-it"
# Whose prompt is no beginning of the whole rendering, or whose earlier turns change when the dialogue grows.
CHANGING = (
    *("Qwen-QwQ-32B", "Qwen-Qwen3-0.6B", "Qwen3.5-4B", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "GLM-4.7-Flash"),
    *("MiniMax-M2", "google-gemma-4-31B-it"),
)
# These go through the functions that there are, and transformers gives them None.
UNUSABLE = {
    *("CohereForAI-c4ai-command-r-plus-tool_use", "fireworks-ai-llama-3-firefunction-v2"),
    *("NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "NousResearch-Hermes-3-Llama-3.1-8B-tool_use"),
}

SPACES = ("a full-width indent", "no-break spaces")
CALLS = ("a call without content", "numbers in a call", "a number over 64 bits in a call")
UNLIKE = {"llama-cpp-rwkv-world", "openbmb-MiniCPM5-1B"}  # whether told to think or not, other than if told nothing


@pytest.fixture(scope="module")
def templates() -> dict[str, ChatTemplate]:
    try:
        render_program()
    except UserError as error:
        pytest.skip(str(error))
    texts = {name: text.removeprefix(FIXED_DAY) for name, text in published_templates().items()}
    return {name: opened(text) for name, text in texts.items()}


def opened(text: str, **settings: str) -> ChatTemplate:
    names = ["<s>", "</s>", *control_names(text)]
    chosen = Settings(**{"day": "2024-07-26", **settings})
    return ChatTemplate(text, {"bos_token": "<s>", "eos_token": "</s>"}, names, "chat_template.jinja", chosen)


def plain_dialogues(chat: ChatTemplate) -> list[Dialogue]:
    return [one for one in PLAIN if chat.takes_system or one.messages[0]["role"] != "system"]


def test_hardly_one_says_where_an_answer_begins_but_by_rendering(templates):
    assert len(templates) >= 70
    marked = {name for name, chat in templates.items() if re.search(r"\{%-?\s*generation\b", chat.text)}
    assert marked == {"LFM2.5-8B-A1B", "poolside-Laguna-S-2.1", "poolside-Laguna-XS-2.1", "poolside-Laguna-XS.2"}


def test_all_but_four_are_prompts_and_answers(templates):
    """Each prompt is what `apply_chat_template` makes, and each answer is whole and ends in the same token."""
    assert {name for name, chat in templates.items() if chat.problem} == UNUSABLE
    for name, chat in templates.items():
        dialogues = [] if chat.problem else plain_dialogues(chat)
        rendered = render_in_transformers(chat.exported(), "<s>", "</s>", dialogues)
        for dialogue, one in zip(dialogues, rendered, strict=True):
            assert chat.prompt(dialogue.messages) == one.text, (name, dialogue.name)
            found = chat.turn([*dialogue.messages, {"role": "assistant", "content": "答案 42"}])
            assert found.answer.count("答案 42") == 1, (name, dialogue.name)
            assert "<think>" not in found.answer, (name, dialogue.name)
            end = chat.end_of_turn or "</s>"
            assert found.answer.endswith(end), (name, dialogue.name, found)


def test_whether_a_prompt_begins_with_all_before_it_is_found_for_each_dialogue(templates):
    turns = [*PLAIN[1].messages, {"role": "assistant", "content": "因为小。"}]
    thought = [{**one, "reasoning_content": "想一想"} if one["role"] == "assistant" else one for one in turns]
    changing = set()
    for name, chat in templates.items():
        for kind, dialogue in (("plain", turns), ("thought", thought)) if not chat.problem else ():
            found, in_a_row = chat.turns(dialogue)
            if not in_a_row:
                changing.add((name, kind))
                continue
            for earlier, later in pairwise(found):  # what is learnt in a row is the prompt that it will be asked with
                assert later.prompt.startswith(earlier.prompt + earlier.answer), name
    assert {(name, "plain") for name in CHANGING} <= changing
    assert not {(name, "plain") for name in (LLAMA32, QWEN25, NEMO, "microsoft-Phi-3.5-mini-instruct")} & changing
    assert (QWEN25, "thought") in changing  # which knows no thinking, and keeps that of the last answer alone
    assert ("muse-glimmer", "thought") not in changing


def test_a_system_message_is_in_every_prompt_or_refused(templates):
    messages = [{"role": "system", "content": "回答要简短。"}, *PLAIN[1].messages[:3]]
    prompt = templates[NEMO].prompt(messages)
    assert prompt.endswith("[INST]回答要简短。\n\nWhy?[/INST]")  # put into the last question
    answered = [*messages, {"role": "assistant", "content": "So."}]
    assert templates[NEMO].turn(answered).prompt == prompt
    with pytest.raises(UserError, match=r"refuses the messages \(System role not supported\)"):
        templates[GEMMA2].prompt(messages)
    for name, chat in templates.items():
        if chat.takes_system:
            assert "回答要简短。" in chat.turn(answered).prompt, name


def test_the_day_is_one_for_all_programs_once_it_is_written_into_the_template(templates):
    dated = {name for name, chat in templates.items() if chat.takes_date}
    assert dated >= {LLAMA32, "meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.3-70B-Instruct"}
    for name in dated - UNUSABLE:
        found = compare_engines(opened(templates[name].text, day="2001-02-03").exported(), "<s>", "</s>", PLAIN)
        assert not [one for one in found.partings if one.plain], (name, found.lines())
        assert "2001" in templates[name].with_settings(Settings(day="2001-02-03")).prompt(PLAIN[0].messages), name


def test_a_text_is_stripped_as_the_template_strips_its_role(templates):
    blank = [{"role": role, "content": "\u3000答\u3000"} for role in ("system", "user", "assistant", "user")]
    stripped = {
        "llama-cpp-rwkv-world": ("\u3000答\u3000", "答", "答"),
        "Bielik-11B-v3.0-Instruct": ("\u3000答\u3000", "\u3000答\u3000", "答\u3000"),
        LLAMA32: ("答", "答", "答"),
        QWEN25: ("\u3000答\u3000",) * 3,
    }
    for name, texts in stripped.items():
        chat = templates[name]
        assert tuple(chat.clean(one)["content"] for one in blank[:3]) == texts, name
        (rendered,) = render_in_transformers(chat.exported(), "<s>", "</s>", [Dialogue("blanks", blank)])
        assert chat.prompt(blank) == rendered.text, name


def test_an_empty_system_message_is_left_out(templates):
    chat, asked = templates[QWEN25], PLAIN[0].messages
    assert chat.prompt([{"role": "system", "content": " "}, *asked]) == chat.prompt(asked)
    assert "You are Qwen" in chat.prompt(asked)


def test_what_we_send_is_rendered_alike_by_all_three(templates):
    """Full-width spaces, contents that are null and arguments, as `ChatTemplate` prepares them."""
    edges = {one.name: one for one in EDGES}
    for name, chat in templates.items():
        asked = [edges[one] for one in (*SPACES, *CALLS) if one in SPACES or "tools" in chat.text]
        found = compare_engines(chat.exported(), "<s>", "</s>", [cleaned_by(chat, one) for one in asked])
        assert LLAMA_CPP_PYTHON not in {one.engine for one in found.partings}, (
            name,
            found.lines(),
        )  # it prints no None
        parted = {one.dialogue for one in found.partings}
        assert name in UNLIKE or not parted & {*SPACES}, (name, found.lines())
    assert "None" in compare_engines(templates["GLM-4.6"].text, "", "", [edges[CALLS[0]]]).lines()[0]  # as it came


def cleaned_by(chat: ChatTemplate, one: Dialogue) -> Dialogue:
    return replace(one, messages=[chat.clean(message) for message in one.messages], plain=not one.tools)
