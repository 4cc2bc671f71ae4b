"""Answers on their way to a client: made in threads, read in the event loop, given up when the client goes away.

An update holds the whole answer so far, so only the latest one is kept: a client that reads slowly gets larger
pieces, and memory stays bounded.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

from starlette.requests import ClientDisconnect, Request

from vicuna.answer.stream import Update
from vicuna.errors import as_exception


class Answers:
    """The answers to one request.

    Args:
        makers: each takes what is set once nobody wants its answer any more, and gives its updates.
    """

    def __init__(self, makers: Sequence[Callable[[threading.Event], Iterator[Update]]]):
        self._stops = [threading.Event() for _ in makers]
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._latest: list[Update | None] = [None] * len(makers)
        self._error: BaseException | None = None
        for i, maker in enumerate(makers):
            threading.Thread(target=self._make, args=(i, maker), daemon=True, name="answer").start()

    def cancel(self) -> None:
        """Give up what is not answered yet: what runs stops at its next token, what waits is taken back."""
        for stop in self._stops:
            stop.set()

    def _make(self, i: int, maker: Callable[[threading.Event], Iterator[Update]]) -> None:
        try:
            for update in maker(self._stops[i]):
                self._tell(i, update)
        except BaseException as error:  # raised in the event loop, by `updates`
            self._tell(i, as_exception(error))

    def _tell(self, i: int, item: Update | BaseException) -> None:
        # A loop that is closed has nobody left to be told: the server has ended.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._note, i, item)

    def _note(self, i: int, item: Update | BaseException) -> None:
        if isinstance(item, Update):
            self._latest[i] = item
        else:
            self._error = self._error or item
        self._changed.set()

    async def updates(self) -> AsyncIterator[tuple[int, Update]]:
        """Number of an answer and its latest update, until every answer is finished."""
        seen: list[Update | None] = [None] * len(self._latest)
        while not all(update and update.finish for update in seen):
            await self._changed.wait()
            self._changed.clear()
            if self._error:
                raise self._error
            for i, update in enumerate(self._latest):
                if update is not None and update is not seen[i]:
                    seen[i] = update
                    yield i, update


async def run_in_thread(work: Callable[[threading.Event], Any]) -> Any:
    """What `work` returns, in a thread of its own; if this is cancelled, the event that it takes is set."""
    loop, stop = asyncio.get_running_loop(), threading.Event()
    result = loop.create_future()

    def tell(setter: Callable[[Any], None], value: Any) -> None:
        if not result.done():  # else nobody waits for it any more
            setter(value)

    def run() -> None:
        try:
            told = (result.set_result, work(stop))
        except BaseException as error:
            told = (result.set_exception, as_exception(error))
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended
            loop.call_soon_threadsafe(tell, *told)

    threading.Thread(target=run, daemon=True, name="embedding").start()
    try:
        return await result
    finally:
        stop.set()


async def cancel_on_disconnect(request: Request, work: Awaitable[Any]) -> Any:
    """The result of `work`, which is cancelled if the client goes away; the body must have been read.

    Raises:
        ClientDisconnect: it went away.
    """
    tasks = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            return tasks[0].result()
        raise ClientDisconnect
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
