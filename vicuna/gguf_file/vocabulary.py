"""The tokenizer inside a GGUF file, as the parts that `vicuna.prompt.tokenizer` reads."""

from pathlib import Path
from typing import Any

from vicuna.errors import UserError
from vicuna.gguf_file.byte_level import (
    CONTROL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    byte_level_json,
    file_splitting,
    pieces_of,
)
from vicuna.prompt.tokenizer_files import TokenizerFiles

UNKNOWN_TEXT = "vicuna.unknown_text"  # key of our own: how SentencePiece shows an unknown character
TEMPLATE = "tokenizer.chat_template"
_ADD_BOS = "tokenizer.ggml.add_bos_token"
_SENTENCEPIECE = "llama"
_BYTE_LEVEL = ("gpt2", "gemma4")
_TOKENS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_STRIPPING, _NOT_STRIPPING = ("phi-3", "phi3"), ("<unk>", "<s>", "<|endoftext|>")
# Where a file says nothing of them; a byte-level one then has none.
_SENTENCEPIECE_IDS = {"unknown": 0, "bos": 1, "eos": 2}
# Tokens that end an answer in llama.cpp by their names, beside the ids that a file has for it.
ENDS_BY_NAME = frozenset(
    [
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|flush|>",
        "<|calls|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<eos>",
        "<turn|>",
        "<｜end▁of▁sentence｜>",
        "[e~[",
    ]
)


def token_id(keys: dict[str, Any], name: str) -> int | None:
    """The id that a file has for `bos`, `eos`, `unknown`, `padding` and so on; None where it has none."""
    default = _SENTENCEPIECE_IDS.get(name) if keys.get("tokenizer.ggml.model") == _SENTENCEPIECE else None
    found = keys.get(f"tokenizer.ggml.{name}_token_id", default)
    return found if found is not None and 0 <= found < len(keys.get("tokenizer.ggml.tokens") or []) else None


