"""What the prompt types have places for, and where the turns of a dialogue begin."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vicuna.prompt.rendering import BASE, Renderer
from vicuna.prompt.wordings import TEMPLATES

SINGLE_QUESTIONS = ("instruct", "instruct_v0")  # finetune.py's default, and the original's first one


def first_messages(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Where turns begin: the indices of the questions, behind which answers and what functions said follow."""
    return [at for at, message in enumerate(messages) if message["role"] == "user"]


def tools_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """The functions that a dialogue says there are, as JSON, "" for none."""
    return json.dumps(messages[0]["tools"], ensure_ascii=False) if messages and messages[0].get("tools") else ""


def takes_system(prompt_type: str, chat: Renderer | None = None) -> bool:
    """Whether a prompt type has a place for a system message; `chat` is the base's own template."""
    return bool(chat and chat.takes_system) if prompt_type == BASE else TEMPLATES[prompt_type].takes_system


def knows_thinking(prompt_type: str, chat: Renderer | None) -> bool:
    """Whether thinking can be switched in prompts of this type; `chat` is the base's own template."""
    return prompt_type == BASE and chat is not None and chat.knows_thinking


def takes_turns(prompt_type: str) -> bool:
    """Whether a prompt type has a place for earlier turns."""
    return prompt_type == BASE or bool(TEMPLATES[prompt_type].turn)


def asks_single_questions(prompt_type: str) -> bool:
    """Whether a prompt type is for records of one question each, so that who learnt by it has seen no second turn."""
    return prompt_type in SINGLE_QUESTIONS


def answers_apart(prompt_type: str) -> bool:
    """Whether the ids of an answer are those of a text of its own, which begins with a dummy space."""
    return prompt_type != BASE and TEMPLATES[prompt_type].answer_apart
