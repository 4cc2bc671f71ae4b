"""A conversation outside the model: checked, kept by the browser, cut at a turn.

A conversation is a list of messages: perhaps a system message, then user, assistant, …, assistant. Whatever comes from
a browser or a file is checked message by message before anything else looks at it.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, NotRequired

from vicuna.errors import UserError
from vicuna.prompt.templates import Message, split_system
from vicuna.sentences import Sentence

MAX_BYTES = 2 * 2**20  # of a conversation, saved or kept by the browser
MAX_NOTE_CHARS = 400
MAX_DEPTH = 60  # of ways within ways
MAX_TURNS = 1000
MAX_DRAWS = 2**32  # after so many, a question gets its first answer again


class StoredMessage(Message):
    """A message with what the page says of it.

    Attributes:
        note: how the answer was made: adapter, tokens, speed; adapter: who made it, "" for the base.
        draw: which draw the answer is, if not the first.
        others, place, after: see `vicuna.pages.branches`.
    """

    note: NotRequired[str]
    adapter: NotRequired[str]
    draw: NotRequired[int]
    others: NotRequired[list["Way"]]
    place: NotRequired[int]
    after: NotRequired[list["Way"]]


Way = list[StoredMessage]


class Kept(NamedTuple):
    """What a browser keeps of a conversation.

    Attributes:
        draft: questions that have no answer yet.
        aside: ways that it went, where none is shown from its beginning on.
    """

    messages: list[StoredMessage]
    draft: str = ""
    aside: list[Way] = []  # noqa: RUF012  # never written to


def validate(messages: Any) -> list[StoredMessage]:
    """`messages` as they came from outside, if they are a conversation.

    Raises:
        UserError: they are not.
    """
    if not isinstance(messages, list):
        raise UserError(Sentence("no_list", found=type(messages).__name__))
    check_turn_count(len(messages) // 2, Sentence("the_conversation"))
    return _turns(messages, 0)


def _turns(messages: list, depth: int) -> list[StoredMessage]:
    checked = [_message(message, n, depth) for n, message in enumerate(messages, 1)]
    _, others = split_system(checked)
    roles = [message["role"] for message in others]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise UserError(Sentence("not_in_turns", roles=", ".join(message["role"] for message in checked[:12])))
    return checked


def check_turn_count(turns: int, what: str) -> None:
    """Refuse more turns than MAX_TURNS; `what` has them."""
    if turns > MAX_TURNS:
        raise UserError(Sentence("too_many_turns", what=what, turns=turns, most=MAX_TURNS))


def check_text(value: Any, what: str) -> str:
    """`value`, if it is a text that can be written.

    Raises:
        UserError: it is not; `what` names it.
    """
    if not isinstance(value, str):
        raise UserError(Sentence("no_text", what=what, found=type(value).__name__))
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(Sentence("no_unicode", what=what, at=error.start)) from error
    return value


def _field(n: int, name: str) -> Sentence:
    return Sentence("message_field", n=n, name=name)


def _message(message: Any, n: int, depth: int) -> StoredMessage:
    if not isinstance(message, dict) or message.get("role") not in ("system", "user", "assistant"):
        raise UserError(Sentence("no_message", n=n))
    checked = StoredMessage(role=message["role"], content=check_text(message.get("content"), _field(n, "content")))
    if message.get("reasoning_content"):
        checked["reasoning_content"] = check_text(message["reasoning_content"], _field(n, "reasoning_content"))
    for name in ("note", "adapter"):
        if message.get(name) is not None:
            checked[name] = check_text(message[name], _field(n, name))[:MAX_NOTE_CHARS]
    for name, most in (("draw", MAX_DRAWS), ("place", MAX_BYTES)):
        if found := message.get(name):
            if type(found) is not int or not 0 < found < most:
                raise UserError(Sentence("no_count", n=n, name=name, most=most - 1))
            checked[name] = found
    for name in ("others", "after"):
        if ways := message.get(name):
            checked[name] = _ways(ways, depth + 1)
    return checked


def _ways(ways: Any, depth: int) -> list[Way]:
    """Other ways of a conversation as they came from outside, each from a question to an answer."""
    if depth > MAX_DEPTH:
        raise UserError(Sentence("too_deep", most=MAX_DEPTH))
    if not isinstance(ways, list) or not all(isinstance(way, list) and way for way in ways):
        raise UserError(Sentence("no_ways"))
    found = [_turns(way, depth) for way in ways]
    if any(way[0]["role"] != "user" for way in found):
        raise UserError(Sentence("no_way"))
    return found


# --- as the browser keeps it ------------------------------------------------------------------------------------------


def serialize(messages: Sequence[StoredMessage], draft: str = "", spare: int = 0, aside: Sequence[Way] = ()) -> str:
    """What the browser keeps of a conversation; "" of none.

    Args:
        draft: a question that has no answer yet.
        spare: bytes that must still be free.
        aside: see `Kept`.

    Raises:
        UserError: it is larger than MAX_BYTES, or has more than MAX_DEPTH ways within ways.
    """
    if not messages and not draft and not aside:
        return ""
    if _depth([messages, *aside]) > MAX_DEPTH:
        raise UserError(Sentence("too_deep", most=MAX_DEPTH))
    row = {"messages": list(messages), "draft": draft, **({"aside": list(aside)} if aside else {})}
    return _bounded(json.dumps(row, ensure_ascii=False), spare)


def _depth(ways: Sequence[Sequence[StoredMessage]]) -> int:
    """How many ways lie within one another."""
    found, level = 0, list(ways)
    while level := [
        way for messages in level for one in messages for way in (*one.get("others", ()), *one.get("after", ()))
    ]:
        found += 1
        if found > MAX_DEPTH:
            break
    return found


def deserialize(text: str | None) -> Kept:
    """What `serialize` wrote.

    Raises:
        UserError: the text is something else.
    """
    if not text:
        return Kept([])
    try:
        found = json.loads(_bounded(text))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError(Sentence("damaged"))
    draft = check_text(found.get("draft", ""), Sentence("the_draft"))
    return Kept(validate(found.get("messages")), draft, _ways(found.get("aside", []), 1))


def is_too_large(text: str, spare: int = 0) -> bool:
    """Whether a text has more than MAX_BYTES, `spare` of them left free."""
    return len(text) > MAX_BYTES or len(text.encode(errors="replace")) > MAX_BYTES - spare


def _bounded(text: str, spare: int = 0) -> str:
    if is_too_large(text, spare):
        raise UserError(Sentence("too_large", most=MAX_BYTES // 2**20))
    return text


# --- its turns --------------------------------------------------------------------------------------------------------


def count_turns(messages: Sequence[StoredMessage]) -> int:
    """Questions with their answers in a conversation."""
    return len(split_system(messages)[1]) // 2


def question_of(messages: Sequence[StoredMessage], turn: int) -> str:
    """What was asked in a turn."""
    return split_system(messages)[1][2 * turn]["content"]


def before_turn(messages: list[StoredMessage], turn: int) -> list[StoredMessage]:
    """The conversation up to a turn, which is not part of it."""
    system, others = split_system(messages)
    return [*system, *others[: 2 * turn]]


def system_prompt(messages: Sequence[StoredMessage]) -> str:
    """The system message of a conversation, "" where it has none."""
    return "".join(message["content"] for message in split_system(messages)[0])


def with_system_prompt(messages: Sequence[StoredMessage], system: str) -> list[StoredMessage]:
    """The conversation under another system message, or under none."""
    _, others = split_system(messages)
    return [*([StoredMessage(role="system", content=system)] if system else []), *others]
