"""Every test here needs the packages that scripts/install_cpp.sh installs."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def packages() -> None:
    """Skip without them."""
    for name, package in (("gguf", "gguf"), ("llama_cpp", "llama-cpp-python")):
        pytest.importorskip(name, reason=f"{package} is not installed: bash scripts/install_cpp.sh")


@pytest.fixture(scope="session")
def tokenizer_model(tiny_base) -> Path:
    return tiny_base / "tokenizer.model"
