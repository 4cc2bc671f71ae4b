"""The answers that the tabs of the chat page are getting: all that the server holds between two events."""

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

WAITING = 8  # messages that a tab may send while an answer is running


@dataclass(frozen=True)
class Options:
    """What a visitor has set beside the question; `Talk.options` checks it."""

    adapter: str
    prompt_type: str
    system: str
    max_memory: int
    all_beams: bool
    chosen: dict[str, Any]


@dataclass(frozen=True)
class Ask:
    """A question, and how it is to be answered.

    Attributes:
        turn: the one that question and answer replace with all that follows; None where they are a new one.
        draw: how often the question was answered before; each time draws with the next seed.
    """

    question: str
    options: Options
    turn: int | None = None
    draw: int = 0


@dataclass
class Run:
    """The answer that a tab is getting, and what the tab has asked meanwhile."""

    stop: threading.Event = field(default_factory=threading.Event)
    waiting: deque[Ask] = field(default_factory=deque)
    dropped: bool = False  # the tab has turned to another conversation


class Runs:
    """The runs of all tabs, by session; a tab has one at a time."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._lock = threading.Lock()

    def busy(self, session: str) -> bool:
        """Whether a tab is getting an answer."""
        return session in self._runs

    def begin(self, session: str) -> Run | None:
        """A new run; None where one runs already."""
        with self._lock:
            if session in self._runs:
                return None
            self._runs[session] = run = Run()
            return run

    def wait(self, session: str, ask: Ask) -> bool | None:
        """Have the run of a tab answer this next; False if enough waits, None if there is no run."""
        with self._lock:
            run = self._runs.get(session)
            if run is None:
                return None
            if len(run.waiting) >= WAITING:
                return False
            run.waiting.append(ask)
            return True

    def next(self, session: str, run: Run) -> Ask | None:
        """What to answer next; None has ended the run."""
        with self._lock:
            if run.waiting and not run.stop.is_set():
                return run.waiting.popleft()
            if self._runs.get(session) is run:
                del self._runs[session]
            return None

    def stop(self, session: str) -> None:
        """End the answer that a tab is getting, at the next token."""
        if run := self._runs.get(session):
            run.stop.set()

    def drop(self, session: str) -> None:
        """The same, and nothing of it is shown any more."""
        with self._lock:
            if run := self._runs.pop(session, None):
                run.dropped = True
                run.stop.set()
