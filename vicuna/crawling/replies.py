"""What a model replied to a request for records: those that can be used, and what is wrong with the others."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from json_repair import repair_json

FIELDS = ("instruction", "input", "output")
NO_INPUT = {"", "无", "无。", "none", "n/a", "null", "<noinput>", "<无输入>"}
# Where an object that is no valid JSON ends: a brace, and behind it another object or the end of what held them.
END = re.compile(r"\}(?=\s*+(?:,\s*+)?(?:[{\]}`]|$))")
WRAPPER = re.compile(r'\{\s*"?\w+"?\s*:\s*\[\s*(?=\{)')
DECODER = json.JSONDecoder(strict=False)  # line breaks inside texts are meant as such
PASSED = 1 << 16  # characters that were read, from which on they are dropped
MOST_WRAPPERS = 20  # objects around records that are not closed
SHOWN = 400  # characters of a text that is refused
BROKEN = re.compile("[\ufffd\ud800-\udfff]")  # what stands for no character, and half of one


@dataclass(frozen=True)
class Refused:
    """What can not be used: why, in a few words for counting, and its beginning."""

    reason: str
    text: str


def read_reply(text: str) -> tuple[list[dict[str, str]], list[Refused]]:
    """(records with the three `FIELDS`, what is refused) of a reply, in its order.

    JSON is taken from whatever stands around it; what is nearly JSON (a comma too many, other quotes) is repaired where
    it has an end. A record without one was cut off, and is refused: its answer would be learnt as complete.
    """
    records, refused = [], []
    for value, said in _objects(text):
        if isinstance(value, Refused):
            refused.append(value)
            continue
        try:
            records.append(_record(value))
        except ValueError as error:
            refused.append(Refused(str(error), said[:SHOWN]))
    if not records and not refused:
        refused.append(Refused("no JSON object", text.strip()[:SHOWN]))
    return records, refused


def _objects(text: str) -> Iterator[tuple[Any, str]]:
    """(value, its text) of every object in a reply, or what is refused; lists around them are looked into."""
    at = wrappers = 0
    while (at := text.find("{", at)) >= 0:
        if at > PASSED:  # what the decoder refuses it describes by its place from the beginning
            text, at = text[at:], 0
        try:
            value, end = DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            if wrappers < MOST_WRAPPERS and (wrapper := WRAPPER.match(text, at)):
                at, wrappers = wrapper.end(), wrappers + 1
                continue
            found = END.search(text, at)
            if not found:
                yield Refused("cut off", text[at : at + SHOWN]), ""
                return
            end = found.end()
            value = _repaired(text[at:end])
        inside = _wrapped(value)
        for one in [value] if inside is None else inside:
            yield one, text[at:end]
        at = end


def _wrapped(value: Any) -> list | None:
    """The records of an object that only holds a list of them."""
    lists = [one for one in value.values() if isinstance(one, list)] if isinstance(value, dict) else []
    return lists[0] if len(lists) == 1 and not value.keys() & set(FIELDS) else None


def _repaired(text: str) -> Any:
    """An object that is nearly JSON."""
    value = repair_json(text, return_objects=True, skip_json_loads=True)
    return value if isinstance(value, dict) else Refused("no valid JSON", text[:SHOWN])


def _record(value: Any) -> dict[str, str]:
    """A record with texts in all its fields.

    Raises:
        ValueError: what is wrong with it, in words that are the same for all such.
    """
    if not isinstance(value, dict):
        raise ValueError("not an object")
    texts = {name: _text(value, name) for name in FIELDS}
    if texts["input"].lower() in NO_INPUT:
        texts["input"] = ""
    for name in ("instruction", "output"):
        if not texts[name].strip(".…。 "):
            raise ValueError(f"{name} is empty")
    if BROKEN.search("".join(texts.values())):
        raise ValueError("broken characters")
    return texts


def _text(value: dict, name: str) -> str:
    found = value.get(name)
    if isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found):  # the answer to a sum
        return str(found)
    if found is None and name == "input":
        return ""
    if found is None:
        raise ValueError(f"no {name}")
    if not isinstance(found, str):
        raise ValueError(f"{name} is no text")
    return found.strip()
