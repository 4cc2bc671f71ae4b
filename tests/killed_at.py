"""A program that is ended by a signal at the Nth thing it does to files below a folder, however quick the machine is.

    python tests/killed_at.py FOLDER N NUMBER COUNTS tools/merge_lora.py [flags]

Python tells an audit hook of every file that is opened to be written, made, renamed, removed or cut, before it does so.
NUMBER is the signal's, and N is 0 to let it come to its end: what it did is in the file COUNTS, a line for each.
"""

import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
EVENTS = (
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.truncate",
    "os.chmod",
    "os.utime",
    "os.link",
    "os.symlink",
)


def watch(folder: Path, nth: int, number: int, counts: Path | None = None) -> None:
    """Send oneself a signal before the `nth` change below `folder`; there is no end to the watching."""
    below, done, lines = os.fsencode(folder), 0, -1
    if counts:
        lines = os.open(counts, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def changes(event: str, args: tuple[Any, ...]) -> bool:
        if event == "open":
            return isinstance(args[2], int) and bool(args[2] & WRITES) and is_below(args[0])
        return event in EVENTS and (is_below(args[0]) or (event == "os.rename" and is_below(args[1])))

    def is_below(path: Any) -> bool:
        return isinstance(path, str | bytes | os.PathLike) and os.fsencode(path).startswith(below)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal done
        if not changes(event, args):
            return
        done += 1
        if done == nth:
            os.kill(os.getpid(), number)
        if counts:
            os.write(lines, f"{event} {args[0]!r}\n".encode())

    sys.addaudithook(hook)


if __name__ == "__main__":
    folder, nth, number, counts = sys.argv[1:5]
    del sys.argv[:5]
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    watch(Path(folder), int(nth), int(number), Path(counts))
    runpy.run_path(sys.argv[0], run_name="__main__")
