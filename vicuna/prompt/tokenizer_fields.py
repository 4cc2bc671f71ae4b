"""What the JSON files of a tokenizer may say, field by field, before a library sees them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, SkipValidation, model_validator

from vicuna.foreign.typed import Foreign, Id, Name, Text, opens, parse, typed

# How many times longer a text may become before it is cut: each replacement multiplies. Of real ones the most is 32.
MOST_GROWTH = 1024
_LARGEST = 1 << 24  # of ids, as `Id` has it
_STEPS = ("normalizers", "pretokenizers", "decoders", "processors")
Any_ = SkipValidation[Any]


class NamedToken(Foreign):
    """A token by its text, and what it takes away beside it."""

    content: Text
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False


class NumberedToken(NamedToken):
    """A token that is added to the pieces of a model."""

    id: Id


def _named(value: Any) -> Any:
    return {"content": value} if isinstance(value, str) else value


Token = Annotated[NamedToken | None, BeforeValidator(_named)]
Digits = Annotated[str, Field(pattern=r"^[0-9]{1,8}$")]


def _templates(value: Any) -> Any:
    """A template, or several with names; of another kind, as nobody's is, none is read."""
    return value if value is None or isinstance(value, str | list) else None


@opens({
    **{"bos_token": "<s>", "eos_token": {"content": "</s>", "special": True, "lstrip": False, "rstrip": False}},
    **{"unk_token": "<unk>", "pad_token": None, "add_bos_token": True, "tokenizer_class": "LlamaTokenizer"},
    **{"chat_template": [{"name": "default", "template": "{{ messages }}"}], "model_max_length": 1e30},
    **{"auto_map": {"AutoTokenizer": ["own.Own", None]}, "added_tokens_decoder": {"32000": {"content": "<pad>"}}},
})  # fmt: skip
class TokenizerSettings(Foreign):
    """tokenizer_config.json, and special_tokens_map.json, which older folders have the tokens in."""

    bos_token: Token = None
    eos_token: Token = None
    unk_token: Token = None
    pad_token: Token = None
    add_bos_token: bool | None = None
    tokenizer_class: Name | None = None
    chat_template: Any_ = None
    model_max_length: Annotated[float, Field(allow_inf_nan=True)] | None = None
    auto_map: Any_ = None
    added_tokens_decoder: Annotated[dict[Digits, NamedToken], Field(max_length=100_000)] | None = None


def growth(part: Any) -> int:
    """How many times longer the replacements of a normaliser or a decoder can make a text, one after the other."""
    if not isinstance(part, Mapping):
        return 1
    total = 1
    for key in _STEPS:
        for one in part.get(key) if isinstance(part.get(key), list) else ():
            total = min(total * growth(one), 1 << 60)
    if part.get("type") == "Replace":
        pattern = part.get("pattern")
        width = len(str(pattern["String"])) if isinstance(pattern, Mapping) and pattern.get("String") else 1
        total *= max(1, -(-len(str(part.get("content", ""))) // width))
    return total


class TokenizerModel(Foreign):
    """The pieces of a tokenizer.json, numbered, or in a list with their scores."""

    type: Name | None = None
    vocab: Any_ = None

    @model_validator(mode="after")
    def _numbered(self) -> Self:
        if isinstance(self.vocab, dict):
            for piece, number in self.vocab.items():
                if type(number) is not int or not 0 <= number <= _LARGEST:
                    raise ValueError(f"whole numbers up to {_LARGEST:,} as ids, in place of that of {piece[:20]!r}")
        return self


@opens({
    "added_tokens": [{"id": 1, "content": "<s>", "special": True, "lstrip": False, "rstrip": False}],
    **{"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, "pre_tokenizer": None},
    **{"post_processor": None, "decoder": {"type": "Sequence", "decoders": [{"type": "Fuse"}]}},
    "model": {"type": "BPE", "vocab": {"a": 0}},
})  # fmt: skip
class TokenizerSpec(Foreign):
    """tokenizer.json."""

    added_tokens: Annotated[list[NumberedToken], Field(max_length=100_000)] | None = None
    normalizer: dict[Name, Any_] | None = None
    pre_tokenizer: dict[Name, Any_] | None = None
    post_processor: dict[Name, Any_] | None = None
    decoder: dict[Name, Any_] | None = None
    model: TokenizerModel

    @model_validator(mode="after")
    def _grows_little(self) -> Self:
        for name in ("normalizer", "decoder"):
            if (found := growth(getattr(self, name))) > MOST_GROWTH:
                raise ValueError(
                    f"a {name} that makes a text at most {MOST_GROWTH:,} times longer, and this one makes it {found:,}"
                )
        return self

    @property
    def largest(self) -> int:
        """The largest id; -1 without any."""
        vocab = self.model.vocab
        pieces = vocab.values() if isinstance(vocab, dict) else [len(vocab) - 1] if isinstance(vocab, list) else ()
        return max([*pieces, *(one.id for one in self.added_tokens or ())], default=-1)


def check_spec(text: bytes, source: Path) -> TokenizerSpec:
    """What a tokenizer.json says.

    Raises:
        UserError: which field is not what the library takes, or would have it make room without end.
    """
    return typed(parse(text, source), TokenizerSpec, source)
