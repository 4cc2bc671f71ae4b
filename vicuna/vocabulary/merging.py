"""The pieces of one SentencePiece model put behind those of another.

A piece is new when the base has none of the same text; the base's pieces and their ids stay as they are. `ranked` goes
on with the base's own order of merges, and leaves pure ASCII out: so every program finds the same pieces, and text
without new ones stays as it was. `compat` is what Chinese-LLaMA-Alpaca did, byte by byte: every new piece scores 0,
above all of LLaMA's merges and equal to each other.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vicuna.errors import UserError

SPACE = "▁"
PAD = "[PAD]"


@dataclass
class Merge:
    """A merged model and what became of the other one's pieces.

    Attributes:
        first_new: id of the first new piece.
        duplicates: kind -> pieces that the base has already.
        left_out: why -> pieces that are in neither.
        pad: the padding piece, "" where there is none.
    """

    proto: Any
    base_size: int
    other_size: int
    first_new: int
    duplicates: Counter = field(default_factory=Counter)
    left_out: Counter = field(default_factory=Counter)
    pad: str = ""

    @property
    def new_pieces(self) -> list[str]:
        """What was put behind the base's pieces, but for the padding."""
        pieces = [piece.piece for piece in self.proto.pieces[self.first_new :]]
        return pieces[:-1] if self.pad else pieces


def merge_models(base: Any, other: Any, mode: str = "ranked", keep_ascii: bool = False, pad: str = "") -> Merge:
    """The model `base` with the new pieces of `other` behind its own, and the padding piece behind these.

    Raises:
        UserError: the base does not merge pairs; nothing is new; or the padding piece is there already.
    """
    if base.trainer_spec.model_type != base.trainer_spec.BPE:
        raise UserError(
            "the base's tokenizer.model does not merge pairs (it is of SentencePiece's unigram kind), so pieces of "
            "another one have no place in its order: take the tokenizer.model of a LLaMA."
        )
    proto = type(base)()
    proto.CopyFrom(base)
    merge = Merge(proto, len(base.pieces), len(other.pieces), len(base.pieces), pad=pad)
    have = {piece.piece for piece in base.pieces}
    scores = iter(()) if mode == "compat" else _scores_below(base, len(other.pieces))
    for piece in other.pieces:
        if piece.piece in have:
            merge.duplicates[_kind(piece)] += 1
        elif mode == "compat":
            # The type is left at its default, as it was then: what is set is written, and changes the file.
            proto.pieces.add(piece=piece.piece, score=0)
        elif reason := _unwanted(piece, keep_ascii):
            merge.left_out[reason] += 1
        else:
            proto.pieces.add(piece=piece.piece, score=next(scores), type=piece.type)
    if len(proto.pieces) == merge.base_size:
        raise UserError("every piece of the other model is in the base already, or left out: there is nothing to add.")
    if pad:
        _add_padding(proto, pad, mode)
    return merge


def _add_padding(proto: Any, pad: str, mode: str) -> None:
    if pad in {piece.piece for piece in proto.pieces}:
        raise UserError(f"--pad {pad} is a piece already; leave --pad out, or name another.")
    if mode == "compat":
        proto.pieces.add(piece=pad, score=0)
        return
    proto.trainer_spec.pad_id, proto.trainer_spec.pad_piece = len(proto.pieces), pad
    proto.pieces.add(piece=pad, score=0, type=proto.SentencePiece.CONTROL)


def _scores_below(base: Any, count: int):
    """Scores that go on with the base's order of merges, each below the one before.

    Runs of spaces stand apart: LLaMA has them all at -1e9, where float32 can not tell neighbours apart.
    """
    ranked = [piece.score for piece in base.pieces if piece.type == piece.NORMAL and piece.piece.strip(SPACE)]
    scores = (np.float32(min(ranked, default=0)) - np.arange(1, count + 1, dtype=np.float32)).tolist()
    if len(set(scores)) < count or scores[0] >= min(ranked, default=1):
        raise UserError(
            f"the base's lowest score is {min(ranked):g}, below which there is no room for {count} more: it is no "
            "tokenizer.model of a LLaMA. Take --mode compat, if that is what you want."
        )
    return iter(scores)


def _unwanted(piece: Any, keep_ascii: bool) -> str:
    if piece.type not in (piece.NORMAL, piece.USER_DEFINED):
        return "control or byte pieces"
    return "ASCII" if not keep_ascii and piece.piece.strip(SPACE).isascii() else ""


def _kind(piece: Any) -> str:
    if piece.type not in (piece.NORMAL, piece.USER_DEFINED):
        return "control or byte pieces"
    if len(piece.piece) > 1:
        return "of several characters"
    return "single Chinese characters" if is_chinese(piece.piece) else "other single characters"


def is_chinese(text: str) -> bool:
    """Whether a text has a Chinese character, of those that are in use."""
    return any("\u3400" <= sign <= "\u9fff" or "\U00020000" <= sign <= "\U0003ffff" for sign in text)
