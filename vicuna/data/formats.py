"""Rows of every accepted format, told apart by their keys -> dialogues.

Each format has one reader, which takes a parsed row and gives its messages or raises `BadRow` with what was found,
what was expected and where. A dialogue is at most one system message, then user and assistant in turn; it ends with
the assistant's message, the answer to learn.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vicuna.data.bad_row import BadRow
from vicuna.prompt.templates import Message, split_system, unsupported

# Speakers by the names that the formats `conversations` and `messages` give them.
SPEAKERS = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bard", "bing", "bot", "model"), "assistant"),
    "system": "system",
}


@dataclass(frozen=True)
class Format:
    """A kind of row.

    Attributes:
        fields: what tells it, in words.
        matches: whether a row is of this kind, by its keys.
        read: row -> messages, unchecked as to their order.
    """

    name: str
    fields: str
    matches: Callable[[dict], bool]
    read: Callable[[dict], list[Message]]


def to_messages(row: Any, prompt_type: str) -> list[Message]:
    """The messages of one row as `vicuna.data.parsing.parse_rows` gives it, told by its keys.

    Raises:
        BadRow: what is wrong with the row.
    """
    kind = detect_format(row)
    if kind is TEXT and prompt_type != "text":
        raise BadRow("has a field text, which is learnt as it is: use --prompt_type text", "plain text")
    messages = kind.read(row)
    if kind is TEXT:
        return messages
    _check_order(messages)
    if problem := unsupported(prompt_type, messages):
        raise BadRow(f"has {problem}", "does not fit the prompt type")
    return messages


def detect_format(row: Any) -> Format:
    """The format of a parsed row.

    Raises:
        BadRow: of none, or `row` itself where it is what could not be parsed.
    """
    if isinstance(row, BadRow):
        raise row
    if not isinstance(row, dict):
        raise BadRow(
            f"is a {_kind(row)}; expected an object with instruction and output, or a dialogue", "not an object"
        )
    found = next((one for one in FORMATS if one.matches(row)), None)
    if found is None or (found is TEXT and "instruction" in row):
        keys = ", ".join(map(repr, row)) or "no fields"
        known = FORMATS[:1] if "instruction" in row else FORMATS
        raise BadRow(f"has {keys}; expected {'; or '.join(one.fields for one in known)}", "fields missing")
    return found


def _check_order(messages: Sequence[Message]) -> None:
    _, others = split_system(messages)
    for i, message in enumerate(others):
        expected = ("user", "assistant")[i % 2]
        if message["role"] != expected:
            raise BadRow(
                f"has a message of the {message['role']} in turn {i // 2 + 1}; expected one of the {expected}",
                "messages do not alternate",
            )
    if not others:
        raise BadRow("has no messages; expected at least a question and its answer", "no messages")
    if len(others) % 2:
        raise BadRow(f"ends with the user's message of turn {len(others) // 2 + 1}; expected an answer", "no answer")


# --- one reader for each format -----------------------------------------------------------------------------------


def _instruction(row: dict) -> list[Message]:
    earlier = []
    for i, turn in enumerate(_items(row, "history") if row.get("history") else []):
        name = f"history[{i}]"
        if not (isinstance(turn, list | tuple) and len(turn) == 2):
            raise BadRow(f"field {name} is {str(turn)[:40]!r}; expected [question, answer]", "history is not of pairs")
        earlier += [_message("user", turn[0], f"{name}[0]"), _message("assistant", turn[1], f"{name}[1]")]
    question: Message = {"role": "user", "content": _text(row["instruction"], "instruction")}
    if not _blank(row.get("input")):
        question["input"] = _text(row["input"], "input")
    answer: Message = {"role": "assistant", "content": _text(row["output"], "output")}
    return [*_system(row), *earlier, question, answer]


def _parallel(row: dict) -> list[Message]:
    questions, answers = _items(row, "input"), _items(row, "output")
    if len(questions) != len(answers):
        raise BadRow(
            f"has {len(questions)} texts in input and {len(answers)} in output; expected as many answers as questions",
            "input and output differ in length",
        )
    return [
        *_system(row),
        *(
            _message(role, text, f"{name}[{i}]")
            for i, pair in enumerate(zip(questions, answers, strict=True))
            for role, name, text in zip(("user", "assistant"), ("input", "output"), pair, strict=True)
        ),
    ]


def _spoken(field: str, speaker: str, content: str) -> Callable[[dict], list[Message]]:
    """Reader of a list of objects that each hold a speaker and what was said."""

    def read(row: dict) -> list[Message]:
        messages = _system(row)
        for i, item in enumerate(_items(row, field)):
            name = f"{field}[{i}]"
            if not isinstance(item, dict) or speaker not in item or content not in item:
                found = ", ".join(map(repr, item)) if isinstance(item, dict) else f"a {_kind(item)}"
                raise BadRow(f"field {name} has {found or 'nothing'}; expected {speaker} and {content}", "no speaker")
            role = SPEAKERS.get(str(item[speaker]).strip().lower())
            if role is None:
                known = ", ".join(SPEAKERS)
                raise BadRow(f"field {name}.{speaker} is {item[speaker]!r}; expected {known}", "unknown speaker")
            if role == "system" and _blank(item[content]):
                continue
            messages.append(_message(role, item[content], f"{name}.{content}"))
        return messages

    return read


def _pairs(row: dict) -> list[Message]:
    messages = _system(row)
    for i, turn in enumerate(_items(row, "conversation")):
        name = f"conversation[{i}]"
        if not isinstance(turn, dict) or not {"human", "assistant"} <= turn.keys():
            raise BadRow(f"field {name} is {str(turn)[:40]!r}; expected human and assistant", "fields missing")
        messages += [_message("user", turn["human"], f"{name}.human")]
        messages += [_message("assistant", turn["assistant"], f"{name}.assistant")]
    return messages


def _moss(row: dict) -> list[Message]:
    turns, messages = row["chat"], _system(row, "meta_instruction")
    for number in range(1, len(turns) + 1):
        name = f"turn_{number}"
        turn = turns.get(name)
        if not isinstance(turn, dict) or not {"Human", "MOSS"} <= turn.keys():
            raise BadRow(
                f"field chat.{name} lacks Human or MOSS; expected turns numbered from turn_1", "fields missing"
            )
        command = _unmarked(turn.get("Commands") or "None", f"chat.{name}.Commands")
        if command != "None":
            raise BadRow(f"field chat.{name}.Commands calls a tool: {command[:40]!r}; expected None", "calls a tool")
        for role, key in (("user", "Human"), ("assistant", "MOSS")):
            messages.append(_message(role, _unmarked(turn[key], f"chat.{name}.{key}"), f"chat.{name}.{key}"))
    return messages


def _unmarked(value: Any, name: str) -> str:
    """A text of MOSS without `<|Human|>:` in front of it and `<eoh>` behind."""
    return re.sub(r"^\s*<\|[\w ]+\|>:\s*|\s*<eo\w>\s*$", "", _text(value, name))


def _has(*names: str, kind: type = object) -> Callable[[dict], bool]:
    return lambda row: all(name in row and isinstance(row[name], kind) for name in names)


TEXT = Format("text", "text", _has("text"), lambda row: [{"role": "assistant", "content": _text(row["text"], "text")}])
# In the order in which they are tried: the first whose keys a row has.
FORMATS = (
    Format("instruction", "instruction, optional input, and output", _has("instruction", "output"), _instruction),
    Format(
        "conversations",
        "conversations of from and value",
        _has("conversations"),
        _spoken("conversations", "from", "value"),
    ),
    Format("messages", "messages of role and content", _has("messages"), _spoken("messages", "role", "content")),
    Format("conversation", "conversation of human and assistant", _has("conversation"), _pairs),
    Format("moss", "chat of turn_1, turn_2, …", _has("chat", kind=dict), _moss),
    Format("input and output", "input and output, both lists", _has("input", "output", kind=list), _parallel),
    TEXT,
)


# --- what the readers share ---------------------------------------------------------------------------------------


def _message(role: str, value: Any, name: str) -> Message:
    """A message of a dialogue, without the white space around it, as the original learnt it."""
    return {"role": role, "content": _text(value, name).strip()}


def _system(row: dict, name: str = "system") -> list[Message]:
    value = row.get(name)
    return [] if _blank(value) else [_message("system", value, name)]


def _blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _items(row: dict, name: str) -> list:
    if not isinstance(row[name], list):
        raise BadRow(
            f"field {name} is a {_kind(row[name])}: {str(row[name])[:40]!r}; expected a list", f"{name} is no list"
        )
    return row[name]


def _text(value: Any, name: str) -> str:
    counted = re.sub(r"\[\d+\]|(?<=turn)_\d+", "", name)
    if not isinstance(value, str):
        raise BadRow(f"field {name} is a {_kind(value)}: {str(value)[:40]!r}; expected text", f"{counted} is not text")
    if not value.strip():
        raise BadRow(f"field {name} is empty; expected text", f"{counted} is empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"\\u{ord(value[error.start]):04x}"
        raise BadRow(
            f"field {name} holds half a character ({found}); expected whole text", "half a character"
        ) from None
    return value


def _kind(value: Any) -> str:
    names = {list: "list", dict: "object", str: "text", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
