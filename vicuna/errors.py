"""How a program tells its user what went wrong.

Whatever a user can cause is raised as `UserError`, whose text says what is wrong with which value, what was
expected and what to do; `run` prints it as a sentence. Everything else is a bug and keeps its traceback.
"""

import errno
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

# What the machine refuses: no room, no right to write, a read-only disk.
REFUSED_BY_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


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


def first_line(error: BaseException) -> str:
    """What an exception says, in a line; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def listing(folder: Path) -> str:
    """The first dozen names in a folder, as messages show them."""
    return ", ".join(sorted(file.name for file in folder.iterdir())[:12]) or "nothing"


def _end(text: str, status: int) -> None:
    rank = f"rank {os.environ['RANK']}: " if int(os.environ.get("WORLD_SIZE", 1)) > 1 else ""
    print(f"{rank}{Path(sys.argv[0]).name}: {text}", file=sys.stderr)
    sys.exit(status)
