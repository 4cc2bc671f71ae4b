"""Bases' own chat templates everywhere: some hundred random dialogues have the same prompt ids on every path.

For each vocabulary that llama.cpp's sources hold, with a template of its family, for SmolLM2 with its own, and for
templates without such a vocabulary; what is compared with what, and the command for 10,000 dialogues of each:
benchmarks/fuzz_templates.py.
"""

from collections import Counter

import pytest

pytest.importorskip("gguf", reason="gguf is not installed: bash scripts/install_cpp.sh")
pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: bash scripts/install_cpp.sh")

from fuzz_templates import Base, Outcome, compare_template, plan
from lent_vocabulary import LENT, lend_vocabulary
from template_engines import published_templates

from vicuna.gguf.llama_cpp_source import source_folder
from vicuna.gguf_file.header import read_header

COUNT = 200


pytestmark = pytest.mark.usefixtures("template_engine")


def same_everywhere(found: Outcome, count: int) -> None:
    assert found.other == Counter(), found.examples
    assert found.compared + found.refused == count
    assert found.refused <= count / 20
    assert found.typed > count / 20  # names of control tokens among them


@pytest.mark.parametrize(
    ("vocabulary", "template"),
    [
        ("qwen2", "Qwen-Qwen2.5-7B-Instruct"),
        ("qwen35", "Qwen3.5-4B"),
        ("llama-bpe", "meta-llama-Llama-3.2-3B-Instruct"),
        ("phi-3", "microsoft-Phi-3.5-mini-instruct"),
        ("deepseek-llm", "deepseek-ai-DeepSeek-V3.1"),
        ("command-r", "CohereForAI-c4ai-command-r7b-12-2024-tool_use"),
        ("gemma-4", "google-gemma-4-31B-it"),
        ("tekken", "mistralai-Mistral-Nemo-Instruct-2407"),
        ("lent", "HuggingFaceTB-SmolLM3-3B"),
        ("lent", "GLM-4.6"),
        ("lent", "Kimi-K3"),
    ],
)
def test_real_vocabularies_have_the_same_ids_everywhere(vocabulary, template):
    (text,) = [text for owner, name, text, _ in plan("") if (owner, name) == (vocabulary, template)]
    same_everywhere(compare_template(vocabulary, template, text, range(COUNT)), COUNT)


def test_smollm2_has_the_same_ids_everywhere(smollm2_gguf):
    same_everywhere(compare_template("smollm2", "SmolLM2", "", range(COUNT), smollm2_gguf), COUNT)


def test_other_ids_are_seen(tmp_path):
    """A vocabulary whose texts are cut otherwise in the folder than in the file, as a wrong guess would have it."""
    template = published_templates()["Qwen-Qwen2.5-7B-Instruct"]
    keys = read_header(source_folder() / f"models/ggml-vocab-{LENT}.gguf").keys
    lent = lend_vocabulary(keys, template, "smollm", tmp_path / "lent.gguf")
    (tmp_path / "base").mkdir()
    base = Base(tmp_path / "lent.gguf", {**lent, "tokenizer.ggml.pre": "gpt-2"}, template, tmp_path / "base")
    found = Outcome("lent", "Qwen2.5")
    base.compare(range(COUNT), "empty", found)
    assert set(found.other) == {"llama.cpp"}
    assert 0 < found.other["llama.cpp"] < COUNT
