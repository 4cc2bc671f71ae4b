"""What quantising a real model costs: little at 8 bits, less than by rounding, more on a text of another language."""

import json
import math
from functools import cache

import pytest
import torch

from tests.quantise.quantising import loss_of, mean_loss, quantise, rows_of
from vicuna.model.base import check_base, load_base
from vicuna.model.config import linear_layers

LENGTH = 96


@pytest.fixture(scope="module")
def poems(shared) -> str:
    """Chinese poems that the model was not trained on."""
    found = json.loads((shared / "lora/poem-zh-lora-generated/eval_texts.json").read_text(encoding="utf-8"))
    return "\n".join(one if isinstance(one, str) else one["text"] for one in found)


@pytest.fixture(scope="module")
def model(shared):
    return shared / "models/poem-zh-750k-hf"


@pytest.fixture(scope="module")
def calibration(poems, tmp_path_factory):
    """The first half of the poems as a file."""
    file = tmp_path_factory.mktemp("poems") / "poems.txt"
    file.write_text(poems[: len(poems) // 2], encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def rows(model, poems) -> list[list[int]]:
    """Of the second half."""
    return rows_of(model, poems[len(poems) // 2 :], LENGTH)[:24]


@pytest.fixture(scope="module")
def quantised(model, calibration, tmp_path_factory):
    """bits, text -> the model quantised on it."""
    folder = tmp_path_factory.mktemp("real")

    @cache
    def make(bits: int, text=calibration):
        return quantise(model, folder / f"{bits}-{text.stem}", text, wbits=bits, nsamples=24, seqlen=LENGTH)

    return make


def rounded_loss(model, rows: list[list[int]], bits: int, group: int) -> float:
    """Of the model with every weight rounded to the nearest of the same symmetric steps."""
    base = check_base(str(model))
    rounded = load_base(base, 32).eval()
    top = 2 ** (bits - 1)
    for name in linear_layers(base.config):
        weight = rounded.get_submodule(name).weight
        groups = weight.data.reshape(len(weight), -1, group)
        scale = groups.abs().amax(-1, keepdim=True) * 2 / (2 * top - 1)
        steps = torch.round(groups / scale).clamp(-top, top - 1)
        weight.data = (steps * scale.half().float()).reshape(weight.shape)
    return mean_loss(rounded, rows)


def test_what_bits_cost_on_a_real_model(model, rows, quantised):
    plain = loss_of(model, rows)
    lost = {bits: loss_of(quantised(bits), rows) - plain for bits in (8, 4, 3, 2)}

    assert abs(math.expm1(lost[8])) < 0.005
    assert lost[8] < lost[4] < lost[3] < lost[2]
    assert lost[4] < rounded_loss(model, rows, 4, 32) - plain


def test_calibration_in_the_models_own_language_is_better(model, rows, quantised, shared, tmp_path):
    english = tmp_path / "english.txt"
    source = shared / "text/wikitext-2/valid.txt"
    english.write_text(source.read_text(encoding="utf-8")[:40000], encoding="utf-8")

    assert loss_of(quantised(3), rows) < loss_of(quantised(3, english), rows)


def test_a_model_whose_rows_no_group_divides_is_quantised_by_whole_rows(shared, tmp_path):
    stories = shared / "models/stories260K-hf"
    text = tmp_path / "story.txt"
    text.write_text("Once upon a time there was a little girl named Lily. She liked to play in the park. " * 60)
    quantised = quantise(stories, tmp_path / "whole", text, wbits=8, groupsize=-1)
    rows = rows_of(stories, text.read_text(encoding="utf-8")[:800])

    assert abs(math.expm1(loss_of(quantised, rows) - loss_of(stories, rows))) < 0.005
