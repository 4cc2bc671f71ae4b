"""How a program tells its user what went wrong.

Whatever a user can cause is raised as `UserError`, whose text says what is wrong with which value, what was
expected and what to do; `run` prints it as a sentence. Everything else is a bug and keeps its traceback. What is
printed or logged may quote names and texts of strangers: no control character of theirs reaches a terminal or a log.
"""

import errno
import io
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from vicuna.sentences import environment_language, told

# What the machine refuses: no room, no right to write, a read-only disk; a folder in the place of a file or the other
# way round, a link that goes round, a name that is too long.
REFUSED_BY_THE_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG),
}
# What asks a program to end, beside Ctrl-C; SIGHUP comes from a terminal that was closed, and not on Windows.
ENDING_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
# What ends a program, or a part of it; every other BaseException is a library's failure, such as a panic of Rust.
ENDINGS = (KeyboardInterrupt, SystemExit, GeneratorExit)
# What terminals obey, but for the tab and the end of a line; and what turns text around, which an answer in Arabic may.
_OBEYED = {one: f"\\x{one:02x}" for one in [*range(0x20), *range(0x7F, 0xA0)] if chr(one) not in "\t\n"}
_TURNING = {one: f"\\u{one:04x}" for one in [0x61C, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]}
_ESCAPED = {**_OBEYED, **_TURNING}
SIGPIPE = 13  # as a shell tells of who is ended so; Windows has no name for it
_last_acts: list[Callable[[], None]] = []


class UserError(Exception):
    """Something the user can mend. The message is shown as it is, without a traceback."""


class Stopped(Exception):
    """The program ends early on a signal, as it was told: what was saved, and the exit status."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class LibraryFailure(Exception):
    """What a library raised is no Exception, so that no handler would have seen it: its cause, here as a sentence."""


def as_exception(error: BaseException) -> BaseException:
    """What handlers of Exception see: an error as it is, or a `LibraryFailure` in place of a panic."""
    cancelled = getattr(sys.modules.get("asyncio"), "CancelledError", GeneratorExit)
    if isinstance(error, (Exception, *ENDINGS, cancelled)):
        return error
    failure = LibraryFailure(
        f"a library broke down ({type(error).__name__}: {first_line(error)}): a file that it reads is damaged, or of a "
        "kind that it does not know. Copy it again, or name another one."
    )
    failure.__cause__ = error
    return failure


@contextmanager
def exceptions_only() -> Iterator[None]:
    """Have whatever a library raises in the block be an Exception, but for what ends a program.

    Raises:
        LibraryFailure: in the place of what is none.
    """
    try:
        yield
    except BaseException as error:
        if (found := as_exception(error)) is error:
            raise
        raise found from error


def printable(text: str) -> str:
    """A text with its control characters written as codes, such as \\x1b, but for tabs and ends of lines."""
    return text if text.isprintable() else text.translate(_ESCAPED)


class PlainOutput:
    """Standard output for tables and reports, whose control characters are written as codes; else as it was."""

    def __init__(self, stream: Any):
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(printable(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def print_answer(text: str, end: str = "\n") -> None:
    """Print what a model answers: for a terminal without control characters, for a pipe or a file as it is."""
    stream = sys.stdout.stream if isinstance(sys.stdout, PlainOutput) else sys.stdout
    print(text.translate(_OBEYED) if stream.isatty() else text, end=end, file=stream, flush=True)


def run(program: Callable[[], None]) -> None:
    """Run `program`; a `UserError` becomes a line on stderr and exit status 1, Ctrl-C status 130, a closed pipe 141.

    A sign that the console's encoding lacks, such as ⏎ in GBK, is printed as its code: it ends no program.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    before = sys.stdout
    sys.stdout = PlainOutput(before) if before else None
    try:
        _run(program)
    finally:
        sys.stdout = before


def _run(program: Callable[[], None]) -> None:
    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, end_on_signal)
        with exceptions_only():
            _run_printing(program)
    except (UserError, LibraryFailure) as error:
        _end(f"error: {told(error, environment_language())}", 1)
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
    """Do `act` when the block ends, also where a signal ends the program at once; again if a signal interrupts it."""
    _last_acts.append(act)
    try:
        yield
    finally:
        _last_acts.remove(act)
        try:
            act()
        except (Stopped, KeyboardInterrupt):
            act()
            raise


def first_line(error: BaseException) -> str:
    """What an exception says, in a line; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def listing(folder: Path) -> str:
    """The first dozen names in a folder, as messages show them."""
    return ", ".join(sorted(file.name for file in folder.iterdir())[:12]) or "nothing"


def _run_printing(program: Callable[[], None]) -> None:
    """Run `program`, and end it quietly where who reads what it prints, such as `head`, has read enough."""
    try:
        try:
            program()
        except SystemExit:
            print(end="", flush=True)
            raise
        print(end="", flush=True)  # at its end the interpreter itself would complain
    except BrokenPipeError:
        if not _output_is_closed():
            raise
        _end("", 128 + SIGPIPE)


def _output_is_closed() -> bool:
    """Whether nobody reads standard output any more."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
    except (AttributeError, OSError, ValueError):  # Windows, or no file
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _said(text: str) -> str:
    rank = f"rank {os.environ['RANK']}: " if int(os.environ.get("WORLD_SIZE", 1)) > 1 else ""
    return printable(f"{rank}{Path(sys.argv[0]).name}: {text}")


def _end(text: str, status: int) -> NoReturn:
    with suppress(OSError):  # the terminal is gone
        if text:
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
