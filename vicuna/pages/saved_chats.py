"""Conversations as files: the original's JSON lines, which Save writes and Load reads, on a page and in a terminal."""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vicuna import __version__
from vicuna.answer.assistant import Assistant
from vicuna.errors import UserError
from vicuna.files.aside import whole_file
from vicuna.pages.conversation import (
    MAX_BYTES,
    MAX_DEPTH,
    Kept,
    StoredMessage,
    Way,
    check_text,
    check_turn_count,
    is_too_large,
)
from vicuna.pages.strings import Strings
from vicuna.prompt.templates import split_system
from vicuna.sentences import Sentence, refusal

MAX_SAVED_BYTES = 2**28  # of all that Save may write under --save_path
SETTINGS = (
    *("temperature", "top_p", "top_k", "num_beams", "bos_token_id", "eos_token_id", "pad_token_id"),
    *("max_new_tokens", "min_new_tokens", "do_sample", "repetition_penalty", "max_memory"),
)
INFO = ("base", "adapter", "bits", "prompt_type", "version")  # all that a saved chat says of the machine it comes from


FORMS = ("jsonl", "md", "txt")  # that Save writes: what Load reads, Markdown, and text
PAGE = ("preset", "show_beam", "thinking")  # what a page has beside what the original's form holds


class Loaded(NamedTuple):
    """The last conversation of a saved file.

    Attributes:
        count: how many the file holds.
        aside: see `vicuna.pages.conversation.Kept`.
        settings: what it was answered under, by the names of the page's settings; unchecked.
    """

    messages: list[StoredMessage]
    count: int = 1
    aside: Sequence[Way] = ()
    settings: dict[str, Any] = {}  # noqa: RUF012  # never written to


def export_chat(
    assistant: Assistant,
    messages: Sequence[StoredMessage],
    settings: dict[str, Any],
    adapter: str,
    prompt_type: str,
    aside: Sequence[Way] = (),
) -> str:
    """A conversation as `format_chat` writes it, with what the assistant that answers says of itself."""
    tokenizer = assistant.tokenizer
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.eos_id}
    info = {
        "base": assistant.base_name,
        "adapter": adapter,
        "bits": assistant.where.split(" · ")[0],
        "prompt_type": prompt_type,
        "version": __version__,
    }
    return format_chat(messages, {**settings, **ids}, info, aside)


def format_chat(
    messages: Sequence[StoredMessage], settings: dict[str, Any], info: dict[str, Any], aside: Sequence[Way] = ()
) -> str:
    """One JSON line in the original's form: history, generation_parameter, info; and what that has no place for.

    That is the system prompt, the page's own settings, in a turn its thinking, the adapter that answered and other ways
    from there on, and the ways that were put aside as a whole.

    Args:
        settings, info: more is left out than SETTINGS, PAGE and INFO name.
    """
    system, others = split_system(messages)
    row: dict[str, Any] = {
        "history": _history(others),
        "generation_parameter": {name: settings.get(name) for name in SETTINGS},
        "info": {name: info.get(name) for name in INFO},
    }
    if page := {name: settings[name] for name in PAGE if name in settings}:
        row["settings"] = page
    if system:
        row["system"] = system[0]["content"]
    if aside:
        row["aside"] = [_history(way) for way in aside]
    return json.dumps(row, ensure_ascii=False) + "\n"


def _history(messages: Sequence[StoredMessage]) -> list[dict[str, Any]]:
    turns = []
    for user, assistant in zip(messages[::2], messages[1::2], strict=True):
        turn: dict[str, Any] = {"input": user["content"], "output": assistant["content"], **_thought(assistant)}
        if "adapter" in assistant:
            turn["adapter"] = assistant["adapter"]
        if user.get("others"):
            turn |= {"others": [_history(way) for way in user["others"]], "place": user.get("place", 0)}
        if assistant.get("after"):
            turn["after"] = [_history(way) for way in assistant["after"]]
        turns.append(turn)
    return turns


def _thought(answer: StoredMessage) -> dict[str, str]:
    """What was thought before an answer, where anything was; the original's form has no place for it."""
    return {"reasoning_content": answer["reasoning_content"]} if answer.get("reasoning_content") else {}


def as_text(strings: Strings, kept: Kept, title: str, markdown: bool) -> str:
    """The way that a conversation shows, to be read: as Markdown, or as text."""
    system, others = split_system(kept.messages)
    parts = [f"# {title}" if markdown else title]
    for message in [*system, *others]:
        name = strings[f"said_{message['role']}"]
        if message["role"] == "assistant" and "adapter" in message:
            name = f"{name} · {message['adapter'] or strings['base_only']}"
        parts.append(f"### {name}\n\n{message['content']}" if markdown else f"{name}\n{message['content']}")
    return "\n\n".join(parts) + "\n"


