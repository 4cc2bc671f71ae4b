"""Runs programs of the repository, each in a process of its own that is forked from this one, which has read the heavy
libraries already: reading them takes longer than most programs do. So are the processes that torchrun starts.

Listens on the Unix socket whose number is its only argument, until its standard input ends. A request is one message,
a JSON object with argv (an interpreter's words behind its own name), cwd, env, new_session and ignored (numbers of
signals), and with it come the three standard files. The answers are two: the process id, then what waitpid says of
its end. tests/starting.py asks.
"""

import atexit
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import tempfile
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from io import TextIOWrapper
from pathlib import Path
from types import ModuleType
from typing import Any

LIBRARIES = (
    *("torch", "transformers.trainer", "peft", "datasets", "bitsandbytes", "accelerate", "sentencepiece"),
    *("torch.distributed.run", "gradio", "matplotlib.figure", "transformers.models.llama.modeling_llama"),
)
LONGEST = 2**20


def serve(listening: socket.socket) -> dict[str, Any] | None:
    """Answer requests to their end; in a forked process, return its request, with its standard files in place."""
    waiting = selectors.DefaultSelector()
    waiting.register(sys.stdin.fileno(), selectors.EVENT_READ)
    waiting.register(listening, selectors.EVENT_READ)
    running: dict[int, tuple[int, socket.socket]] = {}  # pidfd -> process, who asked for it
    while True:
        for ready, _ in waiting.select():
            if ready.fileobj is listening:
                client, _ = listening.accept()
                said, files, _, _ = socket.recv_fds(client, LONGEST, 3)
                child = os.fork()
                if not child:
                    request = json.loads(said)
                    settle(request.pop("new_session"), request.pop("ignored"), files)
                    client.send(b"%d" % os.getpid())
                    for held in (waiting, listening, client, *(other for _, other in running.values())):
                        held.close()
                    for pidfd in running:
                        os.close(pidfd)
                    return request
                for file in files:
                    os.close(file)
                pidfd = os.pidfd_open(child)
                running[pidfd] = child, client
                waiting.register(pidfd, selectors.EVENT_READ)
                waiting.register(client, selectors.EVENT_READ)
            elif ready.fd in running:
                child, client = running.pop(ready.fd)
                waiting.unregister(ready.fd)
                os.close(ready.fd)
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                with suppress(KeyError):
                    waiting.unregister(client)
                with client, suppress(BrokenPipeError):
                    client.send(b"%d" % status)
            elif ready.fileobj == sys.stdin.fileno():
                return None
            else:  # who asked for it is gone
                waiting.unregister(ready.fileobj)
                child = next(child for child, client in running.values() if client is ready.fileobj)
                os.kill(child, signal.SIGKILL)


def settle(new_session: bool, ignored: list[int], files: list[int]) -> None:
    """What is so before a program begins."""
    if new_session:
        os.setsid()
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    for place, file in enumerate(files):
        os.dup2(file, place)
        os.close(file)


def become(argv: list[str], cwd: str, env: dict[str, str]) -> None:
    """Do what an interpreter does that is started with these words."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None
    open_streams()
    sys.path[1:1] = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path]
    if argv[0] == "-m" and argv[1] in ("vicuna.train.launch", "torch.distributed.run"):
        os.environ["PYTHON_EXEC"] = str(Path(env["VICUNA_TESTS_WARM"]) / "python")  # torchrun's name for it
    if argv[0] == "-c":
        sys.path[0] = ""
        sys.argv = ["-c", *argv[2:]]
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(compile(argv[1], "<string>", "exec"), vars(main))
    elif argv[0] == "-m":
        sys.path[0] = cwd
        sys.argv = argv[1:]
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(argv[0]))
        sys.argv = argv
        runpy.run_path(argv[0], run_name="__main__")


def open_streams() -> None:
    """The interpreter's own objects are of what the standard files were when it began."""
    sys.__stdin__ = sys.stdin = open(0, encoding=sys.stdin.encoding, closefd=False)  # noqa: SIM115
    at_once = bool(os.environ.get("PYTHONUNBUFFERED"))
    for name, number in (("stdout", 1), ("stderr", 2)):
        before = getattr(sys, name)
        file = open(number, "wb", 0 if at_once else -1, closefd=False)  # noqa: SIM115
        lines = os.isatty(number) or name == "stderr"
        stream = TextIOWrapper(file, before.encoding, before.errors, line_buffering=lines, write_through=at_once)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def leave() -> None:
    """End as an interpreter does, but for taking itself apart: that copies every page of memory first.

    Registered before anything else is, it is called after everything else.
    """
    if ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended[0])


if __name__ == "__main__":
    ended: list[int] = []  # exit status, in a forked process
    atexit.register(leave)
    for name in (*LIBRARIES, *(["deepspeed.comm"] if find_spec("deepspeed") else [])):
        import_module(name)
    for number in (signal.SIGHUP, signal.SIGTERM):  # ignored, perhaps, where it was first asked for
        signal.signal(number, signal.SIG_DFL)
    gc.freeze()  # else the first collection in a forked process copies every page that holds an object
    if asked := serve(socket.socket(fileno=int(sys.argv[1]))):
        try:
            become(**asked)
            ended.append(0)
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
            ended.append((int(bool(end.code)) if isinstance(end.code, str) else end.code or 0) & 0xFF)
        except Exception:
            sys.excepthook(*sys.exc_info())
            ended.append(1)
