"""A conversation outside the model: checked, kept by the browser, saved as the original's JSON lines, loaded again.

A conversation is a list of messages: perhaps a system message, then user, assistant, …, assistant. Whatever comes from
a browser or a file is checked message by message before anything else looks at it.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NotRequired

from vicuna.errors import UserError
from vicuna.prompt.templates import Message, split_system

LIMIT = 2 * 2**20  # bytes of a conversation, saved or kept
SAVE_LIMIT = 2**28  # bytes of all that Save may write under --save_path
SETTINGS = (
    *("temperature", "top_p", "top_k", "num_beams", "bos_token_id", "eos_token_id", "pad_token_id"),
    *("max_new_tokens", "min_new_tokens", "do_sample", "repetition_penalty", "max_memory"),
)
INFO = ("base", "adapter", "bits", "prompt_type", "version")  # all that a saved chat says of the machine it comes from
NOTE = 200  # characters of the line that says how an answer was made
TURNS = 1000  # most turns of one conversation
DRAWS = 2**32  # after so many, a question gets its first answer again


class Kept(Message):
    """A message with the line that says how the answer was made: adapter, tokens, speed; and which draw it is, if not
    the first."""

    note: NotRequired[str]
    draw: NotRequired[int]


def check(messages: Any) -> list[Kept]:
    """`messages` as they came from outside, if they are a conversation.

    Raises:
        UserError: they are not.
    """
    if not isinstance(messages, list):
        raise UserError(f"a conversation is a list of messages, found {type(messages).__name__}.")
    _countable(len(messages) // 2, "the conversation")
    checked = [_message(message, n) for n, message in enumerate(messages, 1)]
    _, others = split_system(checked)
    roles = [message["role"] for message in others]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise UserError(
            "a conversation is user, assistant, user, assistant, … behind at most one system message; found "
            f"{', '.join(message['role'] for message in checked[:12])}."
        )
    return checked


def _countable(turns: int, what: str) -> None:
    if turns > TURNS:
        raise UserError(f"{what} has {turns} turns, more than the {TURNS} that a page holds; begin a new chat.")


def _message(message: Any, n: int) -> Kept:
    if not isinstance(message, dict) or message.get("role") not in ("system", "user", "assistant"):
        raise UserError(f"message {n} is not one: expected an object with role system, user or assistant, and content.")
    checked = Kept(role=message["role"], content=_text(message.get("content"), f"message {n}: content"))
    if message.get("note"):
        checked["note"] = _text(message["note"], f"message {n}: note")[:NOTE]
    if draw := message.get("draw"):
        if type(draw) is not int or not 0 < draw < DRAWS:
            raise UserError(f"message {n}: draw is not a number from 1 to {DRAWS - 1}.")
        checked["draw"] = draw
    return checked


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{what} is not a text: found {type(value).__name__}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{what} is not Unicode text: half of a surrogate pair at character {error.start}.") from error
    return value


def keep(messages: Sequence[Kept], draft: str = "", spare: int = 0) -> str:
    """What the browser keeps of a conversation; "" of none.

    Args:
        draft: a question that has no answer yet.
        spare: bytes that must still be free.

    Raises:
        UserError: it is larger than LIMIT.
    """
    if not messages and not draft:
        return ""
    return _bounded(json.dumps({"messages": list(messages), "draft": draft}, ensure_ascii=False), spare)


def kept(text: str | None) -> tuple[list[Kept], str]:
    """Messages and draft that `keep` wrote.

    Raises:
        UserError: the text is something else.
    """
    if not text:
        return [], ""
    try:
        found = json.loads(_bounded(text))
    except (ValueError, RecursionError) as error:
        raise UserError("what this browser kept of the conversation is damaged; begin a new chat.") from error
    if not isinstance(found, dict):
        raise UserError("what this browser kept of the conversation is damaged; begin a new chat.")
    return check(found.get("messages")), _text(found.get("draft", ""), "the draft")


def _bounded(text: str, spare: int = 0) -> str:
    if len(text) > LIMIT or len(text.encode(errors="replace")) > LIMIT - spare:
        raise UserError(f"the conversation is larger than {LIMIT // 2**20} MB; save it and begin a new chat.")
    return text


def export(messages: Sequence[Kept], settings: dict[str, Any], info: dict[str, Any]) -> str:
    """One JSON line in the original's form: history, generation_parameter, info; and system, where there is one.

    Args:
        settings, info: more is left out than SETTINGS and INFO name.
    """
    system, others = split_system(messages)
    row: dict[str, Any] = {
        "history": [
            {"input": user["content"], "output": assistant["content"]}
            for user, assistant in zip(others[::2], others[1::2], strict=True)
        ],
        "generation_parameter": {name: settings.get(name) for name in SETTINGS},
        "info": {name: info.get(name) for name in INFO},
    }
    if system:
        row["system"] = system[0]["content"]
    return json.dumps(row, ensure_ascii=False) + "\n"


def load(text: str) -> tuple[list[Kept], int]:
    """The last conversation of a saved file, and how many the file holds.

    Every row is checked; the original wrote one at each click on Save, so that the last one says most.

    Raises:
        UserError: the file is too large, empty, or a row is malformed; the row is named.
    """
    if len(text) > LIMIT or len(text.encode(errors="replace")) > LIMIT:
        raise UserError(f"the file is larger than {LIMIT // 2**20} MB, the most that Load takes.")
    rows = [(n, line) for n, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1) if line.strip()]
    if not rows:
        raise UserError("the file is empty: expected the JSON lines that Save writes.")
    found = [_row(line, n) for n, line in rows]
    return found[-1], len(found)


def _row(line: str, n: int) -> list[Kept]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"row {n} is not JSON ({error}): expected the JSON lines that Save writes.") from error
    if not isinstance(row, dict) or not isinstance(row.get("history"), list):
        raise UserError(f"row {n} is no saved chat: expected an object whose history is a list.")
    _countable(len(row["history"]), f"row {n}")
    system = _text(row.get("system", ""), f"row {n}: system")
    messages = [Kept(role="system", content=system)] if system else []
    for i, turn in enumerate(row["history"], 1):
        if not isinstance(turn, dict):
            raise UserError(f"row {n}, turn {i} is not an object with input and output.")
        question = _text(turn.get("input"), f"row {n}, turn {i}: input")
        answer = _text(turn.get("output"), f"row {n}, turn {i}: output")
        # The original kept the end-of-text mark in its history.
        messages += [
            Kept(role="user", content=question),
            Kept(role="assistant", content=answer.removesuffix("</s>")),
        ]
    return messages


def write(folder: str, owner: str, conversation: str, text: str) -> str:
    """Write a saved chat to its file under `folder`, over what it held before; returns the file's name.

    Args:
        owner, conversation: whose and which; the name is a hash of both, so no visitor chooses it.

    Raises:
        UserError: SAVE_LIMIT is reached, or the folder cannot be written.
    """
    digest = hashlib.sha256(f"{owner}\0{conversation}".encode(errors="replace")).hexdigest()
    path = Path(folder) / f"chat-{digest[:24]}.jsonl"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        others = sum(file.stat().st_size for file in path.parent.glob("chat-*.jsonl") if file.name != path.name)
        if others + len(text.encode()) > SAVE_LIMIT:
            raise UserError(
                f"the server keeps at most {SAVE_LIMIT // 2**20} MB of saved chats, and they are full; the download in "
                "your browser is complete."
            )
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=".chat-", delete=False, encoding="utf-8", newline="\n"
        ) as file:
            file.write(text)
        os.replace(file.name, path)
    except OSError as error:
        raise UserError(
            f"the server could not write the saved chat ({error.strerror}); the download in your browser is complete."
        ) from error
    return path.name
