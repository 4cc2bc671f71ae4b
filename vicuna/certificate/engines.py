"""A chat template in the three programs that people ask a model with: do they render the same prompt?

transformers is what training renders with, and vLLM; llama-cpp-python has a renderer of its own, and functions in the
place of a few templates that it knows by heart; llama.cpp's server has a third. They agree on most templates, and part
at what templates seldom hold: full-width spaces, numbers in calls, messages without content, the day.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vicuna.errors import UserError, first_line
from vicuna.gguf.llama_cpp_source import render_in_llama_cpp
from vicuna.gguf_file.reader import optional_package

TRANSFORMERS, LLAMA_CPP_PYTHON, LLAMA_CPP = ENGINES = ("transformers", "llama-cpp-python", "llama.cpp")
OFF = "--reasoning off"  # llama-server's flag
SAME, PARTED, UNLIKE, NOT_RENDERED = "same", "parts", "differs", "not rendered"


@dataclass(frozen=True)
class Dialogue:
    """Messages to render.

    Attributes:
        plain: what everybody asks, which no program may render otherwise.
    """

    name: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    plain: bool = True


@dataclass(frozen=True)
class Rendering:
    """The prompt of a dialogue, None and the program's own words where it refuses."""

    text: str | None
    refusal: str = ""


@dataclass(frozen=True)
class Parting:
    """A dialogue that a program renders otherwise than transformers; `why` is a sentence's end."""

    engine: str
    dialogue: str
    plain: bool
    why: str


@dataclass(frozen=True)
class EngineComparison:
    """What the programs make of a template.

    Attributes:
        asked: number of dialogues; refused: how many of them transformers refuses, where nothing is compared.
        missing: a program that is not installed -> how to install it.
        switched: llama.cpp's server asks everybody's questions otherwise unless its thinking is switched off, with
            which it was compared.
    """

    asked: int
    refused: int
    partings: list[Parting] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    switched: bool = False

    @property
    def verdict(self) -> str:
        """`SAME`, `PARTED` at what is seldom asked, `UNLIKE` at what everybody asks; `NOT_RENDERED` by all."""
        if any(one.plain for one in self.partings):
            return UNLIKE
        if self.partings or self.switched:
            return PARTED
        return NOT_RENDERED if self.missing or self.refused == self.asked else SAME

    def not_rendered(self) -> list[str]:
        """Which programs could not be asked, in a sentence each."""
        return [f"templates are not rendered by {engine}: {why}" for engine, why in self.missing.items()]

    def lines(self) -> list[str]:
        """Where the programs part, in a sentence each."""
        found = []
        if self.refused == self.asked:
            found.append("the template is not rendered: transformers refuses every dialogue")
        for engine in ENGINES[1:]:
            if own := [one for one in self.partings if one.engine == engine]:
                named = ", ".join(dict.fromkeys(one.dialogue for one in own))
                first = next((one for one in own if one.plain), own[0])
                found.append(
                    f"{engine} renders {len(own)} of {self.asked - self.refused} dialogues otherwise than transformers "
                    f"({named}); {first.dialogue}: {first.why}"
                )
        if self.switched:
            found.append("llama.cpp's server lets the model think where transformers does not: start it with " + OFF)
        return found


def compare_engines(template: str, bos: str, eos: str, dialogues: Sequence[Dialogue]) -> EngineComparison:
    """Render dialogues by every program that is there, and compare each with transformers.

    Args:
        bos, eos: the tokens' texts, "" where there is none.
    """
    expected = render_in_transformers(template, bos, eos, dialogues)
    partings, missing, switched = [], {}, False
    try:
        found = render_in_llama_cpp_python(template, bos, eos, dialogues)
        partings += _partings(LLAMA_CPP_PYTHON, dialogues, expected, found)
    except UserError as error:
        missing[LLAMA_CPP_PYTHON] = str(error)
    try:
        own = _partings(LLAMA_CPP, dialogues, expected, render_in_server(template, bos, eos, dialogues))
        if any(one.plain for one in own) and "enable_thinking" in template:
            found = render_in_server(template, bos, eos, dialogues, enable_thinking=False)
            other = _partings(LLAMA_CPP, dialogues, expected, found)
            if not any(one.plain for one in other):
                own, switched = other, True
        partings += own
    except UserError as error:
        missing[LLAMA_CPP] = str(error)
    return EngineComparison(len(dialogues), sum(one.text is None for one in expected), partings, missing, switched)


