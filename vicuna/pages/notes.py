"""What the chat page says beside a conversation: under each answer how it was made, and how full the memory is."""

from collections.abc import Sequence

from vicuna.answer.assistant import Assistant
from vicuna.answer.history import Trimmed
from vicuna.answer.stream import Update
from vicuna.pages import rendering
from vicuna.pages.chat_queue import ChatSettings
from vicuna.pages.conversation import MAX_NOTE_CHARS, StoredMessage, system_prompt
from vicuna.pages.strings import Strings


def answer_note(strings: Strings, name: str, prompt_tokens: int, context: int, last: Update, *others: str) -> str:
    """The line under an answer: who made it, tokens, speed, why it ended, the context used, and what else there is.

    Args:
        name: of the adapter, "" for the base alone.
    """
    used = strings["context_used"].format(used=f"{prompt_tokens + last.tokens:,}", context=f"{context:,}")
    parts = [name or strings["base_only"], rendering.stats_line(strings, last), used, *others]
    return " · ".join(filter(None, parts))[:MAX_NOTE_CHARS]


def dropped_system(strings: Strings, assistant: Assistant, messages: Sequence[StoredMessage], prompt_type: str) -> str:
    """That the conversation's system prompt is not sent, "" where it is, or there is none."""
    if not system_prompt(messages).strip() or assistant.takes_system(prompt_type):
        return ""
    return strings["system_dropped"].format(prompt_type=prompt_type)


def memory_line(strings: Strings, trimmed: Trimmed, context: int, settings: ChatSettings) -> str:
    """How full the memory is, and why it holds as much as it does."""
    line = rendering.memory_line(strings, trimmed)
    if trimmed.budget >= settings.max_memory:
        return line + strings["memory_set"].format(max_memory=f"{settings.max_memory:,}")
    return line + strings["memory_left"].format(context=f"{context:,}", new=f"{context - trimmed.budget:,}")
