"""Starts Python programs as subprocess.Popen does, but forked from tests/warm.py: in a tenth of the time.

As a program it is an interpreter that does so with the project's programs, for launchers: see `address`.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

# Behind -c, before a program's words: the terminal that is its standard input becomes that of its session.
IN_TERMINAL = """
import fcntl, runpy, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
ADDRESS = "VICUNA_TESTS_WARM"  # an environment variable: what is started starts others there too
SOCKET = "socket"
_servers: list[subprocess.Popen] = []


def address() -> str:
    """The folder where tests/warm.py listens, which is started when it is first asked for; `python` in it is an
    interpreter for launchers, which starts the project's programs there."""
    if ADDRESS not in os.environ:
        folder = Path(tempfile.mkdtemp(prefix="vicuna-warm-"))
        python = folder / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" "$@"\n', encoding="utf-8")
        python.chmod(0o755)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            listening.bind(str(folder / SOCKET))
            listening.listen()
            command = [sys.executable, str(Path(__file__).with_name("warm.py")), str(listening.fileno())]
            env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
            _servers.append(subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[listening.fileno()], env=env))
        os.environ[ADDRESS] = str(folder)
    return os.environ[ADDRESS]


def end() -> None:
    """End what `address` started."""
    for server in _servers:
        server.stdin.close()
        server.wait(timeout=60)
        shutil.rmtree(os.environ.pop(ADDRESS))
    _servers.clear()


class Started:
    """A process whose first word is sys.executable, with the arguments and methods of subprocess.Popen that tests use.

    It has read the libraries before it has its environment: what looks at variables while it is read, or sets itself up
    by them as the interpreter does, does not see its own. Signals that are ignored here are ignored there, as for any
    process that is started. It is killed when this object is gone.
    """

    def __init__(
        self, args: Sequence[Any], *, cwd: Path | str | None = None, env: dict[str, str] | None = None,
        stdin: Any = None, stdout: Any = None, stderr: Any = None, text: bool = False, encoding: str = "utf-8",
        start_new_session: bool = False,
    ):  # fmt: skip
        program, *argv = map(str, args)
        assert program == sys.executable, args
        self.args, self.returncode = args, None
        self._opens = {"encoding": encoding} if text else {}
        self._reading: dict[str, Future] = {}
        self._asking = threading.Lock()
        request = {
            "argv": [word for place, word in enumerate(argv) if (place, word) != (0, "-u")],
            "cwd": str(cwd or Path.cwd()),
            "env": {**(os.environ if env is None else env), ADDRESS: address()},
            "new_session": start_new_session,
            "ignored": [number for number in signal.valid_signals() if ignored(number)],
        }
        theirs: list[int] = []
        self.stdin = self._join(stdin, 0, theirs)
        self.stdout = self._join(stdout, 1, theirs)
        self.stderr = self._join(stderr, 2, theirs)
        files, mine = [file for file, _ in theirs], [file for file, is_mine in theirs if is_mine]
        self._answers = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._answers.connect(f"{address()}/{SOCKET}")
            socket.send_fds(self._answers, [json.dumps(request).encode()], files)
            self.pid = int(self._answers.recv(100))
        finally:
            for file in set(mine):
                os.close(file)

    def _join(self, given: Any, place: int, theirs: list[tuple[int, bool]]) -> IO | None:
        """This end of a standard file; the other one is added to `theirs`, and whether it is to be closed here."""
        if given == subprocess.STDOUT:
            theirs.append(theirs[1])
        elif given == subprocess.DEVNULL:
            theirs.append((os.open(os.devnull, os.O_RDWR), True))
        elif given != subprocess.PIPE:
            theirs.append((place if given is None else given if isinstance(given, int) else given.fileno(), False))
        else:
            reads, writes = os.pipe()
            theirs.append((writes if place else reads, True))
            kind = ("r" if place else "w") + ("" if self._opens else "b")
            return open(reads if place else writes, kind, **self._opens)
        return None

    def __enter__(self) -> "Started":
        return self

    def __exit__(self, *raised: object) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream and not self._reading:
                stream.close()
        self.wait()

    def poll(self) -> int | None:
        """Its exit status, as `wait`'s; None while it runs."""
        if self.returncode is None and self._asking.acquire(blocking=False):
            try:
                self._ask(0)
            except BlockingIOError:
                pass
            finally:
                self._asking.release()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status once it has ended, a signal's number negative.

        Raises:
            subprocess.TimeoutExpired: it has not ended.
        """
        with self._asking:
            try:
                self._ask(timeout)
            except TimeoutError:
                raise subprocess.TimeoutExpired(self.args, timeout) from None
        return self.returncode

    def _ask(self, timeout: float | None) -> None:
        if self.returncode is None:
            self._answers.settimeout(timeout)
            said = self._answers.recv(100)
            assert said, "tests/warm.py has ended"
            self.returncode = int(said)
            self._answers.close()

    def communicate(self, timeout: float | None = None) -> tuple[Any, Any]:
        """What it printed into its pipes, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not; it may be asked again.
        """
        streams = {name: stream for name in ("stdout", "stderr") if (stream := getattr(self, name))}
        if self.stdin:
            self.stdin.close()
        if not self._reading:
            readers = ThreadPoolExecutor(2)
            self._reading = {name: readers.submit(stream.read) for name, stream in streams.items()}
            readers.shutdown(wait=False)
        if wait(self._reading.values(), timeout).not_done:
            raise subprocess.TimeoutExpired(self.args, timeout)
        for stream in streams.values():
            stream.close()
        self.wait(timeout)
        said = {name: one.result() for name, one in self._reading.items()}
        return said.get("stdout"), said.get("stderr")

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def ignored(number: int) -> bool:
    # As subprocess restores those that the interpreter itself ignores.
    return number not in (signal.SIGPIPE, signal.SIGXFSZ) and signal.getsignal(number) is signal.SIG_IGN


def stand_for(words: list[str]) -> int:
    """Run a program and pass on to it what this process is sent; its exit status."""
    with Started([sys.executable, *words]) as process:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if not ignored(number):
                signal.signal(number, lambda number, _: process.send_signal(number))
        status = process.wait()
    if status < 0:  # so does this one
        with suppress(OSError):  # SIGKILL has no handler
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


if __name__ == "__main__":
    words = sys.argv[1:] if sys.argv[1:2] != ["-u"] else sys.argv[2:]
    if words[0].endswith(".py") or (words[0] == "-m" and words[1].startswith("vicuna.")):
        sys.exit(stand_for(words))
    os.execv(sys.executable, [sys.executable, *words])
