"""The published sets by name, and the mixes that the original and Chinese-LLaMA-Alpaca were trained on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from vicuna.conversion import general, legal
from vicuna.conversion.asking import DOCTOR, JUDGE, LAWYER, Asked
from vicuna.conversion.cmedqa2 import read_cmedqa2
from vicuna.conversion.found import Dialogues, Found, Options, read_each


@dataclass(frozen=True)
class PublishedSet:
    """A set of data that people have under a name.

    Attributes:
        read: paths -> its dialogues, each with its place.
        asked: how its questions are asked, None for a set of no domain.
    """

    read: Callable[[Sequence[str], Options], Iterator[Found]]
    asked: Asked | None = None


def _rows(read: Callable[[object, Options], Dialogues], asked: Asked | None = None) -> PublishedSet:
    return PublishedSet(partial(read_each, read), asked)


SETS = {
    "cmedqa2": PublishedSet(read_cmedqa2, DOCTOR),
    "huatuo": _rows(general.read_known, DOCTOR),
    "lawyer-llama": _rows(legal.read_counsel, LAWYER),
    "cail": _rows(legal.read_verdict, JUDGE),
    "sharegpt": _rows(general.read_sharegpt),
    "moss": _rows(general.read_known),
    "firefly": _rows(general.read_known),
    "belle": _rows(general.read_belle),
    "guanaco": _rows(general.read_guanaco),
    "pclue": _rows(general.read_known),
    "promptcblue": _rows(general.read_known),
    "kdconv": _rows(general.read_kdconv),
    "translation": _rows(general.read_translation),
    "alpaca": _rows(general.read_known),
}
LANGUAGES = ("any", "zh")


@dataclass(frozen=True)
class Part:
    """What a mix takes of a set: at most so many rows, 0 for all; in one language."""

    rows: int = 0
    language: str = "any"


@dataclass(frozen=True)
class Mix:
    to: str
    parts: dict[str, Part]


MIXES = {
    # About 700,000 rows, of which the original is trained.
    "belle_guanaco": Mix("instruct", {"belle": Part(), "guanaco": Part()}),
    # The original's dialogues: Chinese ShareGPT and alpaca_chinese_dataset.
    "instruct_chat_50k": Mix("chat", {"sharegpt": Part(30_000, "zh"), "alpaca": Part(20_000)}),
    # Chinese-LLaMA-Alpaca's Alpaca-7B: 2 million rows of instructions.
    "chinese_alpaca": Mix(
        "instruct",
        {"translation": Part(500_000), "pclue": Part(300_000), "alpaca": Part()},
    ),
}
