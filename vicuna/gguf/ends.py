"""What ends an answer in llama.cpp: three ids that a file names, and tokens that it knows by their names.

A model may have more ends than that. Our own programs find all of them in `vicuna.generation_config`; for others the
export says which are lost.
"""

from collections.abc import Sequence
from pathlib import Path

from vicuna.errors import UserError
from vicuna.gguf.library import load_llama_cpp, opened_vocabulary
from vicuna.gguf_file.vocabulary import ENDS_BY_NAME
from vicuna.model.base import Base


def ordered_ends(base: Base, prompt_type: str) -> list[int]:
    """Ids that end an answer: EOS, the one that is trained, those that llama.cpp would not know otherwise, the rest."""
    tokenizer, declared = base.tokenizer, base.generation_config.eos_token_id
    ends = declared if isinstance(declared, list) else [declared] if declared is not None else []
    trained = tokenizer.answer_end(prompt_type) if prompt_type else tokenizer.eos_id
    rest = sorted(ends, key=lambda number: tokenizer.markers.get(number) in ENDS_BY_NAME)
    return list(dict.fromkeys([tokenizer.eos_id, trained, *rest]))


def llama_cpp_ends(file: Path, ids: Sequence[int]) -> list[int]:
    """Those of `ids` that llama.cpp's own programs end an answer at; no weight is read.

    Raises:
        UserError: llama.cpp is not installed, or can not read the vocabulary.
    """
    api = load_llama_cpp()
    with opened_vocabulary(file) as llama:
        vocabulary = api.llama_model_get_vocab(llama.model)
        return [number for number in ids if api.llama_vocab_is_eog(vocabulary, number)]


def describe_ends(file: Path, base: Base, ends: Sequence[int]) -> tuple[list[int], str]:
    """Ends that llama.cpp's own programs run over, and a sentence on them and on those they have beside; "" for none.

    Args:
        ends: of the model, as `ordered_ends` gives them.
    """
    marked = base.tokenizer.markers
    try:
        found = set(llama_cpp_ends(file, sorted({*ends, *marked})))
    except UserError:
        lost = list(ends[3:])
        return lost, (_lost(lost, marked) if lost else "")
    lost, more = [one for one in ends if one not in found], sorted(found - set(ends))
    said = [_lost(lost, marked)] if lost else []
    if more:
        said.append(f"llama.cpp's own programs and Ollama also end an answer at {_shown(more, marked)}.")
    return lost, " ".join(said)


def _lost(ids: Sequence[int], names: dict[int, str]) -> str:
    return (
        f"llama.cpp's own programs and Ollama do not end an answer at {_shown(ids, names)}, for which a GGUF has no "
        "place; chat.py and generate.py do."
    )


def _shown(ids: Sequence[int], names: dict[int, str]) -> str:
    return ", ".join(f"{one} ({names[one]})" if one in names else str(one) for one in ids)
