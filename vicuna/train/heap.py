"""What is freed stays with the process while it trains on a CPU.

Each micro batch takes and frees the same tensors. Given back to the system in between, as the C library does with large
ones, they come as new pages, which the system fills with zeros first; docs/en/speed.md says what that takes.
"""

import ctypes

# Settings of mallopt(3), which is glibc's
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Have the C library keep what is freed, where it can be told; it was asked for at once before."""
    mallopt = getattr(_c_library(), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TOP_PAD, 64 << 20)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _c_library() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):  # there is none to be had so on Windows
        return None
