"""tokenizer.json of a GGUF file whose vocabulary merges bytes (GPT-2's kind), with the ids of the file's own arrays.

transformers makes one, too, by a table of families: without the splitting of digits, without whole words, and with
control tokens cut up and added anew behind the embeddings.
"""

import json
from pathlib import Path
from typing import Any

from vicuna.errors import UserError
from vicuna.gguf_file.splitting import Splitting, splitting_of

# Types of tokens (`gguf.TokenType`).
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def pieces_of(keys: dict[str, Any], source: Path) -> tuple[list[str], list[int]]:
    """The pieces of a file's vocabulary, and their types.

    Raises:
        UserError: there are none, or two lists that do not fit.
    """
    pieces = keys.get("tokenizer.ggml.tokens") or []
    types = keys.get("tokenizer.ggml.token_type") or [NORMAL] * len(pieces)
    if not pieces or len(types) != len(pieces):
        raise UserError(
            f"{source} has {len(pieces)} pieces with {len(types)} types; expected a vocabulary with one type for each "
            "piece. Copy or export it again."
        )
    return pieces, types


def file_splitting(keys: dict[str, Any], source: Path) -> Splitting:
    """How a file says that texts are split.

    Raises:
        UserError: by a name that is not known.
    """
    kind = keys.get("tokenizer.ggml.model")
    return splitting_of(kind if kind == "gemma4" else keys.get("tokenizer.ggml.pre", "default"), source)


def byte_level_json(keys: dict[str, Any], source: Path, begin: str = "") -> str:
    """The text of a tokenizer.json with a file's ids.

    Control tokens are special ones there, and user-defined ones are not: these are found in any text.

    Args:
        begin: the token that is put before a text, "" for none.

    Raises:
        UserError: a splitting that is not known, or arrays that are no vocabulary.
    """
    pieces, types = pieces_of(keys, source)
    splitting = file_splitting(keys, source)
    merges = keys.get("tokenizer.ggml.merges")
    if not merges:
        raise UserError(f"{source} has no merges (tokenizer.ggml.merges): its vocabulary is incomplete. Copy it again.")
    unknown = {UNKNOWN, CONTROL}
    added = [
        {
            **{"id": number, "content": piece, "single_word": False, "lstrip": False, "rstrip": False},
            **{"normalized": False, "special": kind in unknown},
        }
        for number, (piece, kind) in enumerate(zip(pieces, types, strict=True))
        if kind in unknown or kind == USER_DEFINED
    ]
    spec = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"} if splitting.escaped else None,
        "pre_tokenizer": _pre_tokenizer(splitting),
        "post_processor": _post_processor(begin, pieces) if begin else None,
        "decoder": _decoder(splitting),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": splitting.escaped,
            "ignore_merges": splitting.whole_words,
            "vocab": {piece: number for number, piece in enumerate(pieces)},
            "merges": [_pair(merge) for merge in merges],
        },
    }
    return json.dumps(spec, ensure_ascii=False)


def _pair(merge: str) -> list[str]:
    """The two sides of a merge; the first may itself begin with a space."""
    first, _, second = merge[1:].partition(" ")
    return [merge[:1] + first, second]


def _pre_tokenizer(splitting: Splitting) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in splitting.patterns
    ]
    if not splitting.escaped:
        steps.append({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False})
    return {"type": "Sequence", "pretokenizers": steps}


def _post_processor(begin: str, pieces: list[str]) -> dict[str, Any]:
    special, one, other = (
        {"SpecialToken": {"id": begin, "type_id": 0}},
        *({"Sequence": {"id": x, "type_id": 0}} for x in "AB"),
    )
    return {
        "type": "TemplateProcessing",
        "single": [special, one],
        "pair": [special, one, special, other],
        "special_tokens": {begin: {"id": begin, "ids": [pieces.index(begin)], "tokens": [begin]}},
    }


def _decoder(splitting: Splitting) -> dict[str, Any]:
    if not splitting.escaped:
        return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    steps = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    return {"type": "Sequence", "decoders": steps}
