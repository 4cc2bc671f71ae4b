"""Conversations as files: the original's JSON lines, which Save writes and Load reads, on a page and in a terminal."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from vicuna import __version__
from vicuna.answer.assistant import Assistant
from vicuna.errors import UserError
from vicuna.files.aside import whole_file
from vicuna.foreign.typed import Foreign, opens, parse, typed
from vicuna.pages.conversation import MAX_BYTES, StoredMessage, check_turn_count, is_too_large
from vicuna.prompt.templates import split_system

MAX_SAVED_BYTES = 2**28  # of all that Save may write under --save_path
SETTINGS = (
    *("temperature", "top_p", "top_k", "num_beams", "bos_token_id", "eos_token_id", "pad_token_id"),
    *("max_new_tokens", "min_new_tokens", "do_sample", "repetition_penalty", "max_memory"),
)
INFO = ("base", "adapter", "bits", "prompt_type", "version")  # all that a saved chat says of the machine it comes from


# A bound has each text looked at, and half of a surrogate pair refused.
ChatText = Annotated[str, Field(max_length=MAX_BYTES)]


class SavedTurn(Foreign):
    """A question and its answer."""

    input: ChatText
    output: ChatText
    reasoning_content: ChatText | None = None


@opens({"history": [{"input": "a", "output": "b", "reasoning_content": "c"}], "system": "d"})
class SavedChat(Foreign):
    """What Load takes of a row; its length is bounded by that of the file."""

    history: list[SavedTurn]
    system: ChatText = ""


def export_chat(
    assistant: Assistant, messages: Sequence[StoredMessage], settings: dict[str, Any], adapter: str, prompt_type: str
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
    return format_chat(messages, {**settings, **ids}, info)


def format_chat(messages: Sequence[StoredMessage], settings: dict[str, Any], info: dict[str, Any]) -> str:
    """One JSON line in the original's form: history, generation_parameter, info; and system, where there is one.

    Args:
        settings, info: more is left out than SETTINGS and INFO name.
    """
    system, others = split_system(messages)
    row: dict[str, Any] = {
        "history": [
            {"input": user["content"], "output": assistant["content"], **_thought(assistant)}
            for user, assistant in zip(others[::2], others[1::2], strict=True)
        ],
        "generation_parameter": {name: settings.get(name) for name in SETTINGS},
        "info": {name: info.get(name) for name in INFO},
    }
    if system:
        row["system"] = system[0]["content"]
    return json.dumps(row, ensure_ascii=False) + "\n"


def _thought(answer: StoredMessage) -> dict[str, str]:
    """What was thought before an answer, where anything was; the original's form has no place for it."""
    return {"reasoning_content": answer["reasoning_content"]} if answer.get("reasoning_content") else {}


def parse_last_chat(text: str) -> tuple[list[StoredMessage], int]:
    """The last conversation of a saved file, and how many the file holds.

    Every row is checked; the original wrote one at each click on Save, so that the last one says most.

    Raises:
        UserError: the file is too large, empty, or a row is malformed; the row is named.
    """
    if is_too_large(text):
        raise UserError(f"the file is larger than {MAX_BYTES // 2**20} MB, the most that Load takes.")
    rows = [(n, line) for n, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1) if line.strip()]
    if not rows:
        raise UserError("the file is empty: expected the JSON lines that Save writes.")
    found = [_row(line, n) for n, line in rows]
    return found[-1], len(found)


def _row(line: str, n: int) -> list[StoredMessage]:
    found = parse(line.encode(errors="replace"), f"row {n}")
    if isinstance(found, dict) and isinstance(found.get("history"), list):
        check_turn_count(len(found["history"]), f"row {n}")
    row = typed(found, SavedChat, f"row {n}")
    messages = [StoredMessage(role="system", content=row.system)] if row.system else []
    for turn in row.history:
        # The original kept the end-of-text mark in its history.
        messages += [
            StoredMessage(role="user", content=turn.input),
            StoredMessage(role="assistant", content=turn.output.removesuffix("</s>")),
        ]
        if turn.reasoning_content:
            messages[-1]["reasoning_content"] = turn.reasoning_content
    return messages


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
            raise UserError(
                f"the server keeps at most {MAX_SAVED_BYTES // 2**20} MB of saved chats, and they are full; the "
                "download in your browser is complete."
            )
        with whole_file(path, mode=0o600) as file:
            file.write(text.encode("utf-8"))
    except OSError as error:
        raise UserError(
            f"the server could not write the saved chat ({error.strerror}); the download in your browser is complete."
        ) from error
    return path.name
