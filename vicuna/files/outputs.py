"""What programs and tools write: folders that can be made, or a sentence; complete under its name, or not there at all;
and never thrown away once it is complete.
"""

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vicuna.errors import UserError, at_the_end, ended_by_signals, first_line


@contextmanager
def atomic_folder(name: str, flag: str) -> Iterator[Path]:
    """A folder to fill, which gets its name once the block ends; it is removed if the block fails.

    Weights take longest, so a block writes them last: what comes after it loses nothing.

    Args:
        name: what the user asked for; its parent is made if need be.
        flag: as the user typed it.

    Raises:
        UserError: it exists already; or it can not be given its name, and is kept under another.
    """
    output = Path(name).expanduser()
    if not name or output.exists() or output.is_symlink():
        said = f"{flag} {name} exists" if name else f"{flag} is empty"
        raise UserError(f"{said}; nothing is ever written over: name a new folder.")
    output.parent.mkdir(parents=True, exist_ok=True)
    with ended_by_signals(), tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as aside:
        folder = Path(aside) / output.name
        folder.mkdir()
        yield folder
        with kept_if_lost(folder, output, flag):
            for path in [*folder.rglob("*"), folder]:
                _flush(path)
            os.replace(folder, output)
            _flush(output.parent)


@contextmanager
def kept_if_lost(made: Path, wanted: Path, flag: str) -> Iterator[None]:
    """Keep something complete, which is to get its name in the block, under a name beside that if the block fails.

    Args:
        made: a file or a folder in one that is removed later.
        flag: what named it, as the user typed it.

    Raises:
        UserError: where it is now.
    """
    try:
        yield
    except Exception as error:
        if not made.exists():
            raise
        names = (wanted.with_name(f"{wanted.stem}-kept{count or ''}{wanted.suffix}") for count in itertools.count())
        kept = next(path for path in names if not path.exists() and not path.is_symlink())
        os.rename(made, kept)
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(
            f"{flag} {wanted} could not be finished ({reason}). What was written is complete, and is kept as {kept}: "
            "give it its name."
        ) from error


@contextmanager
def made_folder(folder: Path, flag: str) -> Iterator[None]:
    """Make `folder` with its parents, and see that it can be written to; those made that end empty are removed.

    Args:
        flag: as the user typed it.

    Raises:
        UserError: the system does not allow it.
    """
    new = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]

    def remove_empty() -> None:
        for path in new:
            with suppress(OSError):  # it holds something, or was never made
                path.rmdir()

    with at_the_end(remove_empty):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            at = f" ({error.filename})" if error.filename and Path(error.filename).parent != folder else ""
            raise UserError(
                f"{flag} {folder} is no folder that can be written to: {error.strerror}{at}. Name another one."
            ) from error
        yield


def check_disk_space(folder: Path, size: int) -> None:
    """Refuse what the disk has no room for, before anything is computed.

    Args:
        size: bytes that are going to be written.

    Raises:
        UserError: with both figures.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{size / 2**30:.2f} GiB are to be written, but the disk has {free / 2**30:.2f} GiB free: make room, or "
            "name a folder on another disk."
        )


def _flush(path: Path) -> None:
    """Whatever was written is on the disk before the name is, also by way of a mapping."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
