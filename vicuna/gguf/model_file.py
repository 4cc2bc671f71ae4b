"""A model as a GGUF file of any type: a LLaMA by this package itself, all other architectures by llama.cpp's converter.

Both are given the same keys: what llama.cpp would guess otherwise, such as whether BOS is put before a text, and what
only this toolkit's programs read.
"""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from vicuna.errors import UserError
from vicuna.files.tensors import main_dtype, read_tensor_files, weight_paths
from vicuna.gguf import converter, writer
from vicuna.gguf.ends import ordered_ends
from vicuna.gguf.head_edit import with_keys
from vicuna.gguf.pre_tokenizers import pre_tokenizer_name
from vicuna.gguf.vocabulary import has_known_vocabulary
from vicuna.gguf_file.folder import refuse_file
from vicuna.gguf_file.header import read_header
from vicuna.gguf_file.reader import ARCHITECTURE
from vicuna.gguf_file.types import PLAIN_TYPES
from vicuna.model.base import Base
from vicuna.model.config import quantization_method
from vicuna.model.gptq import made_of

_ROPE_FACTORS = "rope_freqs.weight"


def is_written_here(base: Base) -> bool:
    """Whether this package writes it: a LLaMA, unless its vocabulary is byte-level and only the converter knows it."""
    byte_level = '"ByteLevel"' in (base.tokenizer.files.json or "")
    return base.config.model_type == ARCHITECTURE and (has_known_vocabulary(base.tokenizer) or not byte_level)


def check_exportable(base: Base, adapter: bool = False) -> None:
    """Refuse what can not become a GGUF file, before a weight is read.

    Args:
        adapter: it is an adapter for the base that is to be one.

    Raises:
        UserError: see above.
    """
    method = quantization_method(base.config)
    if method not in ("", "bitsandbytes"):
        raise UserError(
            f"{base.path} is quantised with {method}, from which a GGUF would only lose more: export "
            f"{made_of(base.path)}."
        )
    if is_written_here(base):
        writer.check_llama(base)
        return
    if method:
        raise UserError(
            f"{base.path} is of type {base.config.model_type} and kept at fewer bits by bitsandbytes, which "
            "llama.cpp's converter does not read: export the model that it was made of."
        )
    if not adapter:
        refuse_file(base.path, "llama.cpp's converter")
    converter.check_architecture(base)


def check_vocabulary(base: Base) -> None:
    """Refuse a vocabulary that the converter does not know, which only it can say.

    Raises:
        UserError: see above.
    """
    if not is_written_here(base):
        converter.check_vocabulary(base)


def needs_no_library(base: Base, kind: str) -> bool:
    """Whether the package gguf alone quantises a model to `kind`."""
    return is_written_here(base) and writer.packs(base, kind)


def write_model(base: Base, file: Path, kind: str, prompt_type: str = "", template: str = "") -> None:
    """Write a model; other files are put beside it and removed.

    Args:
        kind: of `PLAIN_TYPES` or `QUANTISED_TYPES`.
        prompt_type: what it was trained with, "" if unknown; template: its chat template, "" for none.

    Raises:
        UserError: weights that are missing, not finite or not at that type; or the converter or llama.cpp failed.
    """
    if kind in PLAIN_TYPES or needs_no_library(base, kind):
        _write_plain(base, file, kind, prompt_type, template)
        return
    plain = file.with_name("plain.gguf")
    _write_plain(base, plain, "", prompt_type, template)
    writer.quantise(plain, file, kind, torch.get_num_threads())
    plain.unlink()


def _write_plain(base: Base, file: Path, kind: str, prompt_type: str, template: str) -> None:
    ends = ordered_ends(base, prompt_type)
    if is_written_here(base):
        writer.write_gguf(base, file, kind, prompt_type, template, ends)
        return
    made = file.with_name("converted.gguf")
    converter.convert_model(base, made, kind or _own_type(base))
    head = read_header(made)
    if "llama3" in str(getattr(base.config, "rope_parameters", "")) and _ROPE_FACTORS not in head.tensors:
        raise UserError(
            f"{base.path} has RoPE scaling of Llama 3's kind, which llama.cpp does not compute for "
            f"{base.config.model_type}."
        )
    with_keys(made, file, _keys(base, head.keys["general.architecture"], prompt_type, template, ends))
    made.unlink()


def _own_type(base: Base) -> str:
    """The plain type that most weights have."""
    dtype = main_dtype(read_tensor_files(weight_paths(base.path)))
    return next((kind for kind, one in writer.PLAIN_DTYPES.items() if one == dtype), "f32")


def _keys(base: Base, architecture: str, prompt_type: str, template: str, ends: Sequence[int]) -> dict[str, Any]:
    """What a converter leaves to guessing, or reads otherwise than this toolkit."""
    tokenizer = base.tokenizer
    # Without another in its place one that the base does not name would stay.
    ids = {"bos": tokenizer.bos_id, **dict(zip_longest(("eos", "eot", "eom"), ends[:3]))}
    cut = pre_tokenizer_name(tokenizer.files.json) if tokenizer.files.json else ""
    return {
        **{f"tokenizer.ggml.{kind}_token_id": number for kind, number in ids.items()},
        "tokenizer.ggml.add_bos_token": bool(tokenizer.beginning),
        "tokenizer.ggml.add_eos_token": False,
        # The converter goes by a hash that other splittings of the same vocabulary share, or by transformers' class.
        **({"tokenizer.ggml.pre": cut} if cut else {}),
        "tokenizer.chat_template": template or None,
        f"{architecture}.context_length": writer.context_of(base),
        **writer.vicuna_keys(prompt_type, base.generation_config),
    }
