"""Runs programs of the repository one after the other in this process, with a `y` for whatever they may ask.

    walked_programs.py FOLDER COMMANDS

COMMANDS is a JSON list of lists of words. FOLDER is where a module that a library imports by its name is found. A line
of JSON for each program goes to standard output: its status, the end of what it said, and with whom it wanted to
speak. There is no network: whoever asks for one is written down, and refused.
"""

import io
import json
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

asked: list[str] = []


def watch(event: str, args: tuple[Any, ...]) -> None:
    """Write down and refuse what would leave this machine."""
    if event == "socket.getaddrinfo" or (event == "socket.connect" and isinstance(args[1], tuple)):
        asked.append(f"{event} {args[0] if event == 'socket.getaddrinfo' else args[1]}")
        raise OSError("no network in this test")


def walk(argv: list[str]) -> dict[str, Any]:
    """What became of one program."""
    del asked[:]
    sys.path[0] = str(Path(argv[0]).resolve().parent)
    sys.argv, sys.stdin = argv, io.StringIO("y\n" * 50)
    status: Any = 0
    with redirect_stdout(io.StringIO()) as said, redirect_stderr(said):
        try:
            runpy.run_path(argv[0], run_name="__main__")
        except SystemExit as ending:
            status = ending.code or 0
        except BaseException as error:
            status = f"{type(error).__name__}: {error}"
    return {"status": status, "said": said.getvalue()[-2000:], "asked": [*asked]}


if __name__ == "__main__":
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = False  # who would look something up is to try
    sys.path.append(sys.argv[1])
    commands = json.loads(sys.argv[2])
    sys.addaudithook(watch)
    for command in commands:
        print(json.dumps(walk(command)), flush=True)