def tokenizer_files(keys: dict[str, Any], source: Path) -> TokenizerFiles:
    """The tokenizer of a file.

    Raises:
        UserError: a vocabulary of a kind that is not read here, or of a splitting that is not known.
    """
    kind = keys.get("tokenizer.ggml.model", "no")
    pieces, _ = pieces_of(keys, source) if kind in (_SENTENCEPIECE, *_BYTE_LEVEL) else ([], [])
    config: dict[str, Any] = {
        name: pieces[number]
        for name, said in _TOKENS.items()
        if (number := token_id(keys, said)) is not None and pieces
    }
    config["add_eos_token"] = False
    template = keys.get(TEMPLATE, "")
    if kind == _SENTENCEPIECE:
        config |= {"tokenizer_class": "LlamaTokenizer", "add_bos_token": bool(keys.get(_ADD_BOS, True)), "legacy": True}
        if strips := _stripping(keys, pieces):
            config["added_tokens_decoder"] = strips
        return TokenizerFiles(source, sentencepiece=sentencepiece_model(keys), config=config, template=template)
    if kind in _BYTE_LEVEL:
        begins = "bos_token" in config and bool(keys.get(_ADD_BOS, file_splitting(keys, source).begins))
        config |= {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": begins}
        config["clean_up_tokenization_spaces"] = False
        begin = config["bos_token"] if begins else ""
        return TokenizerFiles(source, json=byte_level_json(keys, source, begin), config=config, template=template)
    raise UserError(
        f"{source} has {kind} vocabulary; expected a SentencePiece one (llama) or a byte-level one (gpt2). Take "
        "another model, or export this one again from its folder: python tools/export_gguf.py."
    )


def _stripping(keys: dict[str, Any], pieces: list[str]) -> dict[str, Any]:
    """Control tokens that take the blanks behind them away, as tokenizer_config.json has them: a file does not say it,
    and llama.cpp goes by its name.
    """
    name = str(keys.get("general.name", "")).lower()
    if not any(one in name for one in _STRIPPING):
        return {}
    types = keys.get("tokenizer.ggml.token_type") or []
    return {
        str(number): {"content": piece, "lstrip": False, "rstrip": True, "normalized": False, "special": True}
        for number, (piece, kind) in enumerate(zip(pieces, types, strict=False))
        if kind == CONTROL and piece not in _NOT_STRIPPING
    }


def end_ids(keys: dict[str, Any]) -> list[int]:
    """Every id that ends an answer: EOS first, then those of turns and messages, then those that go by their names."""
    pieces, types = keys.get("tokenizer.ggml.tokens") or [], keys.get("tokenizer.ggml.token_type") or []
    named = [token_id(keys, name) for name in ("eos", "eot", "eom")]
    named += [
        number
        for number, (piece, kind) in enumerate(zip(pieces, types, strict=False))
        if kind in (CONTROL, USER_DEFINED) and piece in ENDS_BY_NAME
    ]
    return list(dict.fromkeys(number for number in named if number is not None))


def sentencepiece_model(keys: dict[str, Any]) -> bytes:
    """The SentencePiece model that a GGUF file's vocabulary was, serialised.

    Padding above the tokenizer, `[PAD32000]` and so on, is left out.
    """
    from sentencepiece import sentencepiece_model_pb2

    pieces = list(keys.get("tokenizer.ggml.tokens", []))
    scores = keys.get("tokenizer.ggml.scores", [0.0] * len(pieces))
    types = keys.get("tokenizer.ggml.token_type", [1] * len(pieces))
    # Padding is of the type "unused", in files of some older converters "unknown".
    while pieces and types[len(pieces) - 1] in (UNUSED, UNKNOWN) and pieces[-1] == padding_token(len(pieces) - 1):
        pieces.pop()
    unknown = keys.get("tokenizer.ggml.unknown_token_id", 0)
    proto = sentencepiece_model_pb2.ModelProto()
    for number, (piece, score, kind) in enumerate(zip(pieces, scores, types, strict=False)):
        # SentencePiece wants one unknown piece and no more, whatever those converters said of it.
        kind = UNKNOWN if number == unknown else CONTROL if kind == UNKNOWN else kind
        # llama.cpp's converter writes the spaces of user-defined pieces as spaces.
        proto.pieces.add(piece=piece.replace(" ", "▁"), score=score, type=kind)
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    trainer.model_type = sentencepiece_model_pb2.TrainerSpec.BPE
    trainer.vocab_size = len(pieces)
    trainer.byte_fallback = 6 in types
    ids = [unknown, keys.get("tokenizer.ggml.bos_token_id", 1), keys.get("tokenizer.ggml.eos_token_id", 2)]
    # Files say by the largest number that there is none.
    trainer.unk_id, trainer.bos_id, trainer.eos_id = (one if one < 1 << 31 else -1 for one in ids)
    trainer.pad_id = -1
    for name, number in (("unk", trainer.unk_id), ("bos", trainer.bos_id), ("eos", trainer.eos_id)):
        if 0 <= number < len(pieces):  # SentencePiece finds these ids by their pieces
            setattr(trainer, f"{name}_piece", proto.pieces[number].piece)
    if UNKNOWN_TEXT in keys:
        trainer.unk_surface = keys[UNKNOWN_TEXT]
    normalizer.name = "identity"
    normalizer.precompiled_charsmap = bytes(keys.get("tokenizer.ggml.precompiled_charsmap", []))
    normalizer.add_dummy_prefix = keys.get("tokenizer.ggml.add_space_prefix", True)
    normalizer.remove_extra_whitespaces = keys.get("tokenizer.ggml.remove_extra_whitespaces", False)
    normalizer.escape_whitespaces = True
    return proto.SerializeToString()


def padding_token(number: int) -> str:
    """The name of a row above the tokenizer, as llama.cpp's converter gives it."""
    return f"[PAD{number}]"