def parse_last_chat(text: str) -> Loaded:
    """The last conversation of a saved file, and how many the file holds.

    Every row is checked; the original wrote one at each click on Save, so that the last one says most.

    Raises:
        UserError: the file is too large, empty, or a row is malformed; the row is named.
    """
    if is_too_large(text):
        raise UserError(Sentence("file_too_large", most=MAX_BYTES // 2**20))
    rows = [(n, line) for n, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1) if line.strip()]
    if not rows:
        raise UserError(Sentence("file_empty"))
    found = [_row(line, n) for n, line in rows]
    return found[-1]._replace(count=len(found))


def _row(line: str, n: int) -> Loaded:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(Sentence("row_no_json", n=n, reason=error)) from error
    if not isinstance(row, dict) or not isinstance(row.get("history"), list):
        raise UserError(Sentence("row_no_chat", n=n))
    check_turn_count(len(row["history"]), Sentence("row", n=n))
    system = check_text(row.get("system", ""), Sentence("row_field", n=n, name="system"))
    messages = [StoredMessage(role="system", content=system)] if system else []
    messages += _turns(row["history"], n, 0)
    return Loaded(messages, 1, _ways(row.get("aside") or [], n, 1), _settings(row))


def _field(n: int, turn: int, name: str) -> Sentence:
    return Sentence("turn_field", n=n, turn=turn, name=name)


def _turns(history: list, n: int, depth: int) -> list[StoredMessage]:
    messages: list[StoredMessage] = []
    for i, turn in enumerate(history, 1):
        if not isinstance(turn, dict):
            raise UserError(Sentence("row_no_turn", n=n, turn=i))
        asked = StoredMessage(role="user", content=check_text(turn.get("input"), _field(n, i, "input")))
        output = check_text(turn.get("output"), _field(n, i, "output"))
        # The original kept the end-of-text mark in its history.
        answer = StoredMessage(role="assistant", content=output.removesuffix("</s>"))
        if thought := check_text(turn.get("reasoning_content") or "", _field(n, i, "reasoning_content")):
            answer["reasoning_content"] = thought
        if turn.get("adapter") is not None:
            answer["adapter"] = check_text(turn["adapter"], _field(n, i, "adapter"))
            answer["note"] = answer["adapter"]
        if others := _ways(turn.get("others") or [], n, depth + 1):
            place = turn.get("place")
            asked |= {"others": others, **({"place": place} if type(place) is int and place > 0 else {})}
        if after := _ways(turn.get("after") or [], n, depth + 1):
            answer["after"] = after
        messages += [asked, answer]
    return messages


def _ways(ways: Any, n: int, depth: int) -> list[Way]:
    """Other ways of a saved conversation, each a list of turns."""
    if depth > MAX_DEPTH or not isinstance(ways, list) or not all(isinstance(way, list) and way for way in ways):
        raise UserError(Sentence("row_no_ways", n=n))
    return [_turns(way, n, depth) for way in ways]


def _settings(row: dict[str, Any]) -> dict[str, Any]:
    """What a saved conversation was answered under, as far as its row says."""
    info, parameters, page = (
        found if isinstance(found := row.get(name), dict) else {}
        for name in ("info", "generation_parameter", "settings")
    )
    said = {"adapter": info.get("adapter"), "prompt_type": info.get("prompt_type"), **parameters, **page}
    return {name: value for name, value in said.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    """Whether a control may show a value at all: a finite number, which is all that JSON has, or a text that can be
    written."""
    if isinstance(value, int | float):
        return isinstance(value, int) or math.isfinite(value)
    try:
        check_text(value, "")
    except UserError:
        return False
    return True


def write_chat(folder: str, owner: str, conversation_id: str, text: str) -> str:
    """Write a saved chat to its file under `folder`, over what it held before; returns the file's name.

    Args:
        owner, conversation_id: whose and which; the name is a hash of both, so no visitor chooses it.

    Raises:
        UserError: MAX_SAVED_BYTES is reached, or the folder cannot be written.
    """
    digest = hashlib.sha256(f"{owner}\0{conversation_id}".encode(errors="replace")).hexdigest()
    path = Path(folder) / f"chat-{digest[:24]}.jsonl"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        others = sum(file.stat().st_size for file in path.parent.glob("chat-*.jsonl") if file.name != path.name)
        if others + len(text.encode()) > MAX_SAVED_BYTES:
            raise UserError(Sentence("saved_chats_full", most=MAX_SAVED_BYTES // 2**20))
        with whole_file(path, mode=0o600) as file:
            file.write(text.encode("utf-8"))
    except OSError as error:
        raise UserError(Sentence("not_written", reason=refusal(error))) from error
    return path.name
