"""What is written aside, under a hidden name that says whose it is, until it is whole, flushed, and gets its own name.

Such a name says the machine and the process, and what bears it is locked while that process lives: the system takes a
lock back however a process ends. What one that is gone has left is removed by the next that writes to the same folder;
what is not locked to be told, or is of another machine, or bears another name, never is.
"""

import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from vicuna.errors import UserError, at_the_end, ended_by_signals

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

PREFIX = ".vicuna-aside-"
_NAME = re.compile(rf"{re.escape(PREFIX)}([0-9a-f]{{8}})-([0-9a-f]{{8}})-\d+-[0-9a-f]{{16}}")
_LOCK, _INSIDE = "lock", "inside"
NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
NO_FOLLOWING = getattr(os, "O_NOFOLLOW", 0)
LOCK_OPENING = os.O_RDWR | NO_FOLLOWING | getattr(os, "O_CLOEXEC", 0)


@contextmanager
def aside_folder(where: Path | None = None) -> Iterator[Path]:
    """A new folder for what is not whole yet, in `where`, by default the system's for temporary files; it is removed
    when the block ends, also by a signal, and by the next run where the process is killed.
    """
    where = Path(tempfile.gettempdir()) if where is None else where
    holder, lock = where / _new_name(), None

    def remove() -> None:
        shutil.rmtree(holder / _INSIDE, ignore_errors=True)
        with suppress(OSError):  # what could not be removed is tried again by the next run
            if not os.path.lexists(holder / _INSIDE):
                (holder / _LOCK).unlink(missing_ok=True)
                holder.rmdir()
        if lock is not None:
            lock.close()

    with ended_by_signals(), at_the_end(remove):
        while lock is None:
            holder.mkdir(mode=0o700, exist_ok=True)
            with suppress(FileNotFoundError):  # removed before it was held
                lock = _held(holder / _LOCK, 0o600)
        remove_left_behind(where)  # now that one's own stands: who looks on never sees none
        (holder / _INSIDE).mkdir()
        yield holder / _INSIDE


@contextmanager
def whole_file(file: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """What to write a file's bytes into: it gets its name, over what bore it, once they are on the disk; what stood
    before stands if the block fails. Where the name is a link, the link is replaced, not what it leads to.

    Args:
        mode: of a new file; one that is written over keeps its own.
    """
    aside = file.with_name(_new_name())
    with ended_by_signals(), at_the_end(lambda: aside.unlink(missing_ok=True)):
        while (opened := _held(aside, mode)) is None:
            pass
        with opened:
            remove_left_behind(file.parent)
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
            if file.is_file() and not file.is_symlink():
                shutil.copymode(file, aside)
            os.replace(aside, file)
        flush(file.parent)


def write_text(file: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with whole_file(file) as opened:
        opened.write(text.encode("utf-8"))


def flush(path: Path) -> None:
    """Have a file, also one that was written by way of a mapping, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_all(made: Path) -> None:
    """Have a file, or a folder with everything in it, on the disk."""
    for path in [*made.rglob("*"), made]:
        if not path.is_symlink():
            flush(path)


def remove_left_behind(where: Path) -> None:
    """Remove what processes of this machine that are gone have left aside in a folder."""
    with suppress(OSError):
        for path in [Path(entry.path) for entry in os.scandir(where)]:
            said = _NAME.fullmatch(path.name)
            if said and not path.is_symlink() and _is_of_this_machine(*said.groups()) and _is_mine(path):
                with suppress(OSError):  # its process lives, or another one removes it
                    _remove_dead(path)


def is_aside(path: Path) -> bool:
    """Whether a path is, or lies in, what is written aside."""
    return any(_NAME.fullmatch(part) for part in path.parts)


def _remove_dead(left: Path) -> None:
    """Remove what is left of a process that is gone. A name without a lock is of one that had only just begun: it takes
    another name, if it lives."""
    if left.is_file():
        with taken_lock(left):
            left.unlink()
        return
    if (left / _LOCK).exists():
        with taken_lock(left / _LOCK):
            if os.path.lexists(left / _INSIDE):
                shutil.rmtree(left / _INSIDE)
            (left / _LOCK).unlink()  # last: without it nobody could tell any more
    left.rmdir()


@contextmanager
def taken_lock(file: Path) -> Iterator[int]:
    """Hold the lock of a file that is there.

    Raises:
        OSError: it is held, or there are no locks here, or no such file any more.
    """
    lock = os.open(file, LOCK_OPENING)
    try:
        if not (fcntl and locked(lock, exclusive=True)) or not still_there(lock, file):
            raise BlockingIOError(errno.EWOULDBLOCK, "is held, or has no lock", str(file))
        yield lock
    finally:
        os.close(lock)


def locked(lock: int, exclusive: bool) -> bool | None:
    """Whether the lock was free; None where there is no such thing."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(lock, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return None
    return True


def still_there(opened: int, file: Path) -> bool:
    """Whether the file that was opened has not been removed, or replaced, meanwhile."""
    try:
        return os.path.samestat(os.fstat(opened), os.lstat(file))
    except FileNotFoundError:
        return False


def _held(file: Path, mode: int) -> BinaryIO | None:
    """A new file, open and locked; None if it was removed before it was locked, and is to be made again."""
    opened = os.fdopen(os.open(file, LOCK_OPENING | os.O_CREAT | getattr(os, "O_BINARY", 0), mode), "w+b")
    if locked(opened.fileno(), exclusive=True) is not False and still_there(opened.fileno(), file):
        return opened
    opened.close()
    return None


def _new_name() -> str:
    host, boot = _machine()
    return f"{PREFIX}{host}-{boot}-{os.getpid()}-{secrets.token_hex(8)}"


def _is_of_this_machine(host: str, boot: str) -> bool:
    """By its name, or by the run of its kernel, which the containers on it have in common."""
    mine, now = _machine()
    return host == mine or boot == now != _short("")


def _is_mine(path: Path) -> bool:
    """Whether a path is this user's: others could have put anything under such a name."""
    return not hasattr(os, "geteuid") or path.lstat().st_uid == os.geteuid()


@cache
def _machine() -> tuple[str, str]:
    """What tells this machine from others, and this run of its kernel; both short."""
    return _short(socket.gethostname() + _said_by("/etc/machine-id")), _short(
        _said_by("/proc/sys/kernel/random/boot_id")
    )


def _said_by(file: str) -> str:
    try:
        return Path(file).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


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
