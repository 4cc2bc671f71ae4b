"""Rows of every accepted format, told apart by their keys -> dialogues.

Each format has one reader in vicuna/data/py, which takes a parsed row and gives its messages or raises `BadRow`
with what was found, what was expected and where. A dialogue is at most one system message, then user and assistant in
turn; it ends with the assistant's message, the last answer to learn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from vicuna.data.bad_row import BadRow
from vicuna.data.calls import check_calls, with_row_facts, with_thoughts_apart
from vicuna.data.marks import check_row
from vicuna.data.readers import (
    FROM_VALUE,
    ROLE_CONTENT,
    read_completion,
    read_conversation,
    read_instruction,
    read_list,
    read_moss,
    read_parallel,
    read_text,
    spoken,
)
from vicuna.data.values import kind
from vicuna.prompt.templates import BASE, Message, split_system, unsupported

# What a question and an answer may be called in files with names of their own.
ASKED = ("提问", "问题", "question", "query", "ask", "instruction", "prompt", "标题", "title")
ANSWERED = ("回答", "答案", "回复", "answer", "response", "reply", "output", "completion")


@dataclass(frozen=True)
class Format:
    """A kind of row.

    Attributes:
        fields: what tells it, in words.
        matches: whether a row is of this kind, by its keys.
        read: row -> messages, unchecked as to their order.
        read_own: the same for the base's own chat template, where thinking and calls of functions are read, too.
    """

    name: str
    fields: str
    matches: Callable[[Any], bool]
    read: Callable[[Any], list[Message]]
    read_own: Callable[[Any], list[Message]] | None = None

    def messages(self, row: Any, prompt_type: str) -> list[Message]:
        """The messages of a row, unchecked as to their order."""
        if prompt_type != BASE or self is TEXT:
            return self.read(row)
        messages = (self.read_own or self.read)(row)
        with_row_facts(row, messages)
        with_thoughts_apart(messages)
        return messages


def to_messages(row: Any, prompt_type: str) -> list[Message]:
    """The messages of one row as `vicuna.data.parsing.parse_rows` gives it, told by its keys.

    Raises:
        BadRow: what is wrong with the row.
    """
    form = detect_format(row, own=prompt_type == BASE)
    if form is TEXT and prompt_type != "text":
        raise BadRow("has a field text, which is learnt as it is: use --prompt_type text", "plain text")
    messages = form.messages(row, prompt_type)
    if form is TEXT:
        return messages
    _check_order(messages, prompt_type)
    messages = _up_to_last_learnt(messages)
    if problem := unsupported(prompt_type, messages):
        raise BadRow(f"has {problem}", "does not fit the prompt type")
    return messages


def detect_format(row: Any, own: bool = False) -> Format:
    """The format of a parsed row.

    Args:
        own: it is for the base's own chat template, which may have a place for thinking and for tools.

    Raises:
        BadRow: of none, or by its own fields not to be learnt, or `row` itself where it is what could not be parsed.
    """
    if isinstance(row, BadRow):
        raise row
    if LIST.matches(row):
        return LIST
    if not isinstance(row, dict):
        raise BadRow(
            f"is a {kind(row)}; expected an object with instruction and output, or a dialogue", "not an object"
        )
    check_row(row, own=own)
    found = next((one for one in FORMATS if one.matches(row)), None)
    if found is None or (found is TEXT and "instruction" in row):
        keys = ", ".join(map(repr, row)) or "no fields"
        known = FORMATS[:1] if "instruction" in row else FORMATS
        fields = "; or ".join(one.fields for one in known)
        raise BadRow(f"has {keys}; expected {fields}; --fields {_own_names(row)} names others", "fields missing")
    return found


def _own_names(row: dict[str, Any]) -> str:
    """How --fields may name a question and its answer, by what the row calls them."""
    keys = {key.lower(): key for key in row if isinstance(key, str) and key.isidentifier()}
    found: dict[str, str] = {}
    for field, words in (("instruction", ASKED), ("output", ANSWERED)):
        fitting = (keys[key] for word in words for key in keys if key == word or (not word.isascii() and word in key))
        if name := next((key for key in fitting if key not in found.values()), ""):
            found[field] = name
    return " ".join(f"{field}={key}" for field, key in found.items()) or "instruction=NAME output=NAME"


def _check_order(messages: Sequence[Message], prompt_type: str) -> None:
    others = check_alternation(messages, prompt_type)
    if others[-1]["role"] == "tool":
        raise BadRow("ends with what a function said; expected an answer", "no answer")
    if others[-1]["role"] == "user":
        turns = sum(one["role"] == "user" for one in others)
        raise BadRow(f"ends with the user's message of turn {turns}; expected an answer", "no answer")


def check_alternation(messages: Sequence[Message], prompt_type: str) -> Sequence[Message]:
    """The messages of user and assistant, who take turns; of functions too, for the base's own chat template.

    Raises:
        BadRow: they do not, or there are none.
    """
    if prompt_type == BASE:
        return check_calls(messages)
    _, others = split_system(messages)
    for i, one in enumerate(others):
        expected = ("user", "assistant")[i % 2]
        if one["role"] != expected:
            raise BadRow(
                f"has a message of the {one['role']} in turn {i // 2 + 1}; expected one of the {expected}",
                "messages do not alternate",
            )
    if not others:
        raise BadRow("has no messages; expected at least a question and its answer", "no messages")
    return others


def _up_to_last_learnt(messages: list[Message]) -> list[Message]:
    """The dialogue without what stands behind the last answer that counts: nothing there is learnt."""
    learnt = [i for i, one in enumerate(messages) if one["role"] == "assistant" and one.get("learnt", True)]
    if not learnt:
        raise BadRow("marks every answer as not to be learnt", "no answer is to be learnt")
    return messages[: learnt[-1] + 1]


def _has(*names: str, kind: type = object) -> Callable[[dict], bool]:
    return lambda row: all(name in row and isinstance(row[name], kind) for name in names)


def _records_of(row: Any) -> bool:
    """Whether a row is a list of records, each of a format of its own, such as the turns of a dialogue."""
    return all(isinstance(item, dict) and any(one.matches(item) for one in RECORDS) for item in row)


def _is_list(row: Any) -> bool:
    if not isinstance(row, list) or not row:
        return False
    if all(isinstance(item, str) for item in row):
        return len(row) == 2
    if all(isinstance(item, list) for item in row):
        return True
    messages = all(isinstance(item, dict) and any(set(keys) <= item.keys() for keys in _SAID) for item in row)
    return messages or _records_of(row)


def _read_list(row: list, own: bool = False) -> list[Message]:
    if not isinstance(row[0], dict) or not _records_of(row):
        return read_list(row, own)
    turns = [form.read(item) for item in row if (form := detect_format(item))]
    for one in (one for turn in turns[:-1] for one in turn):
        # An earlier turn has one place for what was asked.
        one["content"] = "\n".join([one["content"].strip(), *([one.pop("input").strip()] if "input" in one else [])])
    return [one for turn in turns for one in turn]


_SAID = (FROM_VALUE, ROLE_CONTENT)
TEXT = Format("text", "text", _has("text"), read_text)
RECORDS = (
    Format(
        "instruction",
        "instruction, optional input, and output",
        _has("instruction", "output"),
        read_instruction,
    ),
    Format(
        "query and response",
        "query and response",
        _has("query", "response"),
        partial(read_instruction, question="query", answer="response"),
    ),
    Format(
        "input and target",
        "input and target",
        _has("input", "target"),
        partial(read_instruction, question="input", answer="target"),
    ),
    Format(
        "prompt and completion",
        "prompt and completion",
        _has("prompt", "completion"),
        read_completion,
        partial(read_completion, own=True),
    ),
)
# In the order in which they are tried: the first whose keys a row has.
FORMATS = (
    RECORDS[0],
    Format(
        "conversations",
        "conversations of from and value",
        _has("conversations"),
        spoken("conversations", FROM_VALUE),
        spoken("conversations", FROM_VALUE, own=True),
    ),
    Format(
        "messages",
        "messages of role and content",
        _has("messages"),
        spoken("messages", ROLE_CONTENT),
        spoken("messages", ROLE_CONTENT, own=True),
    ),
    Format(
        "conversation",
        "conversation of human and assistant",
        _has("conversation"),
        read_conversation,
        partial(read_conversation, own=True),
    ),
    Format("moss", "chat of turn_1, turn_2, …", _has("chat", kind=dict), read_moss),
    Format("input and output", "input and output, both lists", _has("input", "output", kind=list), read_parallel),
    TEXT,
    *RECORDS[1:],
)
LIST = Format(
    "list",
    "[question, answer], or a list of such, of messages or of records",
    _is_list,
    _read_list,
    partial(_read_list, own=True),
)
