"""Runs programs of the repository, each in a process of its own that is forked from this one, which has read the heavy
libraries already: reading them takes longer than most programs do. So are those of a launcher, which is torchrun but
for that: what they register for the interpreter's end is not called.

Takes one JSON object a line on standard input, with argv, cwd, env (what to add to the environment), stdout and stderr
(files to write), and answers with two lines: the process id, then the exit status.
"""

import gc
import json
import os
import runpy
import sys
from importlib import import_module
from typing import Any

LIBRARIES = ("torch", "transformers.trainer", "peft", "datasets", "bitsandbytes", "accelerate", "sentencepiece")


def serve() -> dict[str, Any] | None:
    """Answer requests to their end; in a forked process, return its request."""
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            return request
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return None


def become(request: dict[str, Any]) -> None:
    """Run the program that was asked for as the main one."""
    os.setsid()
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        with open(request[name], "wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    if request["argv"][0] == "-m":
        launch(*request["argv"][1:])
    else:
        run_as_main(*request["argv"])


def launch(module: str, *argv: str) -> None:
    """Run a launcher whose processes are forked from this one."""
    from torch.distributed import run as torchrun
    from torch.distributed.launcher.api import elastic_launch

    def fork_processes(args: Any) -> None:
        args.rdzv_backend, args.rdzv_endpoint, args.rdzv_id = "c10d", "localhost:0", str(os.getpid())  # as --standalone
        config, _, words = torchrun.config_from_args(args)
        config.start_method = "fork"
        elastic_launch(config, run_as_main)(*words[1:])  # without -u, which is for the interpreter

    torchrun.run = fork_processes
    sys.argv = [module, *argv]
    runpy.run_module(module, run_name="__main__")


def run_as_main(*argv: str) -> None:
    """Run a program as if the interpreter had been started for it."""
    sys.argv = list(argv)
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    for name in LIBRARIES:
        import_module(name)
    gc.freeze()  # else the first collection in a forked process copies every page that holds an object
    if asked := serve():
        become(asked)
