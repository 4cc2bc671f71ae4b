"""What the readers of rows share: values of fields as text, lists and messages, or why they are none."""

import re
from typing import Any

from vicuna.data.bad_row import BadRow
from vicuna.prompt.templates import Message


def message(role: str, value: Any, name: str) -> Message:
    """A message of a dialogue, without the white space around it, as the original learnt it."""
    return {"role": role, "content": text(value, name).strip()}


def system(row: dict, name: str = "system") -> list[Message]:
    """The system message of a row, if it has one."""
    value = row.get(name)
    return [] if blank(value) else [message("system", value, name)]


def blank(value: Any) -> bool:
    """Whether there is nothing in a field."""
    return value is None or (isinstance(value, str) and not value.strip())


def items(row: dict, name: str) -> list:
    """The list in a field."""
    if not isinstance(row[name], list):
        raise BadRow(
            f"field {name} is a {kind(row[name])}: {str(row[name])[:40]!r}; expected a list", f"{name} is no list"
        )
    return row[name]


def text(value: Any, name: str) -> str:
    """The text in a field, which may not be empty."""
    counted = re.sub(r"\[\d+\]|(?<=turn)_\d+", "", name)
    if not isinstance(value, str):
        raise BadRow(f"field {name} is a {kind(value)}: {str(value)[:40]!r}; expected text", f"{counted} is not text")
    if not value.strip():
        raise BadRow(f"field {name} is empty; expected text", f"{counted} is empty")
    if "\0" in value:
        raise BadRow(f"field {name} holds NUL characters; expected text", "NUL bytes")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"\\u{ord(value[error.start]):04x}"
        raise BadRow(
            f"field {name} holds half a character ({found}); expected whole text", "half a character"
        ) from None
    return value


def parts(value: Any, name: str) -> Any:
    """A content that is a list of text parts as one text, a part on each line; any other as it is."""
    if not isinstance(value, list):
        return value
    texts = []
    for i, part in enumerate(value):
        is_text = isinstance(part, dict) and part.get("type", "text") == "text" and "text" in part
        if not is_text:
            found = f"of type {part.get('type')!r}" if isinstance(part, dict) else f"a {kind(part)}"
            raise BadRow(f"field {name}[{i}] is {found}; expected a part of type text", "a part that is no text")
        texts.append(text(part["text"], f"{name}[{i}].text"))
    return "\n".join(texts)


def kind(value: Any) -> str:
    """What a value is, in a word."""
    names = {list: "list", dict: "object", str: "text", bool: "boolean", int: "number", float: "number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
