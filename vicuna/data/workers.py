"""Processes beside this one, which do the same to each of many items: they get them in order, and so results come back.

What an item becomes depends on the item alone, so any number of processes gives the same. Each is a new interpreter: a
copy of this process would be one of torch's threads and locks too. What goes between them is pickled by one and read
by the other, and by nothing else.
"""

import io
import os
import pickle
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from vicuna.errors import UserError

if TYPE_CHECKING:  # a run without processes does not wait for what starts them
    from concurrent.futures import Future, ThreadPoolExecutor
    from subprocess import Popen

# Items that go to a process together: of so many bytes, and so many at most.
BATCH_BYTES, BATCH_ITEMS = 256 << 10, 500
BATCHES_A_PROCESS = 2  # one that is worked on, and one that waits
BYTES_A_PROCESS = 8 << 20  # of data files, for which starting one pays
MOST_MEMORY = 1 << 30  # of all of them, by what one takes as it starts
MEMORY, MEMORY_A_BYTE = 64 << 20, 32  # of one, and further for each byte of the tokenizer's file
_LENGTH = 8  # bytes that tell how long a message is
_WORK, _ITEMS = b"w", b"i"  # what it begins with: the work to do, and items to do it to


def process_count(data_bytes: int, tokenizer_bytes: int) -> int:
    """How many processes pay for data files of so many bytes, within the memory that they may take; 1 is this one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = MOST_MEMORY // (MEMORY + MEMORY_A_BYTE * tokenizer_bytes)
    return max(1, min(cores, most, data_bytes // BYTES_A_PROCESS))


class Workers:
    """The processes; with a count of 1 there is none, and the work is done here.

    They end with the block, and with this process however it ends: they read from it, and then there is nothing more.
    """

    def __init__(self, count: int = 1):
        self.count = count
        self._processes: list[Popen] = []
        self._idle: SimpleQueue[Popen] = SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None
        self._told: dict[int, bytes] = {}  # what work each has

    def __enter__(self) -> Self:
        if self.count > 1:
            from concurrent.futures import ThreadPoolExecutor

            self._threads = ThreadPoolExecutor(self.count)
            try:
                for _ in range(self.count):
                    self._processes.append(_start())
                    self._idle.put(self._processes[-1])
            except BaseException:
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: Any) -> None:
        for process in self._processes:
            process.kill()  # nothing that it does lasts
        if self._threads:
            self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.wait()
            process.stdout.close()
            with suppress(BrokenPipeError):  # of what it has not read
                process.stdin.close()

    def each(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """What the work makes of each item, in their order; no more items are taken than the processes are busy with.

        Raises:
            UserError: a process has ended.
        """
        if not self._threads:
            yield from map(work, items)
            return
        told = _WORK + pickle.dumps(work)
        waiting: deque[Future[bytes]] = deque()
        for batch in _batches(items):
            waiting.append(self._threads.submit(self._work, told, batch))
            if len(waiting) > BATCHES_A_PROCESS * self.count:
                yield from _results(waiting.popleft().result())
        while waiting:
            yield from _results(waiting.popleft().result())

    def _work(self, told: bytes, batch: bytes) -> bytes:
        process = self._idle.get()
        try:
            if self._told.get(process.pid) is not told:
                _results(_ask(process, told))
                self._told[process.pid] = told
            return _ask(process, batch)
        finally:
            self._idle.put(process)


def _start() -> "Popen":
    from subprocess import PIPE, Popen

    path = os.pathsep.join(os.path.abspath(one) for one in sys.path)
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "vicuna.data.workers"]
    # Of its own group: Ctrl-C is for the process that began it, which ends it.
    return Popen(command, stdin=PIPE, stdout=PIPE, env=env, process_group=0)


def _batches(items: Iterable[Any]) -> Iterator[bytes]:
    """Items one behind the other, pickled."""
    batch, size = [], 0
    for item in items:
        batch.append(pickle.dumps(item, pickle.HIGHEST_PROTOCOL))
        size += len(batch[-1])
        if size >= BATCH_BYTES or len(batch) >= BATCH_ITEMS:
            yield _ITEMS + b"".join(batch)
            batch, size = [], 0
    if batch:
        yield _ITEMS + b"".join(batch)


def _results(answer: bytes) -> list[Any]:
    found = pickle.loads(answer)
    if isinstance(found, BaseException):
        raise found
    return found


def _ask(process: "Popen", message: bytes) -> bytes:
    """What a process answers to a message."""
    try:
        _write(process.stdin, message)
        if answer := _read(process.stdout):
            return answer
    except (BrokenPipeError, ValueError):  # the latter where its pipes are closed already
        pass
    raise UserError(
        f"a process that reads the records has ended, with status {process.wait()}: was there enough memory? What it "
        "said stands above."
    )


def _write(pipe: BinaryIO, message: bytes) -> None:
    pipe.write(len(message).to_bytes(_LENGTH, "little"))
    pipe.write(message)
    pipe.flush()


def _read(pipe: BinaryIO) -> bytes:
    """A message, empty where there is none any more."""
    length = int.from_bytes(pipe.read(_LENGTH), "little")
    message = pipe.read(length)
    return message if len(message) == length else b""


def serve() -> None:
    """Work, as one of the processes, until there is nothing more to read."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    told, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    work: Callable[[Any], Any] | None = None
    while message := _read(told):
        found: list[Any] | Exception = []
        batch = io.BytesIO(message)
        try:
            if batch.read(1) == _WORK:
                work = pickle.load(batch)
            else:
                while batch.tell() < len(message):
                    found.append(work(pickle.load(batch)))
        except Exception as error:
            found = error if isinstance(error, UserError) else RuntimeError(traceback.format_exc())
        try:
            _write(answers, pickle.dumps(found, pickle.HIGHEST_PROTOCOL))
        except BrokenPipeError:
            return


if __name__ == "__main__":
    serve()
