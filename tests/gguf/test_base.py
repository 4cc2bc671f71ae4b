"""A GGUF file as a base: config, tokenizer and weights are those of the file, and what can not be told is refused."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.gguf.byte_level_models import BLOCKS, HEADS, HIDDEN, ROOT, dequantised, drawn_tensors, write_gguf
from tests.gguf.gguf_models import ROPE, distance, drawn_ids, export, gguf_logits, hf_logits, hf_model, make_model
from vicuna.errors import UserError
from vicuna.files.tensors import bit_equal
from vicuna.gguf_file.folder import folder_of
from vicuna.model.base import check_base, fingerprint, load_base
from vicuna.model.base_tensors import read_base_tensors

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
IDS = [1, 40, 300, 7, 8, 9, 500, 33, 270, 271, 2, 1, 600, 44]


def opened(file, bits: int = 32):
    base = check_base(str(file))
    return base, load_base(base, bits).eval()


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_1", "Q4_0", "Q5_0"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_logits_are_those_of_llama_cpp(tmp_path, architecture, kind):
    """Against the dequantised weights: at quantised types llama.cpp rounds activations, too."""
    file = write_gguf(tmp_path / "x.gguf", architecture, kind=kind)
    base, model = opened(file)
    assert base.tokenizer.encode("a 12")
    assert base.config.model_type == architecture
    plain = dequantised(file, tmp_path / "plain.gguf")
    assert distance(hf_logits(model, IDS), gguf_logits(plain, IDS)) < 3e-5


def test_a_base_exported_by_us_is_the_same_base(tmp_path, tokenizer_model):
    """SentencePiece, an untied head, grouped keys: config, ids and every bit."""
    folder = make_model(tmp_path / "own", tokenizer_model, num_key_value_heads=2)
    file = export(folder, tmp_path / "own.gguf", "f32", prompt_type="chat")
    base, expected = check_base(str(file)), check_base(str(folder))
    found, wanted = (read_base_tensors(one.path, one.config) for one in (base, expected))
    assert found.keys() == wanted.keys()
    assert all(bit_equal(found[name], wanted[name]) for name in wanted)
    text = "你好  world\n</s> 12"
    assert base.tokenizer.encode(text) == expected.tokenizer.encode(text)
    assert base.tokenizer.beginning == expected.tokenizer.beginning == [1]
    assert base.generation_config.eos_token_id in (2, [2])
    assert (base.file, base.place, base.path.name) == (file, file, "own.gguf")


@pytest.mark.parametrize("biases", [False, True])
def test_rows_and_biases_of_queries_and_keys_are_put_back(tmp_path, tokenizer_model, biases):
    folder = make_model(tmp_path / "own", tokenizer_model, attention_bias=biases, mlp_bias=biases)
    _, model = opened(export(folder, tmp_path / "own.gguf", "f32"))
    ids = drawn_ids(1000, 50)
    assert torch.equal(hf_logits(model, ids), hf_logits(hf_model(folder), ids))


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3s_scaling_is_told_from_the_factors(tmp_path, tokenizer_model, factor):
    """The file keeps what they came to, not the settings."""
    rope = {**LLAMA3, "factor": factor, "original_max_position_embeddings": 8192, "rope_theta": 500000.0}
    config = {"hidden_size": 256, "num_attention_heads": 4, "max_position_embeddings": 131072}
    folder = make_model(tmp_path / "own", tokenizer_model, rope_parameters=rope, **config)
    base, _ = opened(export(folder, tmp_path / "own.gguf", "f32"))
    assert dict(base.config.rope_parameters) == rope
    assert base.context == 131072


def test_factors_of_another_rule_are_refused(tmp_path):
    size = HIDDEN // HEADS
    odd = drawn_tensors("llama") | {"rope_freqs.weight": np.linspace(1, 8, size // 2, dtype=np.float32)}
    with pytest.raises(UserError, match=r"slowed down by rope_freqs\.weight otherwise than Llama 3\.1"):
        check_base(str(write_gguf(tmp_path / "x.gguf", tensors=odd)))
    ones = drawn_tensors("llama") | {"rope_freqs.weight": np.ones(size // 2, dtype=np.float32)}
    base = check_base(str(write_gguf(tmp_path / "y.gguf", tensors=ones)))
    assert base.config.rope_parameters["rope_type"] == "default"


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_other_scalings_are_read_and_the_context_is_the_files(tmp_path, tokenizer_model, kind):
    rope = {"rope_type": kind, "factor": 4.0, **ROPE}
    rope |= {"original_max_position_embeddings": 128} if kind == "yarn" else {}
    folder = make_model(tmp_path / "own", tokenizer_model, rope_parameters=rope, max_position_embeddings=512)
    file = export(folder, tmp_path / "own.gguf", "f32")
    base, model = opened(file)
    assert {name: base.config.rope_parameters[name] for name in rope} == rope
    assert base.context == base.config.max_position_embeddings == {"linear": 2048, "yarn": 512}[kind]
    ids = drawn_ids(1000, 200)
    assert distance(hf_logits(model, ids), gguf_logits(file, ids)) < 3e-5


REFUSED = {
    "gemma3": ({}, r"is for the architecture gemma3.*expected one of llama, qwen2, qwen3"),
    "llama": ({"arch__expert_count": 8}, r"is a mixture of experts \(llama\)"),
    "qwen2": ({"arch__rope__scaling__type": "longrope"}, "scales its rotation by longrope"),
    "qwen3": ({"arch__rope__dimension_count": 4}, "of which 4 are rotated"),
}


@pytest.mark.parametrize("architecture", REFUSED)
def test_what_is_not_read_is_refused(tmp_path, architecture):
    keys, said = REFUSED[architecture]
    with pytest.raises(UserError, match=said):
        check_base(str(write_gguf(tmp_path / "x.gguf", architecture, **keys)))


def test_tensors_without_a_place_are_refused(tmp_path):
    tensors = drawn_tensors("llama") | {f"blk.{BLOCKS - 1}.ffn_gate_inp.weight": np.ones((4, HIDDEN), np.float32)}
    base = str(write_gguf(tmp_path / "x.gguf", tensors=tensors))
    with pytest.raises(UserError, match=r"1 tensors that this toolkit has no place for, such as blk\.1\.ffn_gate_inp"):
        read_base_tensors(check_base(base).path, check_base(base).config)


def test_two_files_in_one_folder_are_told_apart(tmp_path):
    one, other = (write_gguf(tmp_path / f"{kind}.gguf", kind=kind) for kind in ("Q4_0", "Q8_0"))
    marks = {fingerprint(check_base(str(file)).path) for file in (one, other)}
    assert len(marks) == 2
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(one, copy)
    assert fingerprint(check_base(str(copy / one.name)).path) in marks


def test_a_file_that_was_written_anew_is_read_anew(tmp_path):
    file = write_gguf(tmp_path / "x.gguf", tensors=drawn_tensors("llama", 1))
    before = read_base_tensors(check_base(str(file)).path, check_base(str(file)).config)["model.norm.weight"][...]
    write_gguf(file, "llama", kind="F16", tensors=drawn_tensors("llama", 2))
    after = read_base_tensors(check_base(str(file)).path, check_base(str(file)).config)["model.norm.weight"][...]
    assert not torch.equal(before, after)


def test_what_a_killed_program_left_is_removed_by_the_next(tmp_path, monkeypatch):
    """And not what another one has open."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    files = [write_gguf(tmp_path / f"{number}.gguf") for number in range(3)]
    killed = "import os, sys; from vicuna.gguf_file.folder import folder_of; print(folder_of(sys.argv[1])); "
    killed += "sys.stdout.flush(); os.kill(os.getpid(), 9)"
    done = subprocess.run(
        [sys.executable, "-c", killed, files[0]], env=os.environ | {"TMPDIR": str(tmp_path)}, cwd=ROOT,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    left = Path(done.stdout.strip())
    assert (left / "config.json").is_file(), done.stderr
    mine = folder_of(str(files[1]))
    assert not left.parent.exists()
    folder_of(str(files[2]))
    assert (mine / "config.json").is_file()


@pytest.mark.parametrize("dtype", ["file", "float16"])
def test_a_folder_of_a_file_opens_as_the_file_does(tmp_path, dtype):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tests.export.tool_models import tool

    file, out = write_gguf(tmp_path / "x.gguf", "qwen2", "qwen2", "Q8_0"), tmp_path / "out"
    tool("convert_gguf").main([str(file), str(out), "--dtype", dtype])
    base, model = opened(file)
    made = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    assert distance(hf_logits(made, IDS), hf_logits(model, IDS)) <= (0 if dtype == "file" else 1e-2)
    hf, text = AutoTokenizer.from_pretrained(out), "1. 你好 <think> 2023"
    assert hf(text)["input_ids"] == base.tokenizer.encode(text)
    settings = json.loads((out / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert (settings["tokenizer_class"], settings["add_bos_token"]) == ("PreTrainedTokenizerFast", False)
    assert json.loads((out / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"] == [2, 0, 3]
    assert "<|im_start|>" in (out / "chat_template.jinja").read_text(encoding="utf-8")
    again = check_base(str(out))
    assert again.tokenizer.encode(text) == base.tokenizer.encode(text)
    assert again.file is None
    if dtype == "file":  # rounded to 8 bits on their way from either
        assert torch.equal(hf_logits(load_base(again, 8), IDS), hf_logits(load_base(base, 8), IDS))
