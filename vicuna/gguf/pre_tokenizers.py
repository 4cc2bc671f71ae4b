"""llama.cpp's name for the way in which a tokenizer.json cuts texts into words, before bytes are merged.

The ways themselves stand in `vicuna.gguf_file.splitting`, in llama.cpp's spelling; published files have others, too.
"""

import json
from functools import lru_cache
from typing import Any

from vicuna.gguf_file.splitting import SPLITTINGS

# Of several names for one way, the one that is written.
_WRITTEN = (
    *("llama-bpe", "dbrx", "tekken", "gpt-4o", "qwen2", "qwen35", "smollm", "gpt-2", "falcon", "deepseek-llm"),
    *("deepseek-coder", "deepseek-v3"),
)
_CONTRACTIONS = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])")
# Words by their capitals: what Unicode says of letters, and what llama.cpp looks at.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BY_CASE = ((_UPPER, r"((?=[\p{L}])([^a-z]))"), (_LOWER, r"((?=[\p{L}])([^A-Z]))"))
(_GPT_2,) = SPLITTINGS["gpt-2"].patterns


@lru_cache(maxsize=2)  # a text of some millions of characters
def pre_tokenizer_name(tokenizer_json: str) -> str:
    """llama.cpp's name for how a tokenizer.json cuts texts, "" where it has none."""
    spec = json.loads(tokenizer_json)
    model, pre_tokenizer = spec.get("model") or {}, spec.get("pre_tokenizer") or {}
    patterns = _patterns(pre_tokenizer.get("pretokenizers", [pre_tokenizer]))
    if model.get("type", "BPE") != "BPE" or not patterns:
        return ""
    cut = (patterns, bool(model.get("ignore_merges")))
    known = {name: (SPLITTINGS[name].patterns, SPLITTINGS[name].whole_words) for name in _WRITTEN}
    return next((name for name, one in known.items() if one == cut), "")


def _patterns(parts: list[dict[str, Any]]) -> tuple[str, ...]:
    """What cuts a text, step by step in llama.cpp's spelling; () where a step is none that it knows."""
    *before, last = parts or [{}]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return ()
    found = [_pattern(part) for part in before]
    if last.get("use_regex", True):
        found.append(_GPT_2)
    return tuple(found) if all(found) else ()


def _pattern(part: dict[str, Any]) -> str:
    if part.get("type") == "Digits" and part.get("individual_digits"):
        return r"\p{N}"
    if part.get("type") != "Split" or part.get("behavior") != "Isolated" or part.get("invert"):
        return ""
    pattern = part.get("pattern", {}).get("Regex", "")
    for published, own in (_CONTRACTIONS, *_BY_CASE):
        pattern = pattern.replace(published, own)
    return _GPT_2 if pattern == rf"{_GPT_2}|\s+" else pattern
