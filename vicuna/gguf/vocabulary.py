"""The vocabulary of a LLaMA as keys of a GGUF file: SentencePiece's, or a byte-level one of a tokenizer.json.

llama.cpp has the second kind too, if it knows by name how texts are cut before bytes are merged; see
`vicuna.gguf.pre_tokenizers`.
"""

import json
from collections.abc import Sequence
from typing import Any

from vicuna.errors import UserError
from vicuna.gguf.pre_tokenizers import pre_tokenizer_name
from vicuna.gguf_file.byte_level import CONTROL, NORMAL, UNUSED, USER_DEFINED
from vicuna.gguf_file.vocabulary import UNKNOWN_TEXT, padding_token
from vicuna.model.base import Base
from vicuna.model.token_ids import added_tokens
from vicuna.prompt.tokenizer import TextTokenizer


def has_known_vocabulary(tokenizer: TextTokenizer) -> bool:
    """Whether `add_vocabulary` can write it: SentencePiece's, or a byte-level one whose cuts llama.cpp knows."""
    json_text = tokenizer.files.json
    return json_text is None or bool(pre_tokenizer_name(json_text))


def add_vocabulary(writer: Any, base: Base, ends: Sequence[int]) -> None:
    """Everything about the tokenizer but the chat template.

    Args:
        ends: ids that end an answer, see `vicuna.gguf.ends.ordered_ends`.

    Raises:
        UserError: a vocabulary that other programs would read otherwise.
    """
    if base.tokenizer.files.json is None:
        _add_pieces(writer, base)
    else:
        _add_byte_level(writer, base, base.tokenizer.files.json)
    tokenizer = base.tokenizer
    for kind, number in zip(("eos", "eot", "eom"), ends, strict=False):
        getattr(writer, f"add_{kind}_token_id")(number)
    for kind, number in (("bos", tokenizer.bos_id), ("unk", tokenizer.unk_id), ("pad", base.config.pad_token_id)):
        if number is not None:
            getattr(writer, f"add_{kind}_token_id")(number)
    writer.add_add_bos_token(bool(tokenizer.beginning))
    writer.add_add_eos_token(False)


def _add_pieces(writer: Any, base: Base) -> None:
    """Pieces, scores and types as SentencePiece has them, and a row of padding for each further row of the model."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(base.tokenizer.files.sentencepiece)
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    if (
        trainer.model_type != trainer.BPE
        or trainer.treat_whitespace_as_suffix
        or not normalizer.escape_whitespaces
        or normalizer.precompiled_charsmap
    ):
        raise UserError(
            f"{base.tokenizer.source} is not a BPE model with LLaMA's settings, the only kind that llama.cpp's "
            "vocabulary of type llama stands for; its ids would differ in other programs."
        )
    rows = range(len(proto.pieces), base.config.vocab_size)
    added = {row: name for row, name in added_tokens(base.path).items() if row in rows}
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(
        [_name(piece) for piece in proto.pieces] + [added.get(row, padding_token(row)) for row in rows]
    )
    writer.add_token_scores([piece.score for piece in proto.pieces] + [-10000.0] * len(rows))
    # Named rows above the tokenizer are control ids: text never becomes one on our paths, either.
    types = [int(piece.type) for piece in proto.pieces] + [CONTROL if row in added else UNUSED for row in rows]
    writer.add_token_types(types)
    writer.add_add_space_prefix(normalizer.add_dummy_prefix)
    writer.add_remove_extra_whitespaces(normalizer.remove_extra_whitespaces)
    writer.add_string(UNKNOWN_TEXT, trainer.unk_surface)


def _name(piece: Any) -> str:
    """A piece as llama.cpp has it: user-defined ones are looked for in the text itself, before its spaces are `▁`.

    Runs of spaces are better left to merging, which does not cut the text.
    """
    in_text = piece.type == piece.USER_DEFINED and piece.piece.strip("▁")
    return piece.piece.replace("▁", " ") if in_text else piece.piece


def _add_byte_level(writer: Any, base: Base, text: str) -> None:
    """Pieces and merges of a tokenizer.json, its added tokens by their type, and padding for each further row."""
    spec = json.loads(text)
    names = {number: piece for piece, number in spec["model"]["vocab"].items()}
    types = dict.fromkeys(names, NORMAL)
    for token in spec.get("added_tokens") or ():
        names[token["id"]] = token["content"]
        types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    rows = range(base.config.vocab_size)
    pieces = [names.get(row, padding_token(row)) for row in rows]
    if twice := len(pieces) - len(set(pieces)):
        raise UserError(
            f"{base.tokenizer.source} has {twice} pieces twice, which llama.cpp does not open: copy the base's own."
        )
    merges = spec["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer_name(text))
    writer.add_token_list(pieces)
    writer.add_token_types([types.get(row, UNUSED) for row in rows])
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
