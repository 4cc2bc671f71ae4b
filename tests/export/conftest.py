"""Small bases and an adapter of random values; nobody writes to them."""

from pathlib import Path

import pytest
import torch

from tests.export.merging import ALL_MODULES, make_adapter
from tests.export.tool_models import random_llama


@pytest.fixture(scope="session")
def base(tiny_base, tmp_path_factory) -> Path:
    """A float32 LLaMA with grouped heads and an untied head; do not write to it."""
    return random_llama(tmp_path_factory.mktemp("bases") / "float32", tiny_base)


@pytest.fixture(scope="session")
def half(tiny_base, tmp_path_factory) -> Path:
    """The same shape in bfloat16; do not write to it."""
    return random_llama(tmp_path_factory.mktemp("bases") / "bfloat16", tiny_base, torch.bfloat16)


@pytest.fixture(scope="session")
def tied(tiny_base, tmp_path_factory) -> Path:
    """A LLaMA that ties its head to the embeddings; do not write to it."""
    return random_llama(tmp_path_factory.mktemp("bases") / "tied", tiny_base, tie_word_embeddings=True)


@pytest.fixture(scope="session")
def adapter(base, tmp_path_factory) -> Path:
    """All seven modules; do not write to it."""
    return make_adapter(base, tmp_path_factory.mktemp("adapters") / "seven", target_modules=ALL_MODULES)
