"""A disk that is full: how it is told from other failures, and how what was trained comes through it.

A checkpoint that has no room ends the run in a sentence. The result of all the steps is not given up: it waits for
room, and then goes to another disk.
"""

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError

from vicuna.errors import UserError
from vicuna.log import log

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# How PyTorch and safetensors say that a write failed, without an errno.
FAILED_WRITE = ("iostream error", "PytorchStreamWriter failed", "No space left", "quota exceeded", "(os error 28)")
WAIT_S, LOOK_S = 60.0, 1.0
SMALL_FILES = 4 << 20  # bytes that the files beside the weights take at most


def failed_for_room(error: BaseException) -> bool:
    """Whether a file could not be written because there is no room for it."""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    if isinstance(error, OSError | RuntimeError | SafetensorError) and any(text in str(error) for text in FAILED_WRITE):
        return True
    cause = error.__cause__ or error.__context__
    return cause is not None and failed_for_room(cause)


def free_bytes(folder: Path) -> int:
    """What the disk has free on which `folder` lies, or is going to lie."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free


def save_somewhere(write: Callable[[Path], None], output: Path, size: int, what: str, go_on: str) -> None:
    """`write(output)`; on a full disk again for a minute, then into a folder on another disk.

    Args:
        size: bytes that it takes at least.
        what: the adapter, or the model.
        go_on: which checkpoint stands, and the command that resumes.

    Raises:
        UserError: it is not in `output`: where it is, and how to go on.
    """
    if not _full(write, output):
        return
    log.warning(
        "the disk of %s is full: trying again for %.0f s. Make room for %s.",
        output,
        WAIT_S,
        in_words(size + SMALL_FILES),
    )
    for _ in _looks():
        if free_bytes(output) >= size and not _full(write, output):
            return
    if not _full(write, output):  # a quota is not seen in what is free
        return
    for folder in _other_disks(output, size):
        if not _full(write, folder):
            raise UserError(
                f"the disk of {output} is full: the {what} is in {folder}. Make room and move it, or go on from there. "
                f"{go_on}"
            )
    raise UserError(
        f"the disk of {output} is full, and no other has {in_words(size)} free: the {what} could not be written. "
        f"Make room. {go_on}"
    )


def in_words(size: float) -> str:
    """Bytes as a person reads them."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.1f} MiB"


def _full(write: Callable[[Path], None], folder: Path) -> bool:
    try:
        write(folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        if not failed_for_room(error):
            raise
        return True
    return False


def _looks() -> Iterator[None]:
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        time.sleep(LOOK_S)
        yield


def _other_disks(output: Path, size: int) -> Iterator[Path]:
    """New folders on other disks that have room."""
    tried = {output.stat().st_dev}
    for place in (Path(tempfile.gettempdir()), Path.home(), Path.cwd()):
        if place.is_dir() and place.stat().st_dev not in tried and os.access(place, os.W_OK):
            tried.add(place.stat().st_dev)
            if free_bytes(place) >= size + SMALL_FILES:
                yield Path(tempfile.mkdtemp(prefix=f"{output.name}-", dir=place))
