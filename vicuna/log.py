"""One channel for messages: the logger `vicuna`, to stderr and, while training, to session.log.

Standard output belongs to answers and tables.
"""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path

from vicuna.errors import Stopped, UserError, printable

log = logging.getLogger("vicuna")
SESSION = "session.log"
KEPT, NEVER = 1000, logging.CRITICAL + 1  # lines, and the level from which they would be written at once


def set_up(rank: int = 0) -> logging.Logger:
    """Begin speaking, before libraries that are talkative at import; ranks above 0 only warn, with their number."""
    # Notices of libraries about each other, which the reader of a run can do nothing about.
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    for client in ("httpx", "httpx2"):  # a line for each request
        logging.getLogger(client).setLevel(logging.WARNING)
    # Of answers longer than max_position_embeddings; the context that holds is seen to here.
    logging.getLogger("transformers.generation.stopping_criteria").setLevel(logging.ERROR)
    logging.getLogger("transformers.modeling_utils").addFilter(_is_no_load_report)
    if not sys.stderr.isatty():
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
    log.handlers.clear()
    log.propagate = False
    log.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(PlainFormatter("%(message)s" if rank == 0 else f"rank {rank}: %(message)s"))
    log.addHandler(console)
    return log


def _is_no_load_report(record: logging.LogRecord) -> bool:
    """transformers' table of tensors that are missing or left over; `load_base` says that in a sentence."""
    return " LOAD REPORT" not in record.getMessage()


def to_file(folder: Path, rank: int) -> None:
    """On rank 0, also append to session.log in `folder`, which is made if need be, what `session` kept first."""
    if rank:
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = _LogFile(folder / SESSION, encoding="utf-8")
    file.setFormatter(PlainFormatter("%(asctime)s | %(levelname)s %(message)s", continued="    "))
    log.addHandler(file)
    for handler in log.handlers[:]:
        if isinstance(handler, MemoryHandler):
            log.removeHandler(handler)
            handler.setTarget(file)
            handler.close()


class PlainFormatter(logging.Formatter):
    """Writes control characters as codes: names of files and texts of models are somebody else's.

    Args:
        continued: what stands before each further line of a message, so that none looks like a message of its own.
    """

    def __init__(self, form: str, continued: str = ""):
        super().__init__(form)
        self.continued = continued

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record)).replace("\n", f"\n{self.continued}")


class _LogFile(logging.FileHandler):
    """A full disk costs lines of it, not a traceback for each."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


@contextmanager
def session() -> Iterator[None]:
    """Have session.log hold all that the block says, also what it said before `to_file`, and how it was ended."""
    early = MemoryHandler(KEPT, flushLevel=NEVER)
    log.addHandler(early)
    try:
        yield
    except (Stopped, UserError) as ending:
        record = log.makeRecord(log.name, logging.ERROR, "", 0, str(ending), (), None)
        for handler in log.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handle(record)
        raise
    finally:
        log.removeHandler(early)
