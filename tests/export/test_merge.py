"""Merging: base + adapter in one model, exactly, whatever the adapter, the base's files and their precision."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from tests.export.merging import ALL_MODULES, as_defined, make_adapter, near, peft_logits, run
from tests.export.tool_models import equal, logits, tensors_of
from vicuna.errors import UserError
from vicuna.model.base import load_kwargs

PATTERNS = {
    "target_modules": ALL_MODULES,
    "rank_pattern": {"layers.1.self_attn.q_proj": 2, "down_proj": 6},
    "alpha_pattern": {"k_proj": 32, "layers.0.mlp.up_proj": 3},
    "use_rslora": True,
}


@pytest.mark.parametrize("name", ["peft-safetensors", "peft-bin", "checkpoint-200"])
def test_the_real_adapter_of_any_age_is_base_and_adapter(shared, tmp_path, name):
    base = shared / "models/poem-zh-750k-hf"
    real = shared / "lora/poem-zh-lora-generated/r8-qv"
    if name == "checkpoint-200":  # of 2023: without a config, whose alpha is then the sample's
        shutil.copytree(real / name, tmp_path / name)
        shutil.copyfile(real / "peft-bin/adapter_config.json", tmp_path / name / "adapter_config.json")
        source = tmp_path / name
    else:
        source = real / name
    output = run(base, source, tmp_path / "merged", prompt_type="text")

    expected = peft_logits(base, real / "peft-safetensors")
    assert near(logits(output), expected)
    assert not near(logits(base), expected)


CONFIGS = {
    "all seven modules": {"target_modules": ALL_MODULES},
    "patterns and rslora": PATTERNS,
    "embeddings and head": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "a low-rank head": {"target_modules": ["q_proj", "lm_head"]},
    "low-rank embeddings": {"target_modules": ["embed_tokens", "o_proj"]},
    "fan_in_fan_out": {"fan_in_fan_out": True},
    "some layers": {"layers_to_transform": [1], "target_modules": ALL_MODULES},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_merged_logits_are_those_of_base_and_adapter(base, tmp_path, name):
    folder = make_adapter(base, tmp_path / "adapter", **CONFIGS[name])
    output = run(base, folder, tmp_path / "merged")

    expected = peft_logits(base, folder)
    assert near(logits(output), expected)
    assert not near(logits(base), expected)


TIED = {
    "all seven modules": ({"target_modules": ALL_MODULES}, True),
    "embeddings that stay tied": ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, True),
    "embeddings alone": ({"modules_to_save": ["embed_tokens"]}, False),
    "embeddings and head apart": ({"modules_to_save": ["embed_tokens", "lm_head"]}, False),
    "a low-rank head": ({"target_modules": ["q_proj", "lm_head"]}, False),
}


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("name", TIED)
def test_a_tied_head_stays_tied_only_while_it_is_the_embeddings(tied, tmp_path, name):
    config, stays = TIED[name]
    folder = make_adapter(tied, tmp_path / "adapter", **config)
    output = run(tied, folder, tmp_path / "merged")

    assert near(logits(output), peft_logits(tied, folder))
    assert json.loads((output / "config.json").read_text(encoding="utf-8"))["tie_word_embeddings"] is stays
    assert ("lm_head.weight" not in tensors_of(output)) is stays


@pytest.mark.parametrize("dtype", ["base", "float16", "float32", "bfloat16"])
def test_every_tensor_is_added_up_in_float32_and_cast_once(half, tmp_path, dtype):
    first = make_adapter(half, tmp_path / "a", 1, target_modules=ALL_MODULES)
    second = make_adapter(half, tmp_path / "b", 2, modules_to_save=["embed_tokens", "lm_head"])
    output = run(half, [first, second], tmp_path / "merged", dtype=dtype)

    wanted = None if dtype == "base" else getattr(torch, dtype)
    assert equal(tensors_of(output), as_defined(half, wanted, first, second))
    saved = json.loads((output / "config.json").read_text(encoding="utf-8"))["dtype"]
    assert saved == ("bfloat16" if dtype == "base" else dtype)


def test_bits_do_not_depend_on_how_a_tensor_is_divided(half, adapter, tmp_path, monkeypatch):
    whole = tensors_of(run(half, adapter, tmp_path / "whole"))
    monkeypatch.setattr("vicuna.files.tensors.BLOCK_ELEMENTS", 1000)

    assert equal(tensors_of(run(half, adapter, tmp_path / "blocks")), whole)


def test_adapters_are_applied_in_order_and_of_what_they_replace_the_last_counts(base, tmp_path):
    first = make_adapter(base, tmp_path / "a", 1, modules_to_save=["embed_tokens", "lm_head"])
    second = make_adapter(base, tmp_path / "b", 2, modules_to_save=["embed_tokens", "lm_head"])
    forward = tensors_of(run(base, [first, second], tmp_path / "ab"))
    back = tensors_of(run(base, [second, first], tmp_path / "ba"))

    name = "base_model.model.lm_head.weight"
    assert torch.equal(forward["lm_head.weight"], load_file(second / "adapter_model.safetensors")[name])
    assert torch.equal(back["lm_head.weight"], load_file(first / "adapter_model.safetensors")[name])
    assert near(logits(tmp_path / "ab"), peft_logits(base, first, second))


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_base_is_dequantised_and_what_it_lost_is_said(base, adapter, tmp_path, capsys, bits):
    import bitsandbytes as bnb

    model = LlamaForCausalLM.from_pretrained(base, device_map={"": "cpu"}, **load_kwargs(bits, torch.bfloat16))
    weights = {}
    for name, layer in model.named_modules():
        if isinstance(layer, bnb.nn.Linear8bitLt):
            weights[f"{name}.weight"] = layer.weight.CB.float() * layer.weight.SCB[:, None] / 127
        elif isinstance(layer, bnb.nn.Linear4bit):
            weights[f"{name}.weight"] = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    model.save_pretrained(tmp_path / "base")
    for file in base.glob("tokenizer*"):
        shutil.copyfile(file, tmp_path / "base" / file.name)
    output = run(tmp_path / "base", adapter, tmp_path / "merged", dtype="float32")

    merged, config = tensors_of(output), json.loads((output / "config.json").read_text(encoding="utf-8"))
    name = "model.layers.1.mlp.up_proj.weight"
    saved = load_file(adapter / "adapter_model.safetensors")
    up, down = (saved[f"base_model.model.{name.replace('weight', one)}.weight"] for one in ("lora_B", "lora_A"))
    assert len(weights) == 14
    assert torch.allclose(merged[name], weights[name].float() + up @ down * 4, rtol=1e-6, atol=1e-7)
    assert "quantization_config" not in config
    assert "is quantised: what that took from its weights is not given back" in capsys.readouterr().err
    assert torch.isfinite(logits(output)).all()


def test_a_gptq_base_is_refused(base, adapter, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    file = tmp_path / "base/config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    quantised = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    file.write_text(json.dumps({**config, "quantization_config": quantised}), encoding="utf-8")

    with pytest.raises(UserError, match=r"is quantised with gptq, whose weights can not be changed"):
        run(tmp_path / "base", adapter, tmp_path / "out")


@pytest.mark.parametrize("kind", ["pytorch_model.bin", "two .bin", "two .safetensors"])
def test_the_files_of_the_base_make_no_difference(half, adapter, tmp_path, kind):
    source = tmp_path / "base"
    shutil.copytree(half, source)
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    if kind == "pytorch_model.bin":
        torch.save({**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, source / kind)
    else:
        stem, suffix = ("pytorch_model", ".bin") if kind == "two .bin" else ("model", ".safetensors")
        names = {name: f"{stem}-0000{1 + i % 2}-of-00002{suffix}" for i, name in enumerate(tensors)}
        for file in set(names.values()):
            (torch.save if suffix == ".bin" else save_file)(
                {name: tensors[name] for name in names if names[name] == file}, source / file
            )
        (source / f"{stem}{suffix}.index.json").write_text(json.dumps({"weight_map": names}), encoding="utf-8")

    assert equal(tensors_of(run(source, adapter, tmp_path / "out")), as_defined(half, None, adapter))


def test_large_models_are_written_in_files_of_two_gibibytes_with_an_index(half, adapter, tmp_path, monkeypatch):
    monkeypatch.setattr("vicuna.files.tensors.SHARD_BYTES", 150_000)
    output = run(half, adapter, tmp_path / "out")

    files = sorted(file.name for file in output.glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert len(files) > 2
    assert equal(tensors_of(output), as_defined(half, None, adapter))
    assert torch.isfinite(logits(output)).all()  # transformers finds its way by the index


def test_values_that_float16_can_not_hold_are_refused_with_their_place(base, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name][3, 5] = 65000.0
    save_file(tensors, tmp_path / "base/model.safetensors", metadata={"format": "pt"})
    folder = make_adapter(base, tmp_path / "adapter", target_modules=["down_proj"])
    saved = load_file(folder / "adapter_model.safetensors")
    saved[f"base_model.model.{name.replace('weight', 'lora_B.weight')}"][3] = 500.0
    saved[f"base_model.model.{name.replace('weight', 'lora_A.weight')}"][:, 5] = 1.0
    save_file(saved, folder / "adapter_model.safetensors")

    with pytest.raises(
        UserError, match=rf"{name} has values up to 7\.\d+e\+04, and float16 ends at 6\.55e\+04: pass --dtype bfloat16"
    ):
        run(tmp_path / "base", folder, tmp_path / "half", dtype="float16")
    assert not (tmp_path / "half").exists()
    run(tmp_path / "base", folder, tmp_path / "merged", dtype="bfloat16")
