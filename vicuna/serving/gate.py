"""How much is worked on at once, in all and for one share; what waits is let in as in a `FairQueue`."""

import asyncio
from collections import Counter

from vicuna.answer.fair_queue import Client, FairQueue, QueueFull
from vicuna.sentences import Sentence


class Place:
    """A place inside of a gate; `leave` gives it back, from any thread, any number of times."""

    def __init__(self, gate: "Gate", share: str):
        self._gate, self._share, self._loop, self._is_left = gate, share, asyncio.get_running_loop(), False

    def leave(self) -> None:
        """Let the next one in."""
        try:
            self._loop.call_soon_threadsafe(self._leave)
        except RuntimeError:  # the loop is closed: the server has ended
            return

    def _leave(self) -> None:
        if not self._is_left:
            self._is_left = True
            self._gate.left(self._share)


class Gate:
    """Belongs to one event loop.

    Args:
        most: that may be inside, and each: of one share.
        waiting: that may wait.
    """

    def __init__(self, most: int, each: int, waiting: int):
        self.most, self.each = most, each
        self._inside: Counter[str] = Counter()
        self._waiting: FairQueue[tuple[asyncio.Future[Place], Client]] = FairQueue(waiting)

    @property
    def inside(self) -> int:
        """How many are inside."""
        return self._inside.total()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def enter(self, client: Client) -> Place:
        """A place, once it is the client's turn.

        Raises:
            QueueFull: too many wait; or others came, and this share had most places.
        """
        if self.inside < self.most and self._may(client.share):  # who waits while there is room is at its own bound
            return self._place(client.share)
        turn: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        lost = self._waiting.add((turn, client), client)
        if lost and not lost[0].done():
            lost[0].set_exception(QueueFull(Sentence("place_lost")))
        try:
            return await turn
        except asyncio.CancelledError:
            if not self._waiting.remove((turn, client), client) and not turn.cancelled() and not turn.exception():
                turn.result().leave()
            raise

    def _may(self, share: str) -> bool:
        return self._inside[share] < self.each

    def _place(self, share: str) -> Place:
        self._inside[share] += 1
        return Place(self, share)

    def left(self, share: str) -> None:
        """One of a share is outside again."""
        self._inside[share] -= 1
        if not self._inside[share]:
            del self._inside[share]
        while self.inside < self.most and (found := self._waiting.take(may=self._may)):
            turn, client = found
            if not turn.done():
                turn.set_result(self._place(client.share))
