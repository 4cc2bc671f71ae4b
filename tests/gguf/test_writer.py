"""GGUF files have the logits of the folder they were made of, whatever its shape and its files, or are not written."""

import shutil

import pytest
import torch

from tests.gguf.gguf_models import (
    BOUNDS,
    REAL,
    ROPE,
    change_config,
    distance,
    drawn_ids,
    export,
    gguf_logits,
    hf_logits,
    hf_model,
    make_model,
)
from vicuna.errors import UserError
from vicuna.gguf.model_file import is_written_here
from vicuna.gguf_file.reader import read_gguf_model
from vicuna.model.base import check_base

SHAPES = {
    "plain": {},
    "grouped heads, tied head": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 2},
    "wide heads": {"head_dim": 16, "num_key_value_heads": 1},
    "rope theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
    "rope linear": {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 4.0}},
    "rope dynamic": {"rope_parameters": {**ROPE, "rope_type": "dynamic", "factor": 4.0}},
    "rope yarn": {
        "rope_parameters": {**ROPE, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    },
    "rope llama3": {
        "rope_parameters": {
            **ROPE, "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        }
    },
    "epsilon": {"rms_norm_eps": 1e-3},
}  # fmt: skip
ROUNDED = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


@pytest.mark.parametrize("kind", BOUNDS)
@pytest.mark.parametrize("name", REAL)
def test_the_logits_of_a_real_model_are_those_of_its_folder(shared, tmp_path, name, kind):
    folder = shared / f"models/{name}-hf"
    model = hf_model(folder, ROUNDED[kind])
    ids = drawn_ids(model.config.vocab_size, 100)

    file = export(folder, tmp_path / "x.gguf", kind)

    assert distance(gguf_logits(file, ids), hf_logits(model, ids)) < BOUNDS[kind]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_logits_are_those_of_the_folder_for_every_shape(tmp_path, tokenizer_model, shape):
    folder = make_model(tmp_path / "hf", tokenizer_model, **SHAPES[shape])
    ids = drawn_ids(1800)

    file = export(folder, tmp_path / "x.gguf", "f32")

    assert distance(gguf_logits(file, ids), hf_logits(hf_model(folder), ids)) < BOUNDS["f32"]


def test_a_model_in_shards_and_in_16_bits_is_the_same(tmp_path, tokenizer_model):
    folder = make_model(tmp_path / "hf", tokenizer_model, dtype=torch.bfloat16)
    shards = tmp_path / "shards"
    shards.mkdir()
    shutil.copy(tokenizer_model, shards)
    hf_model(folder, torch.bfloat16).to(torch.bfloat16).save_pretrained(shards, max_shard_size="100KB")
    assert len(list(shards.glob("model-*.safetensors"))) > 2

    whole, parts = (export(one, tmp_path / f"{one.name}.gguf", "bf16") for one in (folder, shards))

    ids = drawn_ids(1800, 20)
    assert torch.equal(gguf_logits(whole, ids), gguf_logits(parts, ids))
    assert read_gguf_model(str(parts)).types["token_embd.weight"] == "BF16"


def test_weights_of_2023_in_a_bin_file_are_read(tmp_path, tokenizer_model):
    folder = make_model(tmp_path / "hf", tokenizer_model)
    old = tmp_path / "old"
    shutil.copytree(folder, old)
    (old / "model.safetensors").unlink()
    state = hf_model(folder).state_dict()
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # as LLaMA's first conversions had it
    torch.save(state, old / "pytorch_model.bin")

    files = [export(one, tmp_path / f"{one.name}.gguf", "f32") for one in (folder, old)]

    assert torch.equal(*(gguf_logits(file, drawn_ids(1800, 20)) for file in files))


def test_a_model_that_bitsandbytes_keeps_is_taken_as_what_it_stands_for(tmp_path, tokenizer_model, capsys):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    folder = make_model(tmp_path / "hf", tokenizer_model)
    kept = tmp_path / "int8"
    settings = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings, device_map={"": "cpu"})
    model.save_pretrained(kept)
    shutil.copy(tokenizer_model, kept)

    file = export(kept, tmp_path / "x.gguf", "f32")

    ids = drawn_ids(1800, 40)
    assert 0 < distance(gguf_logits(file, ids), hf_logits(hf_model(folder), ids)) < 0.05
    assert "is kept at 8 bits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "is quantised with gptq, from which"),
        ({"hidden_act": "gelu"}, "computes with gelu"),
        ({"rope_parameters": {**ROPE, "rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 256,
                              "attention_factor": 1.3}}, "RoPE scaling"),
        ({"intermediate_size": 65}, r"is \(64, 32\), but \(65, 32\) follows from config\.json"),
        ({"num_hidden_layers": 3}, "says num_hidden_layers 3, and the weights beside it have 2"),
    ],
)  # fmt: skip
def test_what_can_not_become_a_gguf_is_refused(tmp_path, tokenizer_model, values, said):
    folder = make_model(tmp_path / "hf", tokenizer_model)
    change_config(folder, **values)

    with pytest.raises(UserError, match=said):
        export(folder, tmp_path / "out/x.gguf", "f32")
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_another_architecture_is_not_written_here(tmp_path, tokenizer_model):
    """It is the converter's, see tests/gguf/test_converter.py."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=1800, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    GPTNeoXForCausalLM(config).save_pretrained(tmp_path / "hf")
    shutil.copy(tokenizer_model, tmp_path / "hf")

    assert not is_written_here(check_base(str(tmp_path / "hf")))


def test_a_folder_without_tokenizer_model_is_refused(tmp_path, tiny_base):
    shutil.copytree(tiny_base, tmp_path / "hf")
    (tmp_path / "hf/tokenizer.model").unlink()

    with pytest.raises(UserError, match=r"has no tokenizer\.model, of which the GGUF's vocabulary is made"):
        export(tmp_path / "hf", tmp_path / "x.gguf", "f32")


@pytest.mark.parametrize(("value", "kind"), [(1e5, "f16"), (float("nan"), "f32")])
def test_weights_that_the_type_can_not_hold_are_refused(tmp_path, tokenizer_model, value, kind):
    from safetensors.torch import load_file, save_file

    folder = make_model(tmp_path / "hf", tokenizer_model)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 3] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})

    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.up_proj\.weight .* not finite, or too large for"):
        export(folder, tmp_path / "x.gguf", kind)
    assert [file.name for file in tmp_path.iterdir()] == ["hf"]
