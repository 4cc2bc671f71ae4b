"""What programs and tools write: folders that can be made, or a sentence; complete under its name, or not there at all;
and never thrown away once it is complete.
"""

import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vicuna.errors import UserError, ended_by_signals, first_line
from vicuna.files.aside import aside_folder, flush, flush_all, made_folder
from vicuna.files.folder_lock import held_file


@contextmanager
def atomic_folder(name: str, flag: str) -> Iterator[Path]:
    """A folder to fill, which gets its name once the block ends; it is removed if the block fails. No other run writes
    one of that name meanwhile.

    Weights take longest, so a block writes them last: what comes after it loses nothing.

    Args:
        name: what the user asked for; its parent is made if need be.
        flag: as the user typed it.

    Raises:
        UserError: it exists already, or another run makes it; or it can not be given its name, and is kept under
            another.
    """
    output = Path(name).expanduser()
    _refuse_existing(name, output, flag)
    with ended_by_signals(), held_file(output, flag, "folder"), aside_folder(output.parent) as aside:
        _refuse_existing(name, output, flag)  # another run may have ended since
        folder = aside / output.name
        folder.mkdir()
        yield folder
        with kept_if_lost(folder, output, flag):
            put(folder, output)


@contextmanager
def atomic_file(file: Path, flag: str) -> Iterator[Path]:
    """A path to write a file to, which gets its name, over what bore it, once the block ends. What is beside it then is
    removed; and so is all of it if the block fails. No other run writes a file of that name meanwhile.

    Args:
        flag: what named it, as the user typed it.

    Raises:
        UserError: another run writes it; or it can not be given its name, and is kept under another.
    """
    with ended_by_signals(), held_file(file, flag), aside_folder(file.parent) as aside:
        yield aside / file.name
        with kept_if_lost(aside / file.name, file, flag):
            put(aside / file.name, file)


def put(made: Path, file: Path) -> None:
    """Give what is complete its name, over a file that bears it, once it is on the disk."""
    flush_all(made)
    os.replace(made, file)
    flush(file.parent)


def put_all(made: Sequence[Path], folder: Path) -> None:
    """The same of files that belong together, in their order and under their names."""
    for file in made:
        flush(file)
    for file in made:
        os.replace(file, folder / file.name)
    flush(folder)


def check_new_folder(name: str, flag: str) -> None:
    """Refuse what `atomic_folder` would, before anything is loaded for it.

    Raises:
        UserError: it exists already, or can not be made.
    """
    output = Path(name).expanduser()
    _refuse_existing(name, output, flag)
    with made_folder(output.parent, flag):
        pass


def _refuse_existing(name: str, output: Path, flag: str) -> None:
    if not name or os.path.lexists(output):
        said = f"{flag} {name} exists" if name else f"{flag} is empty"
        raise UserError(f"{said}; nothing is ever written over: name a new folder.")


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
        flush(kept.parent)
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(
            f"{flag} {wanted} could not be finished ({reason}). What was written is complete, and is kept as {kept}: "
            "give it its name."
        ) from error


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
