"""Names that files from elsewhere give, and opening them: what is no regular file is never opened to the end.

A link is followed where it ends at a regular file: the hub's cache and users' second disks are full of them. A pipe is
read where it was handed on by who started the program, as a shell does with `<(command)`; one in a folder may wait for
ever.
"""

import os
import re
import stat
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from vicuna.errors import UserError

MOST_TEXT = 1 << 30  # bytes of a text that is read as a whole: examinations, answers
HANDED_ON = re.compile(r"/dev/(?:stdin|fd/\d+)|/proc/self/fd/\d+")


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


def stays_below(name: str) -> bool:
    """Whether a name with folders in front, as lists of hashes have them, leads nowhere but into its own folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    return not path.is_absolute() and ".." not in path.parts and ":" not in name and bool(path.parts)


def regular_files(folder: Path, pattern: str) -> list[Path]:
    """The regular files of a folder with such a name, by name; pipes, devices and folders are left.

    Links that end at a file are among them, and those that lead nowhere, for who opens them to name.

    Args:
        pattern: as `Path.glob` knows them.
    """
    return sorted(file for file in folder.glob(pattern) if file.is_file() or not file.exists())


def what_stands_there(file: Path) -> str:
    """What has that name in place of a regular file, as the end of a sentence that begins with it; "" for one."""
    try:
        kind = _kind(file.stat().st_mode)
    except (OSError, ValueError):
        return "does not exist"
    return f"is {kind}" if kind else ""


def regular(file: Path) -> Path:
    """The file itself, where it is a regular one, or a link that ends at one.

    Raises:
        UserError: it is not there, or a folder, a pipe, a device.
    """
    with open_regular(file):
        return file


def open_regular(file: Path, pipes: bool = False) -> BinaryIO:
    """Open a regular file for reading, never waiting as a pipe would have it.

    Args:
        pipes: also one that was handed on.

    Raises:
        UserError: see `regular`.
    """
    is_handed_on = pipes and bool(HANDED_ON.fullmatch(str(file)))
    waiting = 0 if is_handed_on else getattr(os, "O_NONBLOCK", 0)
    try:
        # Opened first and looked at then, so that nothing can take its place in between.
        opened = os.open(file, os.O_RDONLY | waiting | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} {_why_closed(file, error)}") from error
    mode = os.fstat(opened).st_mode
    kind = _kind(mode)
    if kind and not (is_handed_on and (stat.S_ISFIFO(mode) or os.isatty(opened))):
        os.close(opened)
        raise UserError(f"{file} is {kind}; expected a file.")
    return os.fdopen(opened, "rb")


def read_bounded(file: Path, limit: int, pipes: bool = False) -> bytes:
    """The bytes of a regular file; of one above `limit` none are kept.

    Args:
        pipes: see `open_regular`.

    Raises:
        UserError: see `regular`; or it is larger.
    """
    with open_regular(file, pipes) as opened:
        size = os.fstat(opened.fileno()).st_size
        found = opened.read(limit + 1) if size <= limit else b""
    if size > limit or len(found) > limit:
        raise UserError(
            f"{file} has {max(size, len(found)):,} bytes; expected at most {limit:,}. Copy it again, or take a copy "
            "from its publisher."
        )
    return found


def read_text(file: Path, limit: int = MOST_TEXT, pipes: bool = False) -> str:
    """The text of a file in UTF-8, with or without its mark.

    Raises:
        UserError: see `read_bounded`; or it is no such text.
    """
    try:
        return read_bounded(file, limit, pipes).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no text in UTF-8 (byte {error.start}). Save it as UTF-8.") from error


def copy_bounded(source: BinaryIO, target: BinaryIO, limit: int, name: str) -> None:
    """Copy what is unpacked from an archive, up to a limit.

    Raises:
        UserError: it is more; `name` begins the sentence.
    """
    left = limit
    while block := source.read(1 << 20):
        left -= len(block)
        if left < 0:
            raise UserError(f"{name} is more than {limit:,} bytes when it is unpacked; expected less. Copy it again.")
        target.write(block)


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
