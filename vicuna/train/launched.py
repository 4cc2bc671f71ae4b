"""A process that a launcher started, one of several of a run, is told when the launcher is gone."""

import ctypes
import signal
import sys
from collections.abc import Mapping

PR_SET_PDEATHSIG = 1  # Linux, <sys/prctl.h>


def end_with_launcher(environ: Mapping[str, str]) -> None:
    """Be sent SIGTERM by the system once the process that started this one is gone, also by SIGKILL: the run saves and
    ends, as if the launcher had passed the signal on, where it would go on unseen. On Linux alone.
    """
    if "LOCAL_RANK" in environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
