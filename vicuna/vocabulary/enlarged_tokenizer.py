"""A base's tokenizer with more pieces: a SentencePiece model that begins with its own, or words in a tokenizer.json.

Both are read again as training will read them before any weight is written.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vicuna.errors import UserError
from vicuna.files.json_files import read_json
from vicuna.model.base import Base
from vicuna.model.openable import TEMPLATE_FILES, copy_files
from vicuna.prompt.tokenizer import TextTokenizer, read_sentencepiece
from vicuna.prompt.tokenizer_files import TOKENIZER_CONFIG
from vicuna.prompt.tokenizer_json import write_tokenizer_json
from vicuna.vocabulary.expansion import NewPieces
from vicuna.vocabulary.merging import SPACE
from vicuna.vocabulary.writing import TOKENIZER_MODEL

TOKENIZER_JSON = "tokenizer.json"
ADDED_TOKENS = "added_tokens.json"


def new_pieces(base: Base, file: Path) -> NewPieces:
    """What a SentencePiece model has behind the pieces of the base's own.

    Raises:
        UserError: it does not begin with these, or has no more; or the base has tokens of its own behind them.
    """
    if base.tokenizer.source.suffix != ".model":
        raise UserError(
            f"{base.path} has a tokenizer.json only, which a SentencePiece model can not go on with: add words to it "
            "with --add_tokens FILE, one a line."
        )
    old, larger = read_sentencepiece(base.tokenizer.source)[0].pieces, read_sentencepiece(file)[0].pieces
    if odd := next((i for i, piece in enumerate(old) if i >= len(larger) or larger[i].piece != piece.piece), None):
        theirs = repr(larger[odd].piece) if odd < len(larger) else "nothing"
        raise UserError(
            f"--tokenizer_path {file} does not begin with the pieces of {base.tokenizer.source}: id {odd} is {theirs} "
            f"there, {old[odd].piece!r} here. Merge the base's own tokenizer, with tools/merge_tokenizers.py."
        )
    if len(larger) == len(old):
        raise UserError(f"--tokenizer_path {file} has the {len(old)} pieces of the base's own, and no more.")
    if behind := _named_behind(base.path, len(old)):
        raise UserError(
            f"{base.path} has tokens of its own behind the {len(old)} pieces of tokenizer.model, such as "
            f"{behind[min(behind)]!r} with id {min(behind)}, whose rows the new pieces would take: take a base without."
        )
    return NewPieces(len(old), [_parts(base.tokenizer, piece) for piece in larger[len(old) :]])


def _parts(tokenizer: TextTokenizer, piece: Any) -> list[int]:
    """The old ids of a piece's text; [] where it stands for no text."""
    if piece.type not in (piece.NORMAL, piece.USER_DEFINED):
        return []
    return tokenizer.encode_continuation(piece.piece.replace(SPACE, " "))


def _named_behind(folder: Path, size: int) -> dict[int, str]:
    """Tokens that other files of a tokenizer name behind the pieces of its SentencePiece model."""
    named = {number: name for name, number in read_json(folder / ADDED_TOKENS).items()}
    named |= {one["id"]: one["content"] for one in read_json(folder / TOKENIZER_JSON).get("added_tokens", [])}
    return {number: name for number, name in named.items() if number >= size}


def write_larger(folder: Path, base: Base, file: Path) -> str:
    """Write the larger SentencePiece model with its tokenizer.json; the name of its padding piece, "" for none."""
    shutil.copyfile(file, folder / TOKENIZER_MODEL)
    proto = read_sentencepiece(file)[0]
    beside = read_json(file.parent / TOKENIZER_CONFIG).get("pad_token")
    padding = (
        beside if isinstance(beside, str) else proto.trainer_spec.pad_piece if proto.trainer_spec.pad_id >= 0 else ""
    )
    if padding not in {piece.piece for piece in proto.pieces}:
        padding = ""
    context = getattr(base.config, "max_position_embeddings", None)
    write_tokenizer_json(folder, context, padding=padding or None)
    copy_files(base.path, folder, TEMPLATE_FILES)
    if template := read_json(base.path / TOKENIZER_CONFIG).get("chat_template"):
        settings = read_json(folder / TOKENIZER_CONFIG)
        _write_json(folder / TOKENIZER_CONFIG, {**settings, "chat_template": template})
    return padding


def new_words(base: Base, words: Sequence[str]) -> tuple[list[str], NewPieces]:
    """Those of `words` that are no token yet, and what they were made of.

    Raises:
        UserError: the base's tokenizer is a SentencePiece model; or every word is a token already.
    """
    if base.tokenizer.source.suffix == ".model":
        raise UserError(
            f"{base.path} has a tokenizer.model, into which pieces are merged: make a larger one with "
            "tools/merge_tokenizers.py, and pass it as --tokenizer_path. --add_tokens is for a tokenizer.json alone."
        )
    parts = {word: base.tokenizer.encode_continuation(word) for word in words}
    added = [word for word in words if len(parts[word]) > 1]
    if not added:
        raise UserError(f"each of the {len(words)} words of --add_tokens is a token already; there is nothing to add.")
    return added, NewPieces(_last_id(base) + 1, [parts[word] for word in added])


def _last_id(base: Base) -> int:
    spec = read_json(base.tokenizer.source)
    vocabulary = spec["model"]["vocab"]
    ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    return max([*ids, *(one["id"] for one in spec.get("added_tokens", []))])


def write_words(folder: Path, base: Base, words: Sequence[str], new: NewPieces) -> None:
    """Write the base's tokenizer files with the words in them; all else stays as it is."""
    spec = read_json(base.tokenizer.source)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    tokens = {number: {"content": word, **flags} for number, word in zip(new.rows, words, strict=True)}
    spec["added_tokens"] = [*spec.get("added_tokens", []), *({"id": number, **one} for number, one in tokens.items())]
    _write_json(folder / TOKENIZER_JSON, spec)
    settings = read_json(folder / TOKENIZER_CONFIG)
    if "added_tokens_decoder" in settings:
        settings["added_tokens_decoder"] |= {str(number): one for number, one in tokens.items()}
        _write_json(folder / TOKENIZER_CONFIG, settings)
    if (folder / ADDED_TOKENS).is_file():
        named = read_json(folder / ADDED_TOKENS) | {one["content"]: number for number, one in tokens.items()}
        _write_json(folder / ADDED_TOKENS, named)


def check_words(folder: Path, words: Sequence[str], new: NewPieces) -> None:
    """Read the enlarged tokenizer as training will.

    Raises:
        UserError: a word is not the token that it was given.
    """
    tokenizer = TextTokenizer(folder)
    for number, word in zip(new.rows, words, strict=True):
        if tokenizer.encode_continuation(word) != [number]:
            raise UserError(
                f"--add_tokens: transformers does not read {word!r} as the token it was given (its tokens are "
                f"{tokenizer.encode_continuation(word)}, not {[number]}): leave it out."
            )


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
