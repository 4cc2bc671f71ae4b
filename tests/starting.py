"""Starts Python programs as subprocess.Popen does, but forked from tests/warm.py: in a tenth of the time.

As a program it is an interpreter that does so with the project's programs, for launchers: see `interpreter`.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from subprocess import Popen

# Behind -c, before a program's words: the terminal that is its standard input becomes that of its session.
IN_TERMINAL = """
import fcntl, runpy, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
ADDRESS = "VICUNA_TESTS_WARM"  # an environment variable: what is started starts others there too
_servers: list[Popen] = []


def address() -> str:
    """Where tests/warm.py listens; it is started when it is first asked for."""
    if ADDRESS not in os.environ:
        path = f"{tempfile.mkdtemp(prefix='vicuna-warm-')}/socket"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            listening.bind(path)
            listening.listen()
            command = [sys.executable, str(Path(__file__).with_name("warm.py")), str(listening.fileno())]
            env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
            _servers.append(Popen(command, stdin=subprocess.PIPE, pass_fds=[listening.fileno()], env=env))
        os.environ[ADDRESS] = path
    return os.environ[ADDRESS]


def end() -> None:
    """End what `address` started."""
    for server in _servers:
        server.stdin.close()
        server.wait(timeout=60)
        path = Path(os.environ.pop(ADDRESS))
        path.unlink()
        path.parent.rmdir()
    _servers.clear()


class Started(Popen):
    """A process whose first word is sys.executable. It has read the libraries before it has its environment: what
    looks at variables while it is read, or sets itself up by them as the interpreter does, does not see its own.
    Signals that are ignored here are ignored there, as for any process that is started."""

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *more) -> None:
        *_, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = more[:9]
        new_session = more[-2]
        program, *argv = map(str, args)
        assert program == sys.executable, args
        assert not pass_fds, pass_fds
        assert preexec_fn is None, preexec_fn
        request = {
            "argv": [word for place, word in enumerate(argv) if (place, word) != (0, "-u")],
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "new_session": new_session,
            "ignored": [number for number in signal.valid_signals() if ignored(number)],
        }
        files = [own if given == -1 else given for own, given in enumerate((p2cread, c2pwrite, errwrite))]
        self._answers = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._answers.connect(address())
            socket.send_fds(self._answers, [json.dumps(request).encode()], files)
            self.pid = int(self._answers.recv(100))
            self._child_created = True
        finally:
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        with suppress(BlockingIOError):
            status = int(self._answers.recv(100, socket.MSG_DONTWAIT if wait_flags & os.WNOHANG else 0))
            self._answers.close()
            return self.pid, status
        return 0, 0

    def _internal_poll(self, _deadstate: int | None = None) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                if self.returncode is None and (found := self._try_wait(os.WNOHANG))[0]:
                    self._handle_exitstatus(found[1])
            finally:
                self._waitpid_lock.release()
        return self.returncode


def ignored(number: int) -> bool:
    # As subprocess restores those that the interpreter itself ignores.
    return number not in (signal.SIGPIPE, signal.SIGXFSZ) and signal.getsignal(number) is signal.SIG_IGN


def interpreter(folder: Path) -> str:
    """An interpreter for a launcher's PYTHON that no signal is sent to, made in the folder."""
    address()
    file = folder / "python"
    file.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" "$@"\n', encoding="utf-8")
    file.chmod(0o755)
    return str(file)


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[0].endswith(".py") or words[:2] == ["-m", "vicuna.train.launch"]:
        with Started([sys.executable, *words]) as process:
            status = process.wait()
        sys.exit(status if status >= 0 else 128 - status)
    os.execv(sys.executable, [sys.executable, *words])
