"""The folder of a vocabulary: the SentencePiece model, what other programs read in its place, and how it was made."""

import json
from pathlib import Path
from typing import Any

from vicuna import __version__

TOKENIZER_MODEL = "tokenizer.model"
FACTS = "vocabulary.json"


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Write how a vocabulary was made: flags, files with their hashes, counts, versions."""
    from importlib.metadata import version

    versions = {"chinese-vicuna": __version__, "sentencepiece": version("sentencepiece")}
    text = json.dumps({**facts, "versions": versions}, ensure_ascii=False, indent=2)
    (folder / FACTS).write_text(text + "\n", encoding="utf-8")
