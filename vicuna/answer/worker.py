"""One thread that runs every call of a model, one at a time; the clients take turns."""

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from vicuna.errors import UserError
from vicuna.log import log
from vicuna.sentences import Sentence


class QueueFull(UserError):
    """As many calls wait as may.

    Attributes:
        retry_s: whole seconds after which a place is likely to be free, at least 1.
    """

    def __init__(self, message: str, retry_s: int = 1):
        super().__init__(message)
        self.retry_s = retry_s


class Call:
    """A call that waits, runs or is done.

    Attributes:
        done: set once it has run or was cancelled.
    """

    def __init__(self, work: Callable[[], None], client: str, worker: "Worker"):
        self.work, self.client, self.worker = work, client, worker
        self.done = threading.Event()

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
    """Round-robin between clients, first in first out within one.

    Args:
        max_queue: calls that may wait.
    """

    def __init__(self, max_queue: int = 64):
        self.max_queue = max_queue
        self._clients: OrderedDict[str, deque[Call]] = OrderedDict()  # those with waiting calls, next one first
        self._changed = threading.Condition()
        self._call_s = 1.0  # what a call takes, as a moving mean
        self.thread = threading.Thread(target=self._run, daemon=True, name="model")
        self.thread.start()

    def submit(self, work: Callable[[], None], client: str = "") -> Call:
        """Have `work` run; whatever it raises is logged, and goes no further.

        Raises:
            QueueFull: the queue is full.
        """
        call = Call(work, client, self)
        with self._changed:
            if self._waiting() >= self.max_queue:
                raise QueueFull(
                    Sentence("queue_full", waiting=self.max_queue),
                    max(1, math.ceil(self._call_s)),
                )
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

    def _next(self, served: str | None) -> Call:
        """The call whose turn it is, once there is one; `served` is the client whose call has just ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._clients)
            if served in self._clients:
                self._clients.move_to_end(served)  # behind those, too, that came while its call ran
            client = next(iter(self._clients))
            call = self._clients[client].popleft()
            if not self._clients[client]:
                del self._clients[client]
        return call

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
