"""A small model that is as sure of its next token as a trained one, an adapter for it, and a few texts."""

from pathlib import Path

import pytest
from certificate_bounds import confident_llama, few_texts, strong_adapter


@pytest.fixture(scope="session")
def texts(tmp_path_factory) -> Path:
    return few_texts(tmp_path_factory.mktemp("texts") / "texts.jsonl")


@pytest.fixture(scope="session")
def base(tiny_base, tmp_path_factory) -> Path:
    """Hidden 256, FFN 768, grouped heads, an untied head; do not write to it."""
    return confident_llama(tmp_path_factory.mktemp("bases") / "base", tiny_base)


@pytest.fixture(scope="session")
def adapter(base, tmp_path_factory) -> Path:
    """All seven modules, of several ranks; do not write to it."""
    patterns = {"rank_pattern": {"layers.1.self_attn.q_proj": 2, "down_proj": 6}}
    return strong_adapter(base, tmp_path_factory.mktemp("adapters") / "seven", **patterns)
