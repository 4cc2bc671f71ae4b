"""The answers that the tabs of the chat page are getting: all that the server holds between two events."""

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from vicuna.answer.fair_queue import Client

MAX_QUEUED = 8  # messages that a tab may send while an answer is running


@dataclass(frozen=True)
class ChatSettings:
    """What a visitor has set beside the question; `ChatController.read_settings` checks it.

    Attributes:
        generation: arguments of generate().
        thinking: "keep" or "empty" to have it switched on or off; "" as the adapter was trained.
    """

    adapter: str
    prompt_type: str
    system: str
    max_memory: int
    all_beams: bool
    generation: dict[str, Any]
    thinking: str = ""


@dataclass(frozen=True)
class ChatRequest:
    """A question, and how it is to be answered.

    Attributes:
        turn: the one that question and answer replace with all that follows; None where they are a new one.
        draw: how often the question was answered before; each time draws with the next seed.
    """

    question: str
    settings: ChatSettings
    turn: int | None = None
    draw: int = 0


@dataclass
class ActiveAnswer:
    """The answer that a tab is getting, and what the tab has asked meanwhile."""

    client: Client
    stop: threading.Event = field(default_factory=threading.Event)
    queued: deque[ChatRequest] = field(default_factory=deque)
    abandoned: bool = False  # the tab has turned to another conversation


class ActiveAnswers:
    """Those of all tabs, by session; a tab has one at a time."""

    def __init__(self) -> None:
        self._answers: dict[Client, ActiveAnswer] = {}
        self._lock = threading.Lock()

    def is_busy(self, client: Client) -> bool:
        """Whether a tab is getting an answer."""
        return client in self._answers

    def begin(self, client: Client) -> ActiveAnswer | None:
        """A new one; None where the tab is getting one already."""
        with self._lock:
            if client in self._answers:
                return None
            self._answers[client] = answer = ActiveAnswer(client)
            return answer

    def enqueue(self, client: Client, request: ChatRequest) -> bool | None:
        """Have a tab's request answered next; False if enough are queued, None if no answer is running."""
        with self._lock:
            answer = self._answers.get(client)
            if answer is None:
                return None
            if len(answer.queued) >= MAX_QUEUED:
                return False
            answer.queued.append(request)
            return True

    def next(self, answer: ActiveAnswer) -> ChatRequest | None:
        """What to answer next; None says that the tab is free again."""
        with self._lock:
            if answer.queued and not answer.stop.is_set():
                return answer.queued.popleft()
            if self._answers.get(answer.client) is answer:
                del self._answers[answer.client]
            return None

    def stop(self, client: Client) -> None:
        """End the answer that a tab is getting, at the next token."""
        if answer := self._answers.get(client):
            answer.stop.set()

    def abandon(self, client: Client) -> None:
        """The same, and nothing of it is shown any more."""
        with self._lock:
            if answer := self._answers.pop(client, None):
                answer.abandoned = True
                answer.stop.set()
