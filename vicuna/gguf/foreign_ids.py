"""What llama.cpp's own tokenizer makes of texts: its programs and Ollama use it, `chat.py` and `generate.py` do not."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from vicuna.errors import UserError
from vicuna.gguf.library import last_error, load_llama_cpp
from vicuna.prompt.probes import probe_texts
from vicuna.prompt.tokenizer import TextTokenizer

_SHOWN = 3  # pieces by name


def llama_cpp_ids(file: Path, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text, BOS left out; no weight is read.

    Raises:
        UserError: llama.cpp is not installed, or can not read the vocabulary.
    """
    api = load_llama_cpp()
    try:
        llama = api.Llama(model_path=str(file), vocab_only=True, verbose=False)
    except Exception as error:  # the template engine it hands the chat template to has errors of its own
        raise UserError(f"llama.cpp can not read the vocabulary of {file} ({last_error(error)}).") from error
    with contextlib.closing(llama):
        return [llama.tokenize(text.encode(), add_bos=False, special=False) for text in texts]


def describe_other_ids(file: Path, tokenizer: TextTokenizer) -> str:
    """How llama.cpp reads texts that hold the vocabulary's own pieces, where that is not as in training; "" if it is.

    Args:
        tokenizer: the one of training.
    """
    probes = probe_texts(tokenizer)
    if not probes:
        return ""
    own = ", ".join(map(repr, tokenizer.user_defined[:_SHOWN]))
    more = len(tokenizer.user_defined) - _SHOWN
    what = f"the user-defined pieces of {tokenizer.source.name} ({own}{f' and {more} more' if more > 0 else ''})"
    rest = "Ask it with such texts through chat.py or generate.py, which read them as training did."
    try:
        read = llama_cpp_ids(file, probes)
    except UserError:
        return f"around {what} llama.cpp may give other ids than training; it is not installed here to tell. {rest}"
    ids = [tokenizer.encode(text) for text in probes]
    other = [number for number in range(len(probes)) if read[number] != ids[number]]
    if not other:
        return ""
    shown = min(other, key=lambda number: (probes[number] != f"a{tokenizer.user_defined[0]}b", number))
    return (
        f"{len(other)} of {len(probes)} texts around {what} get other ids from llama.cpp's own programs and Ollama "
        f"than in training, {probes[shown]!r} {read[shown]} instead of {ids[shown]}. {rest}"
    )
