"""Written folders say what they are in the words of older programs too, and lose nothing for today's."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from vicuna.model.openable import copy_tokenizer, make_openable

SIZES = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "max_position_embeddings": 128}
SIZES["original_max_position_embeddings"] = 32
PLAIN = {"rope_type": "default", "rope_theta": 5e5}
LLAMA_3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA_3["original_max_position_embeddings"] = 32
LINEAR = {"rope_type": "linear", "factor": 4.0}
LONG = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}


def settings_of(folder: Path, name: str = "config.json") -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def meaning(folder: Path) -> dict:
    """What this version reads in a config; an older spelling of a field is none of its own."""
    read = AutoConfig.from_pretrained(folder).to_dict()
    read["rope_parameters"] = {name: one for name, one in read["rope_parameters"].items() if name != "type"}
    return {name: one for name, one in read.items() if name not in ("rope_theta", "partial_rotary_factor")}


@pytest.mark.parametrize(
    ("kind", "rope", "older"),
    [
        ("llama", PLAIN, {"rope_theta": 5e5, "rope_scaling": None}),
        ("llama", {**LLAMA_3, "rope_theta": 5e5}, {"rope_theta": 5e5, "rope_scaling": LLAMA_3}),
        ("mistral", {**LINEAR, "rope_theta": 1e4}, {"rope_theta": 1e4, "rope_scaling": LINEAR}),
        ("qwen2", PLAIN, {"rope_theta": 5e5, "rope_scaling": None}),
        ("qwen3_moe", PLAIN, {"rope_theta": 5e5, "num_experts": 128, "num_local_experts": 128}),
        ("phi3", {**PLAIN, "partial_rotary_factor": 0.5}, {"rope_theta": 5e5, "partial_rotary_factor": 0.5}),
        (
            "phi3",
            {**LONG, "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 32},
            {"rope_scaling": {"type": "longrope", **LONG}, "original_max_position_embeddings": 32},
        ),
        ("gpt_neox", {**PLAIN, "partial_rotary_factor": 0.5}, {"rotary_emb_base": 5e5, "rotary_pct": 0.5}),
        (
            "gemma3_text",
            {"full_attention": {**LINEAR, "rope_theta": 1e6}, "sliding_attention": PLAIN},
            {"rope_theta": 1e6, "rope_local_base_freq": 5e5, "rope_scaling": LINEAR},
        ),
    ],
)
def test_older_programs_read_the_same_rotation_and_today_s_read_what_they_did(tmp_path, kind, rope, older):
    AutoConfig.for_model(kind, **SIZES, rope_parameters=rope, dtype="bfloat16").save_pretrained(tmp_path)
    assert "rope_theta" not in settings_of(tmp_path)  # else the function is not needed any more
    before = meaning(tmp_path)

    make_openable(tmp_path)

    written = settings_of(tmp_path)
    assert {name: written.get(name) for name in older} == older
    assert (written["dtype"], written["torch_dtype"]) == ("bfloat16", "bfloat16")
    assert meaning(tmp_path) == before


def test_what_every_program_opens_stays_byte_for_byte(tiny_base, tmp_path):
    text = '{"model_type":"llama","rope_theta":10000.0,\n\n"torch_dtype":"float16"}'
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    shutil.copyfile(tiny_base / "tokenizer_config.json", tmp_path / "tokenizer_config.json")

    make_openable(tmp_path)

    assert (tmp_path / "config.json").read_text(encoding="utf-8") == text
    assert (tmp_path / "tokenizer_config.json").read_bytes() == (tiny_base / "tokenizer_config.json").read_bytes()


def test_a_tokenizer_saved_by_transformers_5_gets_a_class_that_older_versions_have(tiny_base, tmp_path):
    base = tmp_path / "base"
    saved = PreTrainedTokenizerFast.from_pretrained(tiny_base, extra_special_tokens=["▁的", "▁我"])
    saved.save_pretrained(base)
    assert settings_of(base, "tokenizer_config.json")["tokenizer_class"] == "TokenizersBackend"

    (copy := tmp_path / "copy").mkdir()
    copy_tokenizer(base, copy)

    written = settings_of(copy, "tokenizer_config.json")
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "backend" not in written
    assert "extra_special_tokens" not in written  # a list, where transformers 4 expects names
    assert written["additional_special_tokens"] == ["▁的", "▁我"]
    again = AutoTokenizer.from_pretrained(copy)
    assert again("你好，世界")["input_ids"] == saved("你好，世界")["input_ids"]
    assert again.all_special_ids == saved.all_special_ids


def test_only_known_files_are_taken_along_and_of_links_only_what_they_should_be(tmp_path, capsys):
    cache = tmp_path / "models--a--b"
    base = cache / "snapshots" / "1"
    base.mkdir(parents=True)
    (cache / "blobs").mkdir()
    (cache / "blobs" / "3f").write_text("{{ messages }}", encoding="utf-8")
    (base / "chat_template.jinja").symlink_to(cache / "blobs" / "3f")  # as the hub's cache has it
    (tmp_path / "merges.txt").write_text("a b\n", encoding="utf-8")
    (base / "merges.txt").symlink_to(tmp_path / "merges.txt")
    (tmp_path / "key").write_text("secret", encoding="utf-8")
    (base / "vocab.json").symlink_to(tmp_path / "key")
    (base / "added_tokens.json").symlink_to("nowhere")
    (base / "tokenizer_own.py").write_text("raise SystemExit\n", encoding="utf-8")
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}", encoding="utf-8")
    (copy := tmp_path / "copy").mkdir()

    copy_tokenizer(base, copy)

    found = sorted(str(file.relative_to(copy)) for file in copy.rglob("*") if file.is_file())
    assert found == ["additional_chat_templates/tools.jinja", "chat_template.jinja", "merges.txt"]
    assert not any(file.is_symlink() for file in copy.rglob("*"))
    assert (copy / "chat_template.jinja").read_text(encoding="utf-8") == "{{ messages }}"
