"""A base with several adapters: what each is called and asked with, and why some are refused before the model loads."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.answer.adapters import GREEDY, PROMPTS, answer, loaded, make_adapter
from vicuna.errors import UserError
from vicuna.model.base import check_base, load_base
from vicuna.pages.strings import STRINGS


def test_switching_the_adapter_switches_the_template(tiny_base, adapters):
    types = {name: choice.prompt_type for name, choice in loaded(tiny_base, adapters.values()).choices.items()}
    assert types == {"lora.v1.0": "chat", "all": "instruct", "whole": "instruct", "": "chat"}
    asked = loaded(tiny_base, adapters.values(), prompt_type="bot").choices.values()
    assert {choice.prompt_type for choice in asked} == {"bot"}


def test_a_base_trained_as_a_whole_keeps_its_own_template(tiny_base, adapters, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    for file in tiny_base.iterdir():
        (own / file.name).symlink_to(file)
    (own / "run_args.json").write_text(json.dumps({"prompt_type": "text", "step": 3}), encoding="utf-8")
    assistant = loaded(own, [adapters["lora.v1.0"]])
    assert assistant.choices[""].prompt_type == assistant.choices[""].trained_as == "text"
    assert assistant.first.prompt_type == "chat"
    assert "prompt text" in assistant.status(STRINGS["en"]["status"], "")


def test_the_status_line_says_that_an_adapter_was_trained_at_other_bits(tiny_base, adapters, tmp_path):
    at_four, as_now = (
        ("(step 3, r 8, trained at 4 bits)", "(第 3 步，秩 8，以 4 位训练)"),
        ("(step 3, r 8)", "(第 3 步，秩 8)"),
    )
    for bits, said in ((4, at_four), (32, as_now)):
        adapter = Path(shutil.copytree(adapters["lora.v1.0"], tmp_path / str(bits)))
        known = {"prompt_type": "chat", "step": 3, "flags": {"bits": bits}}
        (adapter / "run_args.json").write_text(json.dumps(known), encoding="utf-8")
        assistant = loaded(tiny_base, [adapter])
        assert said[0] in assistant.status(STRINGS["en"]["status"])
        assert said[1] in (told := assistant.status(STRINGS["zh"]["status"], language="zh-CN"))
        assert "32 位，float32 · 在 CPU 上" in told


def test_adapters_in_folders_of_one_name_are_told_apart(tiny_base, adapters, tmp_path):
    places = [tmp_path / "a/x/lora", tmp_path / "b/x/lora", tmp_path / "b/y/lora", tmp_path / "c/other.v2"]
    for place in places:
        shutil.copytree(adapters["all"], place)
    assistant = loaded(tiny_base, [f"{places[0]}/", *places[1:]])
    assert list(assistant.choices) == ["a/x/lora", "b/x/lora", "y/lora", "other.v2", ""]


def test_an_adapter_given_twice_is_refused(tiny_base, adapters):
    with pytest.raises(UserError, match=r"names the adapter .* twice; give each adapter once"):
        loaded(tiny_base, [adapters["all"], adapters["whole"], f"{adapters['all']}/../all"])


def test_an_adapter_of_another_vocabulary_is_refused_before_the_model_loads(tiny_base, adapters, tmp_path):
    grown = Path(shutil.copytree(adapters["whole"], tmp_path / "grown"))
    tensors = load_file(grown / "adapter_model.safetensors")
    tensors = {
        name: torch.cat([value, value[:16]]) if "embed_tokens" in name or "lm_head" in name else value
        for name, value in tensors.items()
    }
    save_file(tensors, grown / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"holds a lm_head of \(1816, 32\), but in .* it is \(1800, 32\)"):
        loaded(tiny_base, [adapters["all"], grown])


def test_two_adapters_with_embeddings_of_their_own_share_no_base_that_ties_them(tiny_base, adapters, tmp_path):
    tied = Path(shutil.copytree(tiny_base, tmp_path / "tied"))
    model = load_base(check_base(str(tied)), 32)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tied)
    own = {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
    places = [make_adapter(tied, tmp_path / name, seed, **own) for seed, name in enumerate(("one", "two"))]
    places.append(make_adapter(tied, tmp_path / "plain", 5))
    for pair in (places[1:], [places[2], places[0]]):  # beside an adapter without them it works
        both = loaded(tied, pair)
        for place in pair:
            alone = answer(loaded(tied, [place]), None, PROMPTS[0], GREEDY)
            assert answer(both, place.name, PROMPTS[0], GREEDY) == alone
    with pytest.raises(UserError, match="adapters one and two each have embeddings of their own, and tied uses its"):
        loaded(tied, places)
