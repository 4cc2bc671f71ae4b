"""Pieces of their own in a tokenizer.model, as chat models have them."""

import json
from pathlib import Path

from sentencepiece import sentencepiece_model_pb2

# Kinds of user-defined pieces, with the spaces as SentencePiece writes them.
USER_DEFINED = {
    "a marker": ["<ctx>"],
    "a space within": ["a▁b"],
    "a space before": ["▁<x>"],
    "runs of spaces": ["▁▁", "▁▁▁"],
    "a newline": ["\n"],
    "one within another": ["<a>", "<a>b"],
    "digits": ["1", "2"],
    "signs of expressions": ["(?|)", "[a-z]+"],
}


def name_pieces(folder: Path, *names: str, kind: str = "USER_DEFINED", first: int = 1700, **normalizer: bool) -> None:
    """Make pieces of a folder's tokenizer.model user-defined or control ones: that of the name, or one from `first` on.

    Args:
        normalizer: settings of its normalizer_spec.
    """
    file = folder / "tokenizer.model"
    proto = sentencepiece_model_pb2.ModelProto.FromString(file.read_bytes())
    places = {piece.piece: number for number, piece in enumerate(proto.pieces)}
    for number, name in enumerate(names, first):
        piece = proto.pieces[places.get(name, number)]
        piece.piece, piece.type = name, getattr(proto.SentencePiece, kind)
    for name, value in normalizer.items():
        setattr(proto.normalizer_spec, name, value)
    file.write_bytes(proto.SerializeToString())


def cut_at_token(folder: Path, number: int, name: str) -> None:
    """Make a piece a token of the tokenizers library in tokenizer.json, as other conversions do; it cuts the text."""
    file = folder / "tokenizer.json"
    spec = json.loads(file.read_text(encoding="utf-8"))
    flags = dict.fromkeys(("special", "normalized", "single_word", "lstrip", "rstrip"), False)
    spec["pre_tokenizer"] = None
    spec["added_tokens"].append({"id": number, "content": name, **flags})
    file.write_text(json.dumps(spec), encoding="utf-8")
