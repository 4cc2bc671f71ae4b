"""One thread that runs every call of a model, one at a time; the clients take turns."""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable

from vicuna.errors import UserError


class Busy(UserError):
    """As many calls wait as may."""


class Call:
    """A call that waits, runs or is done.

    Attributes:
        done: set once it has run or was cancelled.
    """

    def __init__(self, work: Callable[[], None], client: str):
        self.work, self.client = work, client
        self.done = threading.Event()


class Worker:
    """Round-robin between clients, first in first out within one.

    Args:
        max_queue: calls that may wait.
    """

    def __init__(self, max_queue: int = 64):
        self.max_queue = max_queue
        self._clients: OrderedDict[str, deque[Call]] = OrderedDict()  # those with waiting calls, next one first
        self._changed = threading.Condition()
        threading.Thread(target=self._run, daemon=True, name="model").start()

    def submit(self, work: Callable[[], None], client: str = "") -> Call:
        """Have `work` run; it must not raise.

        Raises:
            Busy: the queue is full.
        """
        call = Call(work, client)
        with self._changed:
            if self._waiting() >= self.max_queue:
                raise Busy(f"{self.max_queue} requests are waiting already; try again in a little while.")
            self._clients.setdefault(client, deque()).append(call)
            self._changed.notify()
        return call

    def cancel(self, call: Call) -> bool:
        """Take a call back; False if it has begun."""
        with self._changed:
            calls = self._clients.get(call.client, ())
            if call not in calls:
                return False
            calls.remove(call)
            if not calls:
                del self._clients[call.client]
        call.done.set()
        return True

    @property
    def waiting(self) -> int:
        """Calls that have not begun."""
        with self._changed:
            return self._waiting()

    def _waiting(self) -> int:
        return sum(map(len, self._clients.values()))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._clients)
                client, calls = self._clients.popitem(last=False)
                call = calls.popleft()
                if calls:
                    self._clients[client] = calls  # behind all the others
            try:
                call.work()
            finally:
                call.done.set()
