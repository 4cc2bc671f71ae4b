"""How a program tells its user what went wrong.

Whatever a user can cause is raised as `UserError`, whose text says what is wrong with which value, what was
expected and what to do; `run` prints it as a sentence. Everything else is a bug and keeps its traceback.
"""

import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

# What the machine refuses: no room, no right to write, a read-only disk.
REFUSED_BY_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}
# What asks a program to end, beside Ctrl-C; SIGHUP comes from a terminal that was closed, and not on Windows.
ENDING_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_last_acts: list[Callable[[], None]] = []


class UserError(Exception):
    """Something the user can mend. The message is shown as it is, without a traceback."""


class Stopped(Exception):
    """The program ends early on a signal, as it was told: what was saved, and the exit status."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


def run(program: Callable[[], None]) -> None:
    """Run `program`; a `UserError` becomes a line on stderr and exit status 1, Ctrl-C status 130.

    A sign that the console's encoding lacks, such as ⏎ in GBK, is printed as its code: it ends no program.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, end_on_signal)
        program()
    except UserError as error:
        _end(f"error: {error}", 1)
    except OSError as error:
        if error.errno not in REFUSED_BY_THE_MACHINE:
            raise
        where = f": {error.filename}" if error.filename else ""
        _end(f"error: {error.strerror}{where}. Free it, or name another place.", 1)
    except Stopped as stopped:
        if os.environ.get("RANK", "0") != "0":
            sys.exit(stopped.status)
        _end(str(stopped), stopped.status)
    except KeyboardInterrupt:
        _end("stopped by Ctrl-C", 130)


def end_on_signal(number: int, frame: FrameType | None) -> NoReturn:
    """A handler that ends the program, by an exception where one can pass.

    Through a library that is being read it can not: from its C++ initialisers it ends the process with SIGABRT.

    Raises:
        KeyboardInterrupt: on Ctrl-C.
        Stopped: on another signal.
    """
    while frame:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            end_at_once(number)
        frame = frame.f_back
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Stopped(f"stopped by {signal.Signals(number).name}", 128 + number)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the block as Ctrl-C does, so that what it holds or wrote aside is removed.

    A signal that was ignored (`nohup`) or has a handler is left as it is.

    Raises:
        Stopped: on a signal.
    """
    # Python hands signals to the main thread alone.
    main = threading.current_thread() is threading.main_thread()
    mine = [number for number in ENDING_SIGNALS if main and signal.getsignal(number) is signal.SIG_DFL]
    for number in mine:
        signal.signal(number, end_on_signal)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def at_the_end(act: Callable[[], None]) -> Iterator[None]:
    """Do `act` when the block ends, also where a signal ends the program at once."""
    _last_acts.append(act)
    try:
        yield
    finally:
        _last_acts.remove(act)
        act()


def first_line(error: BaseException) -> str:
    """What an exception says, in a line; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def listing(folder: Path) -> str:
    """The first dozen names in a folder, as messages show them."""
    return ", ".join(sorted(file.name for file in folder.iterdir())[:12]) or "nothing"


def _said(text: str) -> str:
    rank = f"rank {os.environ['RANK']}: " if int(os.environ.get("WORLD_SIZE", 1)) > 1 else ""
    return f"{rank}{Path(sys.argv[0]).name}: {text}"


def _end(text: str, status: int) -> NoReturn:
    with suppress(OSError):  # the terminal is gone
        print(_said(text), file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # else what is left in it would make the status 120, in the interpreter's own attempt
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), stream.fileno())
    sys.exit(status)


def end_at_once(number: int) -> NoReturn:
    """End the program as a signal would, whatever its threads do."""
    for act in reversed(_last_acts):
        with suppress(OSError):
            act()
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    with suppress(OSError):
        os.write(2, f"{_said(f'stopped by {name}')}\n".encode())
    os._exit(128 + number)
