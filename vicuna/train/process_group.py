"""The group of a run's processes: made ready before the Trainer initialises it, and left at every end.

Communication threads of gloo outlive what they were asked for: who leaves the group waits for them, or the interpreter
may end under their feet.
"""

import gc
import importlib.util
import socket
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import torch

from vicuna.train.flags import RunFlags

# Modules whose functions take the group there is while they are read as a default, and hold it for ever: they are
# read before there is one.
HOLDERS = ("torch.distributed.nn", "deepspeed.comm")
GLOO_TIMEOUT_S = 30.0


def prepare_process_group(run: RunFlags, environ: MutableMapping[str, str]) -> None:
    """Make ready for `init_process_group`, which the Trainer calls; `leave_process_group` undoes it.

    DeepSpeed may run in one process without a launcher: it would look for MPI, and not find it.
    """
    for name in HOLDERS:
        if importlib.util.find_spec(name.split(".")[0]):
            importlib.import_module(name)
    if run.deepspeed and "WORLD_SIZE" not in environ:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def from_all_ranks(parts: list[Any]) -> list[Any]:
    """The lists of all ranks, one after the other; every rank must call it together."""
    if not torch.distributed.is_initialized():
        return parts
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, parts)
    return [part for parts in gathered for part in parts]


def leave_process_group() -> None:
    """Leave the run's other processes, if there are any: to be done at every end, before the interpreter's.

    gloo's threads may hold tensors of the last exchange a moment longer than it takes. A thread that lets go of one
    while the interpreter ends aborts the process, and a run that was complete has failed. They end with the group,
    which lives as long as anything holds it: so what only the garbage collector frees has to go first. DeepSpeed's
    engine is never freed, nor are its groups: their threads may stay, once they have let go of everything.
    """
    if torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()
        _let_gloo_finish()


def _let_gloo_finish() -> None:
    """Wait until no thread of gloo runs, or waits for a processor: one that is done with an exchange sleeps.

    Linux tells what threads do; elsewhere there is no waiting. A thread that waits for the interpreter's lock sleeps
    too: so this one gives the lock away before each look, and looks again.
    """
    quiet, deadline = 0, time.monotonic() + GLOO_TIMEOUT_S
    while quiet < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
        quiet = 0 if any(map(_works_for_gloo, Path("/proc/self/task").glob("*/stat"))) else quiet + 1


def _works_for_gloo(stat: Path) -> bool:
    try:
        name, _, state = stat.read_text(encoding="utf-8").partition("(")[2].rpartition(") ")
    except OSError:  # it has ended
        return False
    return name.startswith("pt_gloo") and state.startswith("R")
