"""A vocabulary for chat templates that come without one: a part of a published one, its reserved tokens renamed."""

import re
from pathlib import Path
from typing import Any

from vicuna.gguf_file.byte_level import CONTROL
from vicuna.gguf_file.reader import optional_package

CONTEXT = 8192
LENT = "llama-bpe"  # the vocabulary whose reserved tokens are renamed
LENT_PIECES = 20_000  # of its pieces, beside the control tokens
_NAMES = re.compile(r"<\|[^|<>'\"\s]+\|>|<｜[^｜<>]+｜>|\[/?[A-Z][A-Z_]+\]|<(?:start|end)_of_turn>")


def control_names(template: str) -> list[str]:
    """What a template writes that looks like the name of a control token."""
    return list(dict.fromkeys(_NAMES.findall(template)))


def lend_vocabulary(keys: dict[str, Any], template: str, splitting: str, file: Path) -> dict[str, Any]:
    """Write a vocabulary whose reserved tokens have the names that a template writes; its keys.

    Args:
        splitting: llama.cpp's name of how texts are cut.
    """
    gguf = optional_package("gguf")
    pieces, kinds = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    begin, end = keys["tokenizer.ggml.bos_token_id"], keys["tokenizer.ggml.eos_token_id"]
    kept = [number for number in range(len(pieces)) if number < LENT_PIECES or kinds[number] == CONTROL]
    tokens, known = [pieces[number] for number in kept], {pieces[number] for number in kept}
    merges = [one for one in keys["tokenizer.ggml.merges"] if known.issuperset([*one.split(" "), one.replace(" ", "")])]
    names = [one for one in control_names(template) if one not in known]
    reserved = [number for number, token in enumerate(tokens) if token.startswith("<|reserved_special_token_")]
    for number, name in zip(reserved, names, strict=False):
        tokens[number] = name
    changed = {
        **keys, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": [kinds[number] for number in kept],
        "tokenizer.ggml.merges": merges, "tokenizer.ggml.pre": splitting,
        "tokenizer.ggml.bos_token_id": kept.index(begin), "tokenizer.ggml.eos_token_id": kept.index(end),
    }  # fmt: skip
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(16)
    writer.add_block_count(1)
    writer.add_feed_forward_length(16)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(keys["tokenizer.ggml.model"])
    writer.add_tokenizer_pre(splitting)
    writer.add_token_list(tokens)
    writer.add_token_types(changed["tokenizer.ggml.token_type"])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(changed["tokenizer.ggml.bos_token_id"])
    writer.add_eos_token_id(changed["tokenizer.ggml.eos_token_id"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return changed
