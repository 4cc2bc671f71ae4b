"""One thread that runs every call of a model, one at a time; the clients take turns."""

import math
import threading
import time
from collections.abc import Callable

from vicuna.answer.fair_queue import Client, FairQueue, QueueFull
from vicuna.log import log
from vicuna.sentences import Sentence


class Call:
    """A call that waits, runs or is done.

    Attributes:
        done: set once it has run or was cancelled.
        refused: why it will not run, although it waited.
    """

    def __init__(self, work: Callable[[], None], client: Client, worker: "Worker"):
        self.work, self.client, self.worker = work, client, worker
        self.done = threading.Event()
        self.refused: QueueFull | None = None

    def cancel(self) -> bool:
        """Take it back; False if it has begun."""
        return self.worker.cancel(self)

    def wait(self) -> None:
        """Return once it is done; in the worker's own thread, which would wait for itself, at once.

        That thread comes here where it collects, as garbage, what somebody abandoned.
        """
        if threading.current_thread() is not self.worker.thread:
            self.done.wait()


class Worker:
    """Runs calls in the order of a `FairQueue`.

    Args:
        max_queue: calls that may wait.
    """

    def __init__(self, max_queue: int = 64):
        self.max_queue = max_queue
        self._calls: FairQueue[Call] = FairQueue(max_queue)
        self._changed = threading.Condition()
        self._call_s = 1.0  # what a call takes, as a moving mean
        self.thread = threading.Thread(target=self._run, daemon=True, name="model")
        self.thread.start()

    def submit(self, work: Callable[[], None], client: Client | str = "") -> Call:
        """Have `work` run; whatever it raises is logged, and goes no further.

        Args:
            client: whose turn it takes; a text is a share of its own.

        Raises:
            QueueFull: the queue is full.
        """
        call = Call(work, client if isinstance(client, Client) else Client(client), self)
        with self._changed:
            try:
                lost = self._calls.add(call, call.client)
            except QueueFull as full:
                raise QueueFull(full.args[0], self._retry_s()) from None
            self._changed.notify()
        if lost:
            lost.refused = QueueFull(Sentence("place_lost"), self._retry_s())
            lost.done.set()
        return call

    def _retry_s(self) -> int:
        return max(1, math.ceil(self._call_s))

    def cancel(self, call: Call) -> bool:
        """Take a call back; False if it has begun."""
        with self._changed:
            if not self._calls.remove(call, call.client):
                return False
        call.done.set()
        return True

    @property
    def waiting(self) -> int:
        """Calls that have not begun."""
        with self._changed:
            return len(self._calls)

    def _next(self, served: Client | None) -> Call:
        """The call whose turn it is, once there is one; `served` is the client whose call has just ended."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._calls))
            return self._calls.take(served)

    def _run(self) -> None:
        served = None
        while True:
            call = self._next(served)
            begin = time.perf_counter()
            try:
                call.work()
            except BaseException:  # the thread outlives every call
                log.exception("a call of the model failed")
            finally:
                self._call_s += 0.2 * (time.perf_counter() - begin - self._call_s)
                served = call.client
                call.done.set()
                del call  # what it holds is not kept until the next one comes
