"""Adapters as GGUF files on that of their base: the logits of base + adapter, or refused."""

from pathlib import Path

import pytest
import torch

from tests.gguf.gguf_models import (
    BOUNDS,
    distance,
    drawn_ids,
    export,
    gguf_logits,
    hf_logits,
    hf_model,
    make_adapter,
    make_model,
)
from vicuna.errors import UserError
from vicuna.gguf_file.reader import read_gguf


def with_adapter(base: Path, folder: Path, ids: list[int]) -> torch.Tensor:
    from peft import PeftModel

    return hf_logits(PeftModel.from_pretrained(hf_model(base), folder).eval(), ids)


ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    "query and value": {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
    "every layer, ranks and alphas of their own": {
        "r": 4, "lora_alpha": 8, "target_modules": ALL,
        "rank_pattern": {"k_proj": 2, "layers.1.self_attn.q_proj": 6}, "alpha_pattern": {"down_proj": 32},
    },
    "rank-stabilised": {"r": 4, "lora_alpha": 8, "target_modules": ALL, "use_rslora": True},
    "head": {"r": 4, "lora_alpha": 8, "target_modules": ["lm_head", "k_proj"]},
}  # fmt: skip


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_on_its_base_has_the_logits_of_base_and_adapter(tmp_path, tokenizer_model, name):
    base = make_model(tmp_path / "hf", tokenizer_model, num_key_value_heads=2)
    folder = make_adapter(base, tmp_path / "adapter", **ADAPTERS[name])
    ids = drawn_ids(1800, 60)

    file = export(base, tmp_path / "base.gguf", "f32")
    adapter = export(base, tmp_path / "a.gguf", "f32", lora_path=str(folder))

    alone, expected = gguf_logits(file, ids), with_adapter(base, folder, ids)
    assert distance(gguf_logits(file, ids, lora_path=str(adapter)), expected) < BOUNDS["f32"]
    assert distance(alone, expected) > 0.05


@pytest.mark.parametrize("layout", ["peft-safetensors", "peft-bin", "checkpoint-200"])
def test_real_adapters_of_every_layout(shared, tmp_path, capsys, layout):
    base = shared / "models/poem-zh-750k-hf"
    folder = shared / "lora/poem-zh-lora-generated/r8-qv" / layout
    ids = drawn_ids(2048, 60)

    file = export(base, tmp_path / "base.gguf", "f32")
    adapter = export(base, tmp_path / "a.gguf", "f32", lora_path=str(folder))

    expected = with_adapter(base, folder.parent / "peft-safetensors", ids)
    assert distance(gguf_logits(file, ids, lora_path=str(adapter)), expected) < BOUNDS["f32"]
    assert read_gguf(str(adapter), "--lora_path").keys["adapter.lora.alpha"] == 16
    assert f"llama-server --model BASE.gguf --lora {adapter}\n" in capsys.readouterr().out
    assert not (tmp_path / "a.Modelfile").exists()  # Ollama refuses one with ADAPTER since 0.34.1


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
            r"modules_to_save: llama\.cpp's adapters have no place .*merge it",
        ),
        ({"target_modules": ["q_proj"], "use_dora": True}, r"use_dora: llama\.cpp's adapters have no place for that"),
    ],
)
def test_an_adapter_with_more_than_lora_is_refused(tmp_path, tokenizer_model, config, said):
    base = make_model(tmp_path / "hf", tokenizer_model)
    folder = make_adapter(base, tmp_path / "adapter", **config)

    with pytest.raises(UserError, match=said):
        export(base, tmp_path / "a.gguf", "f32", lora_path=str(folder))


def test_an_adapter_of_another_base_is_refused(shared, tmp_path):
    with pytest.raises(UserError, match="was trained on a base whose"):
        export(
            shared / "models/stories260K-hf", tmp_path / "a.gguf", "f32",
            lora_path=str(shared / "lora/poem-zh-lora-generated/r8-qv/peft-safetensors"),
        )  # fmt: skip


def test_the_head_of_tied_embeddings_takes_no_adapter(tmp_path, tokenizer_model):
    base = make_model(tmp_path / "hf", tokenizer_model, tie_word_embeddings=True)
    folder = make_adapter(base, tmp_path / "adapter", target_modules=["lm_head"])

    with pytest.raises(UserError, match=r"has lm_head, for which llama\.cpp's adapters have no place"):
        export(base, tmp_path / "a.gguf", "f32", lora_path=str(folder))
