"""How much memory a part of a program takes at most, beside what was there before."""

import contextlib
import ctypes
import gc
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")


class PeakMemory:
    """Most memory that is taken from now on: of the GPUs, as PyTorch gives it out, or else of the machine."""

    def __init__(self) -> None:
        gc.collect()  # models refer to themselves, and would stay beside the next one
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            for gpu in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(gpu)
            return
        with contextlib.suppress(OSError, AttributeError):  # not on every system
            ctypes.CDLL(None).malloc_trim(0)
        self._before: int | None = None
        with contextlib.suppress(OSError):
            (_PROCESS / "clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
            self._before = _status("VmRSS")

    def taken_bytes(self) -> int | None:
        """The peak so far; None where the system does not tell."""
        if torch.cuda.is_available():
            return sum(torch.cuda.max_memory_allocated(gpu) for gpu in range(torch.cuda.device_count()))
        return None if self._before is None else max(0, _status("VmHWM") - self._before)


def _status(name: str) -> int:
    """A value of the process, in bytes."""
    lines = (_PROCESS / "status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
