"""What llama.cpp's own tokenizer makes of texts: its programs and Ollama use it, `chat.py` and `generate.py` do not."""

import json
from collections.abc import Sequence
from pathlib import Path

from vicuna.errors import UserError
from vicuna.gguf.library import opened_vocabulary
from vicuna.prompt.probes import probe_texts
from vicuna.prompt.tokenizer import TextTokenizer

_SHOWN = 3  # pieces by name
_SETTINGS = ("lstrip", "rstrip", "single_word")  # of added tokens


def llama_cpp_ids(file: Path, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text, BOS left out; no weight is read.

    Raises:
        UserError: llama.cpp is not installed, or can not read the vocabulary.
    """
    with opened_vocabulary(file) as llama:
        return [llama.tokenize(text.encode(), add_bos=False, special=False) for text in texts]


def describe_other_ids(file: Path, tokenizer: TextTokenizer) -> str:
    """How llama.cpp reads texts otherwise than in training, as far as `probe_texts` shows it; "" if it does not.

    Args:
        tokenizer: the one of training.
    """
    probes = probe_texts(tokenizer)
    if not probes:
        return ""
    what = _user_defined(tokenizer)
    around = f" around {what}" if what else ""
    rest = "Ask it with such texts through chat.py or generate.py, which read them as training did."
    try:
        read = llama_cpp_ids(file, probes)
    except UserError:
        if not what:
            return ""
        return f"around {what} llama.cpp may give other ids than training; it is not installed here to tell. {rest}"
    ids = [tokenizer.encode(text) for text in probes]
    other = [number for number in range(len(probes)) if read[number] != ids[number]]
    if not other:
        return ""
    first = f"a{tokenizer.user_defined[0]}b" if what else ""
    shown = min(other, key=lambda number: (probes[number] != first, number))
    return (
        f"{len(other)} of {len(probes)} texts{around} get other ids from llama.cpp's own programs and Ollama "
        f"than in training, {probes[shown]!r} {read[shown]} instead of {ids[shown]}. {rest}"
    )


def _user_defined(tokenizer: TextTokenizer) -> str:
    """The pieces that `probe_texts` puts into texts, in words."""
    if not tokenizer.user_defined:
        return ""
    own = ", ".join(map(repr, tokenizer.user_defined[:_SHOWN]))
    more = len(tokenizer.user_defined) - _SHOWN
    return f"the user-defined pieces of {tokenizer.source.name} ({own}{f' and {more} more' if more > 0 else ''})"


def describe_stripping(tokenizer: TextTokenizer) -> str:
    """Which added tokens do more than stand in a text, for which a GGUF has no place; "" for none."""
    spec = json.loads(tokenizer.files.json) if tokenizer.files.json else {}
    listed = spec.get("added_tokens") or tokenizer.files.config.get("added_tokens_decoder") or ()
    tokens = [one for one in (listed.values() if isinstance(listed, dict) else listed) if isinstance(one, dict)]
    odd = [str(one.get("content")) for one in tokens if any(one.get(name) for name in _SETTINGS)]
    if not odd:
        return ""
    more = f" and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else ""
    return (
        f"{', '.join(map(repr, odd[:_SHOWN]))}{more} of {tokenizer.source.name} take blanks beside them away or only "
        f"count as whole words ({', '.join(_SETTINGS)}), for which a GGUF has no place: where blanks stand beside them "
        "llama.cpp's own programs and Ollama give other ids."
    )


def describe_composing(tokenizer: TextTokenizer) -> str:
    """What a tokenizer makes of a text before it splits it, and llama.cpp does not; "" for nothing."""
    spec = json.loads(tokenizer.files.json) if tokenizer.files.json else {}
    form = next((one for one in ("NFKC", "NFC") if f'"{one}"' in json.dumps(spec.get("normalizer"))), "")
    if not form:
        return ""
    return (
        f"{tokenizer.source.name} composes characters that are written in parts ({form}), such as an accent behind its "
        "letter: llama.cpp's own programs and Ollama do not, and give such texts other ids."
    )
