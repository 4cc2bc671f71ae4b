"""Models that several files of tests ask, made once a file: the tiny base, adapters on it, and GGUF files."""

from pathlib import Path

import pytest

from tests.answer.adapters import make_adapter
from tests.answer.gguf_assistants import POEMS, PROMPTS, opened
from tests.gguf.gguf_models import export
from vicuna.answer.assistant import Assistant
from vicuna.answer.flags import ServeFlags
from vicuna.answer.loading import load_assistant
from vicuna.model.flags import ModelFlags


@pytest.fixture(scope="module")
def assistant(tiny_base):
    return load_assistant(ModelFlags(model_path=str(tiny_base), bits=32), ServeFlags())


@pytest.fixture
def prompt_ids(assistant):
    return assistant.prompt_ids([{"role": "user", "content": "春天的花有哪些？"}])


@pytest.fixture(scope="module")
def adapters(tiny_base, tmp_path_factory) -> dict[str, Path]:
    """Three adapters: one with dots in its name, one of all modules, one with embeddings and head of its own."""
    root = tmp_path_factory.mktemp("adapters")
    return {
        "lora.v1.0": make_adapter(tiny_base, root / "lora.v1.0", 1, "chat"),
        "all": make_adapter(tiny_base, root / "all", 2, r=4, target_modules="all-linear"),
        "whole": make_adapter(
            tiny_base, root / "whole", 3, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]
        ),
    }


@pytest.fixture(scope="module")
def hf_folders(shared, tiny_base) -> dict[str, Path]:
    return {name: shared / f"models/{name}-hf" for name in PROMPTS} | {"tiny": tiny_base}


@pytest.fixture(scope="module")
def exported(hf_folders, tmp_path_factory):
    """exported("stories260K", "f32"): the file, made once."""
    made: dict[tuple[str, str], Path] = {}
    place = tmp_path_factory.mktemp("gguf")

    def get(name: str, kind: str = "f32") -> Path:
        if (name, kind) not in made:
            made[name, kind] = export(hf_folders[name], place / f"{name}-{kind}.gguf", kind, prompt_type="text")
        return made[name, kind]

    return get


@pytest.fixture(scope="module")
def tiny(exported) -> Assistant:
    return opened(exported("tiny"))


@pytest.fixture(scope="module")
def poems(exported, shared, tmp_path_factory) -> Assistant:
    """The poem model with a real adapter at two types."""
    place = tmp_path_factory.mktemp("adapters")
    base, lora = shared / "models/poem-zh-750k-hf", str(shared / POEMS / "peft-safetensors")
    adapters = [
        export(base, place / f"poems-{kind}.gguf", kind, lora_path=lora, prompt_type="text") for kind in ("f32", "f16")
    ]
    return opened(exported("poem-zh-750k"), *adapters)