def _partings(
    engine: str, dialogues: Sequence[Dialogue], expected: Sequence[Rendering], found: Sequence[Rendering]
) -> list[Parting]:
    return [
        Parting(engine, dialogue.name, dialogue.plain, _first_difference(own.text, other))
        for dialogue, own, other in zip(dialogues, expected, found, strict=True)
        if own.text is not None and own.text != other.text
    ]


def _first_difference(expected: str, found: Rendering, width: int = 24) -> str:
    """Where two renderings part, with what stands there."""
    if found.text is None:
        return f"it refuses ({found.refusal})"
    pairs = zip(expected, found.text, strict=False)
    shorter = min(len(expected), len(found.text))
    at = next((number for number, (one, other) in enumerate(pairs) if one != other), shorter)
    before = max(0, at - width // 2)
    parts = [text[before : at + width] for text in (found.text, expected)]
    return f"{parts[0]!r} in place of {parts[1]!r}, from character {at}"


def render_in_transformers(template: str, bos: str, eos: str, dialogues: Sequence[Dialogue]) -> list[Rendering]:
    """As `apply_chat_template` does."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokens = {name: text for name, text in (("bos_token", bos), ("eos_token", eos)) if text}
    renderer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), chat_template=template, **tokens)
    found = []
    for one in dialogues:
        try:
            text = renderer.apply_chat_template(
                one.messages, tools=one.tools, tokenize=False, add_generation_prompt=True
            )
            found.append(Rendering(text))
        except Exception as error:  # a template is a program of somebody else: it ends with whatever it raises
            found.append(Rendering(None, first_line(error)))
    return found


class _PromptAsked(Exception):
    """What is asked of the model that `_Listener` stands for."""


class _Listener:
    """In the place of the model that a handler asks: it takes the prompt, and answers nothing."""

    verbose = False

    def tokenize(self, text: bytes, **_: Any) -> list[int]:
        raise _PromptAsked(text.decode())


def render_in_llama_cpp_python(template: str, bos: str, eos: str, dialogues: Sequence[Dialogue]) -> list[Rendering]:
    """As the handler does that `Llama.create_chat_completion` takes for a file with this template.

    Raises:
        UserError: it is not installed.
    """
    formats = optional_package("llama_cpp.llama_chat_format")
    known = formats.guess_chat_format_from_gguf_metadata({"tokenizer.chat_template": template})
    found = []
    try:
        if known:
            handler = formats.get_chat_completion_handler(known)
        else:
            handler = formats.Jinja2ChatFormatter(template, eos_token=eos, bos_token=bos).to_chat_handler()
    except Exception as error:
        return [Rendering(None, first_line(error))] * len(dialogues)
    for one in dialogues:
        try:
            handler(llama=_Listener(), messages=one.messages, tools=one.tools)
        except _PromptAsked as asked:
            found.append(Rendering(str(asked)))
        except Exception as error:
            found.append(Rendering(None, first_line(error)))
    return found


def render_in_server(
    template: str, bos: str, eos: str, dialogues: Sequence[Dialogue], **settings: Any
) -> list[Rendering]:
    """As llama.cpp's server does, which gives templates the day and lets those think that can, unless told otherwise.

    Raises:
        UserError: its engine is not there.
    """
    asked = [
        {
            "template": template, "messages": one.messages, "tools": one.tools, "add_generation_prompt": True,
            "bos_token": bos, "eos_token": eos, "kwargs": settings,
        }
        for one in dialogues
    ]  # fmt: skip
    return [
        Rendering(one.get("text"), (one.get("error", "").strip().splitlines() or [""])[-1].removeprefix("Error: "))
        for one in render_in_llama_cpp(asked)
    ]
