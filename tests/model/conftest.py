"""A saved adapter and copies of it and of the tiny base, which a test may spoil."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.model.tiny_adapters import base_model, logits, new_adapter
from vicuna.model.adapter import load_adapter, save_adapter


@pytest.fixture(scope="session")
def saved(tiny_base, tmp_path_factory) -> Path:
    """A saved adapter; do not write to it."""
    folder = tmp_path_factory.mktemp("saved") / "adapter"
    save_adapter(new_adapter(tiny_base), folder)
    return folder


@pytest.fixture(scope="session")
def expected(tiny_base, saved) -> torch.Tensor:
    """Logits of the tiny base with the saved adapter."""
    return logits(load_adapter(base_model(tiny_base), saved, "tiny")[0])


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    """A copy of the saved adapter that a test may spoil."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.fixture
def edit_config(copy) -> Callable[..., Path]:
    """Change fields of the copy's adapter_config.json."""

    def change(**fields: object) -> Path:
        file = copy / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | fields), encoding="utf-8")
        return copy

    return change


@pytest.fixture
def base_copy(tiny_base, tmp_path) -> Path:
    """A copy of the tiny base that a test may spoil."""
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


@pytest.fixture
def edit_base(base_copy) -> Callable[..., Path]:
    """Change fields of a JSON file of the copy; a field set to None is removed."""

    def change(name: str, **fields: object) -> Path:
        file = base_copy / name
        content = json.loads(file.read_text(encoding="utf-8")) | fields
        content = {key: value for key, value in content.items() if value is not None}
        file.write_text(json.dumps(content), encoding="utf-8")
        return base_copy

    return change


@pytest.fixture(scope="session")
def wide_base(tiny_base, tmp_path_factory) -> Path:
    """One block of hidden size 64, a whole quantisation block: what bitsandbytes can repack."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("wide") / "base"
    folder.mkdir()
    shutil.copy(tiny_base / "tokenizer.model", folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1800, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4,
        max_position_embeddings=128, initializer_range=0.2, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
