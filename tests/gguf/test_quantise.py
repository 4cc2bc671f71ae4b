"""Quantised by llama.cpp's own library: near the folder's logits, and what got another type is named."""

import sys
from pathlib import Path

import gguf
import pytest

from tests.gguf.gguf_models import distance, drawn_ids, export, gguf_logits, hf_logits, hf_model, make_model
from vicuna.errors import UserError
from vicuna.gguf.ends import ordered_ends
from vicuna.gguf.writer import quantise, undivided_tensors, write_gguf
from vicuna.gguf_file.reader import read_gguf_model
from vicuna.model.base import check_base

# For random weights, hidden size 256: a trained model loses far less.
QUANTISED_BOUNDS = {"q8_0": 0.08, "q6_k": 0.3, "q5_k_m": 0.45, "q4_k_m": 0.8, "q4_0": 1.0}


@pytest.fixture(scope="module")
def wide(tmp_path_factory, tokenizer_model) -> Path:
    """Hidden 256, so that every type's blocks fit."""
    return make_model(
        tmp_path_factory.mktemp("wide") / "wide", tokenizer_model,
        hidden_size=256, intermediate_size=768, num_attention_heads=8, num_key_value_heads=4, initializer_range=0.06,
    )  # fmt: skip


@pytest.mark.parametrize("kind", QUANTISED_BOUNDS)
def test_llama_cpp_quantises_without_a_fallback_where_blocks_fit(wide, tmp_path, capsys, kind):
    file = export(wide, tmp_path / "x.gguf", kind, strict=True)

    ids = drawn_ids(1800, 60)
    assert distance(gguf_logits(file, ids), hf_logits(hf_model(wide), ids)) < QUANTISED_BOUNDS[kind]
    types = read_gguf_model(str(file)).types
    assert types["blk.0.attn_q.weight"] == kind.removesuffix("_m").upper()
    printed = capsys.readouterr().out
    for name in ("token_embd.weight", "output.weight"):
        assert any(line.split() == [name, types[name]] for line in printed.splitlines())
    assert file.stat().st_size < 0.35 * (wide / "model.safetensors").stat().st_size
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []


def test_types_that_differ_between_blocks_are_printed_with_their_blocks(wide, tmp_path, capsys):
    file = export(wide, tmp_path / "x.gguf", "q4_k_m")

    types = read_gguf_model(str(file)).types
    expected = [types[f"blk.{block}.attn_v.weight"] for block in (0, 1)]
    (line,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith("blk.*.attn_v.weight")]
    assert set(expected) == {"Q4_K", "Q6_K"}
    assert all(f"{kind} ({block})" in line for block, kind in enumerate(expected))


def test_a_fallback_is_named_and_fails_under_strict(tmp_path, tokenizer_model, capsys):
    folder = make_model(tmp_path / "hf", tokenizer_model, intermediate_size=72)
    file = export(folder, tmp_path / "x.gguf", "q8_0")

    found = read_gguf_model(str(file))
    names = undivided_tensors(found.shapes, "q8_0")
    assert {name: found.types[name] for name in names} == {f"blk.{i}.ffn_down.weight": "F16" for i in (0, 1)}
    assert (
        "2 tensors have rows that q8_0 can not divide into its blocks: blk.0.ffn_down.weight F16"
        in capsys.readouterr().err
    )
    with pytest.raises(UserError, match=r"blk\.0\.ffn_down\.weight, .*Nothing was written"):
        export(folder, tmp_path / "y.gguf", "q8_0", strict=True)
    assert not (tmp_path / "y.gguf").exists()


def test_a_k_type_falls_back_where_rows_are_narrow(tmp_path, tokenizer_model):
    folder = make_model(tmp_path / "hf", tokenizer_model)

    with pytest.raises(UserError, match="tensors have rows that q4_k_m can not divide"):
        export(folder, tmp_path / "x.gguf", "Q4_K_M", strict=True)


def test_q8_0_is_written_without_llama_cpp_bit_by_bit_as_it_would(wide, tmp_path, monkeypatch):
    base = check_base(str(wide))
    ours, plain, theirs = (tmp_path / f"{name}.gguf" for name in ("ours", "plain", "theirs"))
    write_gguf(base, plain, "", "instruct", "", ordered_ends(base, "instruct"))
    quantise(plain, theirs, "q8_0", 1)
    monkeypatch.setitem(sys.modules, "llama_cpp", None)  # as if it were not installed
    export(wide, ours, "q8_0", prompt_type="instruct")
    read = [gguf.GGUFReader(file) for file in (ours, theirs)]
    tensors = [{one.name: (one.tensor_type, bytes(one.data)) for one in reader.tensors} for reader in read]
    assert tensors[0] == tensors[1]
    assert sum(kind == gguf.GGMLQuantizationType.Q8_0 for kind, _ in tensors[0].values()) > 10
    versions = [reader.get_field("general.quantization_version").contents() for reader in read]
    assert versions[0] == versions[1]
