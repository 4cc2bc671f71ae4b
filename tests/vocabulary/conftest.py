"""What the tests of vocabularies share: the published tokenizers merged in both ways, and lines to try them on."""

import importlib.util
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import sentencepiece_model_pb2

from tests.conftest import ROOT
from vicuna.args import parse
from vicuna.errors import UserError
from vicuna.vocabulary.flags import TextFlags
from vicuna.vocabulary.texts import Texts
from vicuna.vocabulary.training import train_sentencepiece

MERGE = "tools/merge_tokenizers.py"


@pytest.fixture(scope="session")
def real_texts(shared: Path) -> dict[str, list[str]]:
    """Real lines that are not blank, Chinese ones and English ones."""
    records = json.loads((shared / "instruct/llama-factory/alpaca_zh_demo.json").read_text(encoding="utf-8"))
    texts = [row[name] for row in records for name in ("instruction", "input", "output")]
    english = (shared / "text/wikitext-2/valid.txt").read_text(encoding="utf-8")
    return {
        "chinese": [line for text in texts for line in text.split("\n") if line.strip()],
        "english": [line for line in english.split("\n") if line.strip()],
    }


@pytest.fixture(scope="session")
def merged(program, shared, tmp_path_factory) -> Callable[[str], tuple[Path, subprocess.CompletedProcess]]:
    """The published tokenizers merged with --pad in a mode, and what the tool said; once for each."""
    made: dict[str, tuple[Path, subprocess.CompletedProcess]] = {}

    def merge(mode: str) -> tuple[Path, subprocess.CompletedProcess]:
        if mode not in made:
            folder = tmp_path_factory.mktemp("merged") / mode
            texts = ["instruct/llama-factory/alpaca_zh_demo.json", "text/wikitext-2/valid.txt"]
            done = program(
                MERGE,
                *("--llama_tokenizer_dir", shared / "tokenizers/llama"),
                *("--chinese_sp_model_file", shared / "tokenizers/chinese_sp/chinese_sp.model"),
                *("--output_dir", folder, "--mode", mode, "--pad"),
                *("--data_path", *(shared / name for name in texts)),
                timeout=120,
            )
            assert done.returncode == 0, done.stderr
            made[mode] = (folder, done)
        return made[mode]

    return merge


@pytest.fixture(scope="session")
def sample_lines() -> list[str]:
    """The lines of the sample's texts."""
    return list(Texts(TextFlags()))


@pytest.fixture(scope="session")
def sample_model(sample_lines) -> Any:
    """A SentencePiece model of 3,000 pieces from the sample's texts; do not change it."""
    return sentencepiece_model_pb2.ModelProto.FromString(train_sentencepiece(sample_lines, 3000))


@pytest.fixture
def refused(capsys) -> Callable[..., str]:
    """What a tool says when it refuses its flags, run in this process."""

    def run(tool: str, *groups: str, argv: list[object]) -> str:
        spec = importlib.util.spec_from_file_location(tool, ROOT / f"tools/{tool}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        with pytest.raises((UserError, SystemExit)) as ended:
            module.main(*parse("", *(getattr(module, group) for group in groups), argv=[str(word) for word in argv]))
        return capsys.readouterr().err if isinstance(ended.value, SystemExit) else str(ended.value)

    return run
