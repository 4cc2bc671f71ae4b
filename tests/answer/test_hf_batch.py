"""Prompts answered at once: each as it is answered alone, whatever stands beside it."""

import dataclasses
import threading

import pytest
import torch
from transformers import GenerationConfig

from tests.answer.adapters import GREEDY, SAMPLING, SEARCH, loaded
from tests.answer.modes import long_ids
from vicuna.answer.assistant import Assistant
from vicuna.answer.engine import GenerationRequest
from vicuna.answer.hf_batch import can_share_a_batch
from vicuna.answer.stream import OUT_OF_MEMORY, Update
from vicuna.errors import UserError

LENGTHS = (3, 40, 41, 7, 300, 1)
PENALISED = {"min_new_tokens": 1, "max_new_tokens": 24, "repetition_penalty": 1.5}
MODES = {
    "greedy": {**GREEDY, **PENALISED},
    "plain greedy": {**GREEDY, **PENALISED, "repetition_penalty": 1.0},
    "sampling": {**SAMPLING, **PENALISED},
    "sampling by default": {**GREEDY, **PENALISED, "do_sample": True},
    "sampling of all": {**GREEDY, **PENALISED, "do_sample": True, "top_k": 0, "temperature": 2.0},
    "beam search": {**SEARCH, **PENALISED},
}


def prompts(assistant: Assistant) -> list[list[int]]:
    """Of several lengths, none of which is the beginning of another."""
    words = long_ids(assistant, 1 + sum(LENGTHS))[1:]
    return [[assistant.tokenizer.bos_id, *words[sum(LENGTHS[:i]) :][:n]] for i, n in enumerate(LENGTHS)]


def alone(assistant: Assistant, ids: list[int], chosen: dict, seed: int) -> Update:
    *_, last = assistant.stream(ids, chosen, seed)
    return last


def told(update: Update) -> tuple:
    return update.beams[0].ids, update.text, update.tokens, update.finish, update.cut_character


def assert_as_alone(assistant: Assistant, rows: list[list[int]], chosen: dict) -> list[Update]:
    seeds = list(range(5, 5 + len(rows)))
    found = assistant.answer(rows, chosen, seeds)
    expected = [alone(assistant, ids, chosen, seed) for ids, seed in zip(rows, seeds, strict=True)]
    assert list(map(told, found)) == list(map(told, expected))
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["base", "lora.v1.0", "whole"])
def test_every_row_is_answered_as_it_is_alone(tiny_base, adapters, kind, mode):
    assistant = loaded(tiny_base, [] if kind == "base" else [adapters[kind]], cache_gib=0)
    assert assistant.engine.answers_together(MODES[mode]) == (mode != "beam search")

    found = assert_as_alone(assistant, prompts(assistant), MODES[mode])

    assert len({told(one)[1] for one in found}) > 2
    if "all" in mode:  # draws differ by row, also of equal prompts
        same = assistant.answer([prompts(assistant)[1]] * 3, MODES[mode], [1, 2, 1])
        assert told(same[0]) == told(same[2]) != told(same[1])


@pytest.mark.parametrize("name", ["stories260K", "babyllama-tok105", "poem-zh-750k"])
@pytest.mark.parametrize("mode", ["greedy", "plain greedy", "sampling"])
def test_a_trained_model_ends_each_row_where_it_ends_alone(shared, name, mode):
    texts = {"poem-zh-750k": ["题：春日\n", "题：送友人\n青山横北郭，", "题：夜\n", "题：雨\n"]}.get(
        name, ["Once upon a time", "Lily", 'The big red dog said, "I am hungry and tired."', "He was"]
    )
    assistant = loaded(shared / f"models/{name}-hf", [], cache_gib=0)
    tokenizer = assistant.tokenizer
    rows = [[tokenizer.bos_id, *tokenizer.encode(text)] for text in texts]

    found = assert_as_alone(assistant, rows, {**MODES[mode], "max_new_tokens": 150})

    assert {one.finish for one in found} <= {"eos", "length"}


