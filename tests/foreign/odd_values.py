"""Odd values for each field of the kinds of files that we read, made from their types: a new field is covered at once.

for field, text in odd_texts(BaseConfig): ...
"""

import importlib
import json
import math
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from vicuna.foreign.typed import READERS, Foreign

ROOT = Path(__file__).resolve().parents[2]
DEEP = "deep"
ODD = {
    "null": None,
    "text": "a text",
    "empty text": "",
    "list": [1],
    "object": {"a": 1},
    "true": True,
    "negative": -1,
    "zero": 0,
    "huge": 10**30,
    "huge float": 1e300,
    "not finite": math.nan,
    "infinite": -math.inf,
    DEEP: None,  # stands for lists in lists, which json itself does not write so deeply
    "surrogate": "\ud800",
}
MARK = "@deep@"


def readers() -> dict[type[Foreign], dict[str, Any]]:
    """Every registered kind of file, from whichever module."""
    for file in sorted((ROOT / "vicuna").rglob("*.py")):
        if "\n@opens(" in file.read_text(encoding="utf-8"):
            importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    return READERS


def places(example: Any, at: tuple = ()) -> Iterator[tuple]:
    """Where the values of an example are, the inner ones too."""
    inner = example.items() if isinstance(example, dict) else enumerate(example) if isinstance(example, list) else ()
    for key, value in inner:
        yield (*at, key)
        yield from places(value, (*at, key))


def odd_texts(example: dict[str, Any], depth: int = 200) -> Iterator[tuple[str, str]]:
    """What was replaced by what, and the JSON text with it."""
    for place in places(example):
        for name, value in ODD.items():
            yield f"{'.'.join(map(str, place))} {name}", replaced(example, place, name, value, depth)


def replaced(example: dict[str, Any], place: tuple, name: str, value: Any, depth: int = 200) -> str:
    """The JSON text of an example with another value at one place."""
    changed = deepcopy(example)
    holder = changed
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = MARK if name == DEEP else value
    return json.dumps(changed).replace(f'"{MARK}"', "[" * depth + "]" * depth)
