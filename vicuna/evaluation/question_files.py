"""Files of questions to be answered side by side: records as in training, and what only a question has.

`category` is what it is about, `settings` decoding settings of its own, and `follow_ups` further questions, each asked
behind the model's own answers to those before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from vicuna.answer.flags import DecodingFlags
from vicuna.data.flags import ReadFlags
from vicuna.data.questions import read_questions
from vicuna.data.records import Source, open_sources
from vicuna.errors import UserError
from vicuna.prompt.templates import Message

SETTINGS = {one.name: one for one in fields(DecodingFlags)}


@dataclass(frozen=True)
class Ask:
    """A turn that is to be answered.

    Attributes:
        record: its number over all files, from 1; question: that of its first turn.
        turn: 0 for the first, whose messages stand in the file.
        messages: of the file, the last of them the user's; for later turns the user's message alone.
        settings: the question's own.
    """

    record: int
    question: int
    turn: int
    messages: list[Message]
    category: str
    settings: dict[str, Any]
    reference: str | None
    place: str


def read_asks(read: ReadFlags) -> tuple[list[Source], list[Ask]]:
    """Every turn to be answered, in the order of the files.

    Raises:
        UserError: files or rows that can not be used.
    """
    sources = open_sources(read.data_path)
    for source in sources:
        if source.weight != 1:
            raise UserError(
                f"--data_path {source.path}:{source.weight:g}: every question is asked once; name the file."
            )
    # The template is the model's; this one has a place for everything.
    found = read_questions(sources, "chat", lambda messages: None, read.encoding, read.fields, read.skip_bad_rows)
    asks: list[Ask] = []
    for one in found.asked:
        place = f"{sources[one.source].path} line {one.line}"
        row = one.record if isinstance(one.record, dict) else {}
        first = len(asks) + 1
        said = {"category": str(row.get("category") or ""), "settings": _settings(row.get("settings"), place)}
        later = _follow_ups(row.get("follow_ups"), place)
        turns = [one.messages, *([{"role": "user", "content": text}] for text in later)]
        for turn, messages in enumerate(turns):
            reference = one.reference if turn == 0 else None
            asks.append(Ask(first + turn, first, turn, messages, **said, reference=reference, place=place))
    return sources, asks


def with_own(decoding: DecodingFlags, ask: Ask) -> DecodingFlags:
    """The settings, with the question's own in their place.

    Raises:
        UserError: they contradict each other.
    """
    try:
        return replace(decoding, **ask.settings)
    except (UserError, TypeError) as error:
        raise UserError(f"{ask.place}: its settings can not be used: {error}") from error


def conversation(asks: Sequence[Ask], answers: Sequence[str]) -> list[Message]:
    """The messages of a turn: those of the turns before it with the model's answers, and its own.

    Args:
        asks: of one question, up to this turn; answers: to all but the last.
    """
    messages: list[Message] = []
    for ask, answer in zip(asks, [*answers, None], strict=True):
        if answer is None:
            return [*messages, *ask.messages]
        *before, last = ask.messages
        content = "\n".join(filter(None, [last["content"].strip(), last.get("input", "").strip()]))
        messages += [*before, {"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return messages


def _settings(value: Any, place: str) -> dict[str, Any]:
    if value in (None, {}):
        return {}
    if not isinstance(value, Mapping) or (odd := [name for name in value if name not in SETTINGS]):
        said = f"has {odd[0]!r}" if isinstance(value, Mapping) else f"is {value!r}"
        raise UserError(f"{place}: settings {said}; expected an object with {', '.join(SETTINGS)}.")
    for name, one in value.items():
        if isinstance(one, bool) != (name == "do_sample") or isinstance(one, str) != (name == "preset"):
            raise UserError(f"{place}: settings.{name} is {one!r}; expected what --{name} takes.")
    return dict(value)


def _follow_ups(value: Any, place: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
        raise UserError(f"{place}: follow_ups is {value!r}; expected a list of questions.")
    return value
