"""Two small models with the same weights in two formats, an adapter for both, and a text."""

import json
from pathlib import Path

import pytest
from certificate_bounds import confident_llama, strong_adapter, to_gguf

from tests.certificate.certifying import CPP

TEXT = "春天来了，花都开了。小河从山上流下来，一直流到海里。\n\nThe quick fox runs.\n\n第三段很短。"


@pytest.fixture(scope="session")
def base(tiny_base, tmp_path_factory) -> Path:
    """Hidden 256, FFN 768, grouped heads, an untied head; do not write to it."""
    return confident_llama(tmp_path_factory.mktemp("bases") / "base", tiny_base)


@pytest.fixture(scope="session")
def adapter(base, tmp_path_factory) -> Path:
    """All seven modules, of several ranks, trained as instruct; do not write to it."""
    patterns = {"rank_pattern": {"layers.1.self_attn.q_proj": 2, "down_proj": 6}}
    return strong_adapter(base, tmp_path_factory.mktemp("adapters") / "seven", **patterns)


@pytest.fixture(scope="session")
def ggufs(base, adapter, tmp_path_factory) -> dict[str, Path]:
    """The base in f32 and q8_0, and the adapter."""
    if not CPP:
        pytest.skip("llama-cpp-python is not installed: bash scripts/install_cpp.sh")
    folder = tmp_path_factory.mktemp("ggufs")
    made = {kind: to_gguf(base, folder / f"{kind}.gguf", kind) for kind in ("f32", "q8_0")}
    lora = {"lora_path": str(adapter), "prompt_type": "instruct"}
    return made | {"adapter": to_gguf(base, folder / "adapter.gguf", "f32", **lora)}


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    """Some 700 tokens of plain text, more than a context."""
    file = tmp_path_factory.mktemp("text") / "plain.txt"
    file.write_text("\n\n".join([TEXT] * 10), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def records(tmp_path_factory) -> Path:
    """Instruction records, whose responses differ in length."""
    file = tmp_path_factory.mktemp("records") / "records.jsonl"
    rows = [{"instruction": f"数到{n}。", "input": "", "output": "，".join("一二三四五六"[:n])} for n in range(1, 7)]
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return file
