"""Parts of tokenizers: control tokens, byte pieces, and the space before a text."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Control:
    """A control token: its id, and whether it takes the blanks before or behind it away."""

    id: int
    lstrip: bool = False
    rstrip: bool = False


def encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def added_controls(config: Mapping[str, Any], size: int, own: Collection[int]) -> dict[str, Control]:
    """Control tokens that a tokenizer_config.json adds behind the pieces of a SentencePiece model, by name; and what it
    says of the model's own.
    """
    listed = config.get("added_tokens_decoder")
    found = {}
    for number, token in listed.items() if isinstance(listed, dict) else ():
        if not (str(number).isdecimal() and isinstance(token, dict) and token.get("special")):
            continue
        if int(number) >= size or int(number) in own:
            strips = bool(token.get("lstrip")), bool(token.get("rstrip"))
            found[str(token.get("content", ""))] = Control(int(number), *strips)
    return found


def byte_pieces(id_of: Callable[[str], int | None]) -> dict[int, int]:
    """The ids of the byte-fallback pieces `<0x00>` to `<0xFF>`, if there are any, and the bytes they stand for."""
    ids = {value: id_of(f"<0x{value:02X}>") for value in range(256)}
    return {i: value for value, i in ids.items() if i is not None}


def without_prefix(tokenizer_json: str) -> str:
    """A tokenizer.json that puts no space before the text: neither a Prepend normaliser nor a Metaspace prefix."""
    if not any(f'"{name}"' in tokenizer_json for name in ("Prepend", "Metaspace")):
        return tokenizer_json  # reading a vocabulary of 150,000 takes half a second
    spec = json.loads(tokenizer_json)

    def strip(part: dict | None) -> dict | None:
        if part is None or part["type"] == "Prepend":
            return None
        if part["type"] == "Metaspace":
            return {**part, "prepend_scheme": "never"}
        if part["type"] == "Sequence":
            key = "normalizers" if "normalizers" in part else "pretokenizers"
            return {**part, key: [kept for kept in map(strip, part[key]) if kept is not None]}
        return part

    bare = {name: strip(spec[name]) for name in ("normalizer", "pre_tokenizer")}
    return json.dumps({**spec, **bare}) if any(spec[name] != one for name, one in bare.items()) else tokenizer_json
