"""One channel for messages: the logger `vicuna`, to stderr and, while training, to session.log.

Standard output belongs to answers and tables.
"""

import logging
import sys
import warnings
from pathlib import Path

log = logging.getLogger("vicuna")


def set_up(rank: int = 0) -> logging.Logger:
    """Begin speaking, before libraries that are talkative at import; ranks above 0 only warn, with their number."""
    # Notices of libraries about each other, which the reader of a run can do nothing about.
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
    log.handlers.clear()
    log.propagate = False
    log.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(logging.Formatter("%(message)s" if rank == 0 else f"rank {rank}: %(message)s"))
    log.addHandler(console)
    return log


def to_file(folder: Path, rank: int) -> None:
    """On rank 0, also append to session.log in `folder`, which is made if need be."""
    if rank:
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(folder / "session.log", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s | %(levelname)s %(message)s"))
    log.addHandler(file)
