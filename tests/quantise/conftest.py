"""A base that is as sure as a trained one, quantised once by every kind; do not write to them."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from certificate_bounds import confident_llama

from tests.quantise.quantising import KINDS, quantise
from vicuna.model.openable import make_openable

for _name in ("gptqmodel", "optimum"):
    pytest.importorskip(_name, reason="GPTQModel is not installed: bash scripts/install_gptq.sh")


@pytest.fixture(scope="session")
def base(tiny_base, tmp_path_factory) -> Path:
    """Two blocks; rows of 128 and 256, which every group divides."""
    folder = tmp_path_factory.mktemp("plain") / "base"
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
    confident_llama(folder, tiny_base, **sizes)
    make_openable(folder)
    return folder


@pytest.fixture(scope="session")
def quantised(base, tmp_path_factory) -> Callable[[str], Path]:
    """quantised(kind): the base quantised so; see `KINDS`."""
    folder = tmp_path_factory.mktemp("quantised")
    return cache(lambda kind: quantise(base, folder / kind.replace(" ", "-"), **KINDS[kind]))
