"""Names that files from elsewhere give, and opening them: what is no regular file is never opened to the end.

A link is followed where it ends at a regular file: the hub's cache and users' second disks are full of them.
"""

import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from vicuna.errors import UserError


def inside(folder: Path, name: Any, source: Path) -> Path:
    """The file of a folder that an index or a list names; what is named has no folder part.

    Args:
        source: the file that names it, for the message.

    Raises:
        UserError: it is no name of a file in that folder.
    """
    # Both separators on every system, as the folder may be carried to another; a colon is a drive or a stream.
    if not isinstance(name, str) or name in ("", ".", "..") or any(sign in "/\\:" or ord(sign) < 32 for sign in name):
        raise UserError(
            f"{source} names {shortened(name)} as a file; expected the name of a file in {folder}, without a folder. "
            "Correct it, or copy it again."
        )
    return folder / name


def regular(file: Path) -> Path:
    """The file itself, where it is a regular one, or a link that ends at one.

    Raises:
        UserError: it is not there, or a folder, a pipe, a device.
    """
    with open_regular(file):
        return file


def open_regular(file: Path) -> BinaryIO:
    """Open a regular file for reading, never waiting as a pipe would have it.

    Raises:
        UserError: see `regular`.
    """
    try:
        # Opened first and looked at then, so that nothing can take its place in between.
        opened = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} {_why_closed(file, error)}") from error
    if kind := _kind(os.fstat(opened).st_mode):
        os.close(opened)
        raise UserError(f"{file} is {kind}; expected a file.")
    return os.fdopen(opened, "rb")


def read_bounded(file: Path, limit: int) -> bytes:
    """The bytes of a regular file; of one above `limit` none are kept.

    Raises:
        UserError: see `regular`; or it is larger.
    """
    with open_regular(file) as opened:
        size = os.fstat(opened.fileno()).st_size
        found = opened.read(limit + 1) if size <= limit else b""
    if size > limit or len(found) > limit:
        raise UserError(
            f"{file} has {max(size, len(found)):,} bytes; expected at most {limit:,}. Copy it again, or take a copy "
            "from its publisher."
        )
    return found


def shortened(value: Any, most: int = 60) -> str:
    """A value as messages show it: in a line, and no longer than `most`."""
    text = repr(value[: most + 1] if isinstance(value, str | bytes | list | tuple) else value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _kind(mode: int) -> str:
    """What it is in place of a regular file, "" for one."""
    if stat.S_ISREG(mode):
        return ""
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device"


def _why_closed(file: Path, error: Exception) -> str:
    if not isinstance(error, OSError):  # a name that no system call takes
        return f"is no name of a file ({error})."
    if file.is_symlink() and not file.exists():
        return f"is a link to {file.readlink()}, which is not here: copy the file itself."
    if isinstance(error, FileNotFoundError):
        return "does not exist."
    if isinstance(error, IsADirectoryError):
        return "is a folder; expected a file."
    return f"can not be read ({error.strerror})."
