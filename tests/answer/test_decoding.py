"""Which setting wins: a flag, a preset, what the base declares, our default."""

import pytest
from transformers import (
    GenerationConfig,
)

from tests.answer.modes import BARE
from vicuna.answer.decoding import generation_kwargs
from vicuna.answer.flags import DecodingFlags


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.1}),
        ({"temperature": 0.5}, {"do_sample": True, "temperature": 0.5}),
        ({"top_k": 5}, {"do_sample": True, "top_k": 5}),
        ({"temperature": 0.0}, {"do_sample": False}),
        ({"temperature": 0.0, "top_p": 0.5}, {"do_sample": False}),
        ({"preset": "balanced"}, {"do_sample": True, "temperature": 0.7}),
        ({"preset": "balanced", "temperature": 0.0}, {"do_sample": False}),
        ({"preset": "balanced", "do_sample": False}, {"do_sample": False}),
        ({"preset": "original", "num_beams": 2}, {"num_beams": 2, "repetition_penalty": 2.0, "do_sample": False}),
        ({"repetition_penalty": 1.5, "preset": "beam"}, {"num_beams": 4, "repetition_penalty": 1.5}),
        ({"max_new_tokens": 3, "min_new_tokens": 9}, {"max_new_tokens": 3, "min_new_tokens": 3}),
    ],
)
def test_a_flag_wins_over_the_preset_and_the_preset_over_the_default(given, expected):
    chosen = generation_kwargs(DecodingFlags(**given), BARE)
    assert {name: chosen[name] for name in expected} == expected
    if not chosen["do_sample"]:
        assert not {"temperature", "top_p", "top_k"} & set(chosen)


def test_what_the_base_declares_stands_between_the_preset_and_the_default():
    base = GenerationConfig(max_new_tokens=33, repetition_penalty=1.7, top_k=7)
    chosen = generation_kwargs(DecodingFlags(preset="precise"), base)
    assert chosen["max_new_tokens"] == 33  # the preset leaves it open
    assert chosen["repetition_penalty"] == 1.1  # the preset's
    assert generation_kwargs(DecodingFlags(max_new_tokens=5, temperature=0.5), base)["max_new_tokens"] == 5
    assert generation_kwargs(DecodingFlags(temperature=0.5), base)["top_k"] == 7


def test_whole_numbers_are_numbers_to_whatever_looks_at_them(assistant, prompt_ids):
    declared = GenerationConfig(temperature=2, top_p=1)
    chosen = generation_kwargs(DecodingFlags(do_sample=True, repetition_penalty=2, max_new_tokens=3), declared)
    assert list(assistant.stream(prompt_ids, chosen, seed=1))[-1].finish
