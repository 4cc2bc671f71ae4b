"""The folder of a vocabulary: the SentencePiece model, found and hashed, and how it was made, in words and numbers."""

import hashlib
import json
from pathlib import Path
from typing import Any

from vicuna import __version__
from vicuna.errors import UserError, listing
from vicuna.foreign.paths import regular_files

TOKENIZER_MODEL = "tokenizer.model"
FACTS = "vocabulary.json"


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Write how a vocabulary was made: flags, files with their hashes, counts, versions."""
    from importlib.metadata import version

    versions = {"chinese-vicuna": __version__, "sentencepiece": version("sentencepiece")}
    text = json.dumps({**facts, "versions": versions}, ensure_ascii=False, indent=2)
    (folder / FACTS).write_text(text + "\n", encoding="utf-8")


def model_file(name: str, flag: str) -> Path:
    """The SentencePiece model that a flag names, or the folder it names holds.

    Raises:
        UserError: there is none.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{flag} {name} does not exist; expected a SentencePiece model, or the folder it is in.")
    if (path / "tokenizer.model").is_file():
        return path / "tokenizer.model"
    if len(found := regular_files(path, "*.model")) == 1:
        return found[0]
    if (path / "tokenizer.json").is_file():
        raise UserError(
            f"{flag} {name} has a tokenizer.json only, which SentencePiece pieces can not be merged into: add words to "
            "such a base with tools/expand_vocabulary.py --add_tokens."
        )
    raise UserError(f"{flag} {name} holds no SentencePiece model: expected tokenizer.model, found {listing(path)}.")


def sha256(file: Path) -> str:
    """The hash of a file as it is published."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
