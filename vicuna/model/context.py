"""How long a base's sequences may be, read from its config.

Where RoPE is scaled, max_position_embeddings is the length before the scaling in some configs, and in others the one
behind it. transformers has it left as it was; Vicuna 16k and Qwen do that, Chinese-Alpaca-2 16k and LLaMA-2-7B-32K do
not. Other fields tell which, and else the size does.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vicuna.errors import UserError
from vicuna.files.json_files import read_json

# Kinds of scaling by one factor. Llama 3's own, and long-text factors, stand beside the length that came of them.
BY_A_FACTOR = ("linear", "dynamic", "yarn")
ORIGINAL = "original_max_position_embeddings"
# Fields in which configs of longer copies, or their tokenizer_config.json, name the length in tokens.
LENGTH_FIELDS = ("max_sequence_length", "max_seq_length", "max_seq_len", "seq_length", "model_max_length")
SHORTEST_LLAMA = 2048  # tokens that the first LLaMA was made for, and none of its successors for fewer


@dataclass(frozen=True)
class Context:
    """How long sequences may be.

    Attributes:
        tokens: without end where nothing names a length.
        reason: why, where RoPE is scaled, or where the user said so; "" otherwise.
    """

    tokens: int
    reason: str = ""


def read_context(folder: Path, config: Any, asked: int | None = None) -> Context:
    """What the fields of a base say, or what --context asks for.

    Raises:
        UserError: --context is above what the base has positions for.
    """
    found = _declared_context(folder, config)
    if asked is None or asked == found.tokens:
        return found
    if asked > found.tokens and not getattr(config, "rope_parameters", None):
        raise UserError(
            f"--context {asked} is above the {found.tokens} positions of {folder}, which are weights of it, not RoPE: "
            f"take at most {found.tokens}."
        )
    own = "" if found.tokens == sys.maxsize else f", where its config comes to {found.tokens}"
    return Context(asked, f"as --context says{own}")


def _declared_context(folder: Path, config: Any) -> Context:
    held = getattr(config, "max_position_embeddings", None)
    if not isinstance(held, int):
        return Context(sys.maxsize)
    rope = getattr(config, "rope_parameters", None) or {}
    nested = [one for one in rope.values() if isinstance(one, dict)]  # layers of several kinds, each with its own
    said = read_json(folder / "config.json")
    named = _named_lengths(said, read_json(folder / "tokenizer_config.json"))
    own = [_scaled(held, one, _original(said, one), named) for one in nested or [rope]]
    return min(own, key=lambda context: context.tokens)


def _original(said: dict[str, Any], rope: dict[str, Any]) -> int | None:
    """The length before the scaling, where config.json has it: transformers fills it in where it has not."""
    scaling = said.get("rope_parameters") or said.get("rope_scaling") or {}
    places = [said, scaling, *(one for one in scaling.values() if isinstance(one, dict))]
    value = rope.get(ORIGINAL) or said.get(ORIGINAL)
    return value if isinstance(value, int) and any(one.get(ORIGINAL) for one in places) else None


def _named_lengths(*sources: dict[str, Any]) -> list[tuple[str, int]]:
    """The fields that name a length, with it."""
    return [
        (name, int(source[name]))
        for source in sources
        for name in LENGTH_FIELDS
        if isinstance(source.get(name), (int, float)) and 0 < source[name] < 1 << 40  # 1e30: no length at all
    ]


def _scaled(held: int, rope: dict[str, Any], original: int | None, named: list[tuple[str, int]]) -> Context:
    """The length under one kind of scaling.

    Args:
        held: max_position_embeddings.
        named: what other fields name.
    """
    kind, factor = rope.get("rope_type"), rope.get("factor")
    if not isinstance(factor, (int, float)) or factor <= 1:
        return Context(held)
    scaling = f"RoPE scaling {kind} x {factor:g}"
    if original:
        if original < held and (kind not in BY_A_FACTOR or original * factor <= held):
            return Context(held, f"{scaling} over {ORIGINAL} {original} is already in max_position_embeddings {held}")
        return Context(int(original * factor), f"{scaling} over {ORIGINAL} {original}")
    if kind not in BY_A_FACTOR:
        return Context(held)
    scaled = int(held * factor)
    for field, length in named:
        if held < length <= scaled:
            return Context(length, f"{scaling} over max_position_embeddings {held}, and {field} says {length}")
    for field, length in named:
        if length * factor <= held:
            return Context(held, f"{scaling} is already in max_position_embeddings {held}: {field} says {length}")
    if held >= SHORTEST_LLAMA * factor:
        return Context(
            held,
            f"{scaling} is taken to be in max_position_embeddings {held} already, which is no less than {factor:g} "
            f"times the {SHORTEST_LLAMA} tokens of the first LLaMA",
        )
    return Context(scaled, f"{scaling} over max_position_embeddings {held}, which is the length before it")


def depends_on_length(config: Any, context: int) -> bool:
    """Whether a position's keys depend on how long the text becomes, as with LongRoPE (2402.13753) and dynamic NTK."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {rope.get("rope_type"), *(one.get("rope_type") for one in rope.values() if isinstance(one, dict))}
    return "longrope" in kinds or ("dynamic" in kinds and context > config.max_position_embeddings)
