"""Adapters that change a head along with the embeddings it is: merged once, and a merge that counts twice is caught."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from tests.certificate.certifying import certify, one_of
from tests.export.merging import run
from tests.model.kinds_of_lora import Example, make_lora
from tests.model.tiny_adapters import base_model, logits
from vicuna.train.trainable import copy_tokenizer

TIED = {
    "embeddings named": {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    "head named": {"target_modules": ["q_proj", "lm_head", "embed_tokens"], "ensure_weight_tying": True},
    "both replaced": {"modules_to_save": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    "rows": {"trainable_token_indices": [5, 500], "ensure_weight_tying": True},
}


@pytest.fixture
def texts(tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text(json.dumps({"instruction": "一年有几个季节？", "output": "四个。"}), encoding="utf-8")
    return {"texts": [str(file)], "prompt_type": "instruct"}


@pytest.mark.parametrize("name", TIED)
def test_a_head_that_is_the_embeddings_is_changed_once_and_stays_them(tied_base, tmp_path, texts, name):
    folder, expected = make_lora(tied_base, tmp_path / "lora", Example("", TIED[name]))
    merged = run(tied_base, folder, tmp_path / "merged", prompt_type="instruct")

    assert torch.allclose(logits(base_model(merged)), expected, atol=1e-5 * float(expected.abs().max()))
    assert json.loads((merged / "config.json").read_text(encoding="utf-8"))["tie_word_embeddings"]
    assert "lm_head.weight" not in load_file(merged / "model.safetensors")
    status, certificate = certify(tied_base, folder, [merged], tmp_path / "c.json", **texts)
    assert (status, one_of(certificate, merged)["verdict"]) == (0, "passed")


def test_the_certificate_fails_a_model_to_which_the_update_was_added_twice(tied_base, tmp_path, texts):
    """PEFT 0.21 adds that of the embeddings and that of the head to the one weight that both are."""
    folder, expected = make_lora(tied_base, tmp_path / "lora", Example("", TIED["embeddings named"]))
    twice = PeftModel.from_pretrained(base_model(tied_base), folder).merge_and_unload()
    twice.save_pretrained(tmp_path / "twice")
    copy_tokenizer(tied_base, tmp_path / "twice")
    assert not torch.allclose(logits(twice), expected, atol=0.1)

    status, certificate = certify(tied_base, folder, [tmp_path / "twice"], tmp_path / "c.json", **texts)

    assert (status, one_of(certificate, tmp_path / "twice")["verdict"]) == (1, "FAILED")
    assert any("KL divergence" in reason for reason in one_of(certificate, tmp_path / "twice")["reasons"])


@pytest.mark.parametrize("first", ["embeddings named", "head alone"])
def test_what_is_compared_with_counts_once_too_where_another_adapter_follows(tied_base, tmp_path, texts, first):
    settings = TIED.get(first, {"target_modules": ["q_proj", "lm_head"]})
    folders = [
        make_lora(tied_base, tmp_path / "first", Example("", settings))[0],
        make_lora(tied_base, tmp_path / "second", Example("", {"target_modules": ["v_proj", "o_proj"]}))[0],
    ]
    merged = run(tied_base, folders, tmp_path / "merged", prompt_type="instruct")

    status, certificate = certify(tied_base, folders, [merged], tmp_path / "c.json", **texts)

    assert (status, one_of(certificate, merged)["verdict"]) == (0, "passed")
