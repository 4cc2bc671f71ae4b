"""Adapters on one base that change the same module each in its own way: every one answers as it does alone."""

from itertools import permutations

import pytest
import torch

from tests.answer.adapters import loaded
from tests.model.kinds_of_lora import Example, make_lora
from tests.model.tiny_adapters import base_model, logits
from vicuna.answer import loading
from vicuna.errors import UserError
from vicuna.model.adapters_together import arrange

SETTINGS = {
    "plain": {},
    "dora": {"use_dora": True, "target_modules": ["lm_head", "v_proj"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "saved": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "norms": {"modules_to_save": ["norm"]},
    "o-saved": {"modules_to_save": ["o_proj"]},
    "o-proj": {"target_modules": ["o_proj"]},
    "tokens": {"trainable_token_indices": [5, 500]},
    "more-tokens": {"trainable_token_indices": [7, 300, 500]},
    "head-tokens": {"trainable_token_indices": {"lm_head": [1300, 3]}},
    "tied": {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    "also-tied": {"target_modules": ["v_proj", "lm_head", "embed_tokens"], "ensure_weight_tying": True},
}


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """lora(base, "head"): folder of an adapter, and the logits that it gives alone."""
    made = {}

    def make(base, name):
        if (base, name) not in made:
            folder = tmp_path_factory.mktemp("lora") / name
            made[base, name] = make_lora(base, folder, Example("", SETTINGS[name]))
        return made[base, name]

    return make


def assert_each_answers_as_alone(base, adapters):
    assistant = loaded(base, [folder for folder, _ in adapters])
    expected = {folder.name: alone for folder, alone in adapters} | {"": logits(base_model(base))}
    for name, alone in expected.items():
        with assistant.engine._using(name):
            assert torch.allclose(logits(assistant.engine.model), alone, atol=1e-5 * float(alone.abs().max())), name


@pytest.mark.parametrize("names", permutations(["plain", "head", "saved"]), ids=" ".join)
def test_three_adapters_of_which_one_adds_to_the_head_and_one_replaces_it(tiny_base, lora, names):
    assert_each_answers_as_alone(tiny_base, [lora(tiny_base, name) for name in names])


TOGETHER = [
    ("head", "dora", "embeddings", "saved", "head-tokens", "tokens", "plain"),
    ("tokens", "plain"),  # PEFT looks for rows of the first in the second
    ("head-tokens", "tokens", "more-tokens"),
    ("more-tokens", "embeddings"),
    ("tokens", "saved", "norms"),
    ("o-saved", "o-proj"),
    ("o-proj", "o-saved", "head"),
]


@pytest.mark.parametrize("names", [*TOGETHER, *(one[::-1] for one in TOGETHER)], ids=" ".join)
def test_whatever_adapters_do_to_a_module_each_answers_as_alone(tiny_base, lora, names):
    assert_each_answers_as_alone(tiny_base, [lora(tiny_base, name) for name in names])


TIED = [
    ("head", "tied"),
    ("tied", "also-tied"),
    ("norms", "o-saved", "saved"),
    ("tokens", "more-tokens"),
    ("tokens", "head"),
]


@pytest.mark.parametrize("names", [*TIED, *(one[::-1] for one in TIED)], ids=" ".join)
def test_adapters_on_a_head_that_is_the_embeddings_answer_as_alone(tied_base, lora, names):
    assert_each_answers_as_alone(tied_base, [lora(tied_base, name) for name in names])


@pytest.mark.parametrize(
    "names",
    [*permutations(["plain", "head", "saved"]), ("saved", "tokens"), ("head", "tokens", "more-tokens")],
    ids=" ".join,
)
def test_adapters_that_can_not_share_a_tied_head_are_refused_before_the_base_is_loaded(
    tied_base, lora, names, monkeypatch
):
    folders = [lora(tied_base, name)[0] for name in names]
    monkeypatch.setattr(loading, "load_base", lambda *asked, **more: pytest.fail("the base is loaded"))
    with pytest.raises(UserError, match=r"the adapters \S+ and \S+ each have embeddings of their own"):
        loaded(tied_base, folders)


def test_pissa_on_a_head_that_is_the_embeddings_is_refused(tied_base, tmp_path):
    settings = {"target_modules": ["q_proj", "lm_head"], "init_lora_weights": "pissa"}
    folder, _ = make_lora(tied_base, tmp_path / "pissa", Example("", settings))

    with pytest.raises(UserError, match=r"has no lm_head\.weight of its own, or uses it as its embeddings too"):
        loaded(tied_base, [folder])


def test_only_what_is_changed_in_several_ways_is_replaced():
    prefix = "base_model.model.model.layers.0.self_attn"
    low, whole = f"{prefix}.q_proj.lora_A.weight", f"{prefix}.q_proj.weight"
    other = f"{prefix}.v_proj.lora_A.weight"

    assert arrange([[low, other], [low], [other]]).whole == frozenset()
    assert arrange([[low, other], [whole]]).whole == {"model.layers.0.self_attn.q_proj"}