def test_a_row_near_the_end_of_the_context_ends_there_and_the_others_go_on(tiny_base):
    assistant = loaded(tiny_base, [], cache_gib=0)
    rows = [long_ids(assistant, 507), long_ids(assistant, 20), long_ids(assistant, 500)]

    found = assert_as_alone(assistant, rows, GREEDY)

    assert [one.tokens for one in found] == [5, 16, 12]
    assert [one.finish_reason for one in found] == ["length"] * 3
    with pytest.raises(UserError, match="the prompt has 512 tokens, the base's context is 512"):
        assistant.answer([rows[1], long_ids(assistant, 512)], GREEDY, [None, None])


def test_an_answer_ends_by_any_of_the_ids_that_the_base_declares(tiny_base):
    assistant = loaded(tiny_base, [], cache_gib=0)
    rows, never_twice = prompts(assistant), {**MODES["greedy"], "repetition_penalty": 10.0}
    usual = assistant.answer(rows, never_twice, [None] * len(rows))
    ends = usual[0].beams[0].ids[3], usual[2].beams[0].ids[7]
    for declared in ([2, *ends], ends[0], ends[1]):  # padding with one of them is not to be penalised
        assistant.engine.model.generation_config.eos_token_id = declared
        found = assert_as_alone(assistant, rows, never_twice)
        assert {one.finish for one in found} == {"eos", "length"}


@pytest.mark.parametrize(
    ("declared", "shares"),
    [
        ({"temperature": 0.6, "top_p": 0.9, "do_sample": True, "max_length": 4096, "pad_token_id": 0}, True),
        ({"suppress_tokens": [5], "transformers_version": "4.31.0.dev0"}, True),
        ({"no_repeat_ngram_size": 3}, False),
        ({"min_length": 10}, False),
        ({"min_p": 0.1, "do_sample": True}, True),
        ({"typical_p": 0.5}, False),
        ({"guidance_scale": 1.5}, False),
    ],
)
def test_settings_that_look_at_a_whole_row_leave_it_alone(declared, shares):
    assert can_share_a_batch(GenerationConfig(**declared), GREEDY) == shares
    assert not can_share_a_batch(GenerationConfig(**declared), SEARCH)


def test_a_text_that_ends_answers_ends_only_its_own(tiny_base):
    assistant = loaded(tiny_base, [], cache_gib=0)
    rows = prompts(assistant)[:3]
    texts = [one.text for one in assistant.answer(rows, GREEDY, [None] * 3)]
    request = GenerationRequest(rows[0], GREEDY, stops=[texts[0][2:4]])

    found = assistant.engine.answer([request, *(dataclasses.replace(request, prompt_ids=ids) for ids in rows[1:])])

    assert found[0].text == texts[0][: texts[0].index(texts[0][2:4])]
    assert found[0].finish == "stop"


def test_all_rows_end_at_the_next_token_once_they_are_stopped(tiny_base):
    assistant = loaded(tiny_base, [], cache_gib=0)
    stop, steps = threading.Event(), []

    def hook(module, args, output) -> None:
        steps.append(args[0].shape)
        if len(steps) == 4:
            stop.set()

    handle = assistant.engine.model.get_input_embeddings().register_forward_hook(hook)
    found = assistant.engine.answer([GenerationRequest(ids, GREEDY, stop=stop) for ids in prompts(assistant)])
    handle.remove()

    assert [one.tokens for one in found] == [4] * len(LENGTHS)
    assert {one.finish for one in found} == {"stopped"}
    assert steps[1:] == [torch.Size([len(LENGTHS), 1])] * 3


def test_a_lack_of_memory_is_a_sentence(tiny_base):
    assistant = loaded(tiny_base, [], cache_gib=0)
    handle = assistant.engine.model.model.layers[1].register_forward_pre_hook(lambda *_: torch.empty(1 << 50))
    with pytest.raises(UserError) as failed:
        assistant.answer(prompts(assistant), GREEDY, [None] * len(LENGTHS))
    handle.remove()
    assert str(failed.value) == OUT_OF_MEMORY
