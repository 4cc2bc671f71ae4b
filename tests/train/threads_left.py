"""A program, and a word on standard error if threads of its group are left when the interpreter is about to end.

    python -m vicuna.train.launch --nproc_per_node=2 tests/train/threads_left.py finetune.py [flags]

Such a thread may abort the process: vicuna.train.process_group.leave_process_group says why.
"""

import atexit
import contextlib
import os
import runpy
import sys
from pathlib import Path


def name(file: Path) -> str:
    """A thread's; "" where it has ended."""
    with contextlib.suppress(OSError):
        return file.read_text(encoding="utf-8").strip()
    return ""


def count() -> None:
    names = map(name, Path("/proc/self/task").glob("*/comm"))
    if left := [name for name in names if name.startswith(("pt_gloo", "gloo"))]:
        print(f"rank {os.environ['RANK']} has threads left: {left}", file=sys.stderr)


atexit.register(count)  # first registered, last called
del sys.argv[0]
sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
