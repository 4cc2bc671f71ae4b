"""Work that is done for somebody, who may leave meanwhile: a thread can not be ended, so the work asks now and then."""

import threading
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")


class VisitorLeft(Exception):
    """Nobody waits any more for what is being done; goes up to who began it, and is shown to nobody."""


_gone: ContextVar[tuple[threading.Event, Exception] | None] = ContextVar("gone", default=None)


def work_until(gone: threading.Event, error: Exception | None = None) -> None:
    """What is done from here on in this context, and in the threads that it is handed to, ends once `gone` is set.

    Args:
        error: what it ends by; default: VisitorLeft.
    """
    _gone.set((gone, error or VisitorLeft()))


def check() -> None:
    """Go on, unless who it is for has left.

    Raises:
        VisitorLeft: see above.
    """
    if (found := _gone.get()) and found[0].is_set():
        raise found[1]


def steps_until(gone: threading.Event, items: Iterable[Item]) -> Iterator[Item]:
    """`items`, each of which is made as by `work_until`; no more of them once `gone` is set.

    A generator's steps may each be made in another thread and context, so each has to be told anew.
    """
    made = iter(items)
    try:
        while not gone.is_set():
            before = _gone.set((gone, VisitorLeft()))
            try:
                item = next(made)
            except (StopIteration, VisitorLeft):
                return
            finally:
                _gone.reset(before)
            yield item
    finally:
        if isinstance(made, Iterator) and hasattr(made, "close"):
            made.close()
