"""One run at a time in a folder, or at a file, by a lock that the system takes back however its process ends.

The file beside the lock only says who holds it: a file that a kill left behind locks nothing.
"""

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from vicuna.errors import UserError, at_the_end
from vicuna.files.aside import LOCK_OPENING, locked, made_folder, remove_left_behind, still_there, taken_lock
from vicuna.log import log

LOCK = ".lock"
BESIDE = ".vicuna.lock"  # ends the name of a lock that lies beside what it is for
# A holder writes its name right behind its lock; who comes in between asks again.
LOOKS, LOOK_S = 100, 0.05


def output_folder(
    name: str, flag: str, environ: Mapping[str, str], looks_only: bool = False
) -> AbstractContextManager[None]:
    """Hold the folder `name` for this run alone, by the first process of each host.

    Args:
        looks_only: only see that it could be made, and say so if another run holds it.

    Raises:
        UserError: it is a file; or as `held_folder`.
    """
    folder = Path(name)
    if os.path.isfile(folder):  # a path that is too long is no file, and no error yet
        raise UserError(f"{flag} {folder} is a file; expected a folder, new or old.")
    if int(environ.get("LOCAL_RANK", 0)):
        return nullcontext()
    if not looks_only:
        return held_folder(folder, flag, environ)
    if other := holder(folder):
        log.warning("WARNING   %s %s is in use by %s: a run would be refused now.", flag, folder, other)
    return made_folder(folder, flag)


@contextmanager
def held_folder(folder: Path, flag: str, environ: Mapping[str, str]) -> Iterator[None]:
    """Hold `folder`, which is made if need be, until the block ends; a folder that was made and stayed empty goes.

    One process of each host does so. Processes of one run that share the folder over a network let each other in.

    Args:
        flag: as the user typed it.
        environ: with what a launcher says of the run, if there is one.

    Raises:
        UserError: another run holds it, or it can not be made.
    """
    me = _name_of_this_process(environ)
    with made_folder(folder, flag):
        then = "which writes its checkpoints there: wait until it has ended, or name another folder."
        with _held(folder / LOCK, f"{flag} {folder}", me, then):
            yield


@contextmanager
def held_file(file: Path, flag: str, kind: str = "file") -> Iterator[None]:
    """Hold `file`, which need not be there yet, by a lock beside it until the block ends.

    Args:
        kind: what it is, in a word.

    Raises:
        UserError: another process holds it, or its folder can not be made.
    """
    with made_folder(file.parent, flag):
        _remove_dead_locks(file.parent)
        lock, me = file.with_name(f".{file.name}{BESIDE}"), _name_of_this_process({})
        with _held(lock, f"{flag} {file}", me, f"which writes it: wait until it has ended, or name another {kind}."):
            remove_left_behind(file.parent)
            yield


def _remove_dead_locks(folder: Path) -> None:
    """Remove the locks of names in a folder, whose processes were killed on this host."""
    here = socket.gethostname()
    for file in [Path(entry.path) for entry in os.scandir(folder) if entry.name.endswith(BESIDE)]:
        if file.name[0] == "." and file.is_file() and _read(file).get("host", here) == here:
            with suppress(OSError), taken_lock(file):  # a link is not followed
                file.unlink()


@contextmanager
def _held(lock_file: Path, held: str, me: dict[str, Any], then: str) -> Iterator[None]:
    """Hold a lock until the block ends.

    Args:
        held: what it is for, as the user typed it; then: what is said behind the name of another holder.
    """
    lock = _take(lock_file, held, me, then)

    def give_back() -> None:
        if lock is not None:
            lock_file.unlink(missing_ok=True)  # before the lock is given back: what is removed is ours
            os.close(lock)

    with at_the_end(give_back):
        yield


def holder(folder: Path) -> str:
    """Which process holds `folder`, in words; "" if none does."""
    try:
        lock = os.open(folder / LOCK, LOCK_OPENING)
    except OSError:
        return ""
    try:
        if locked(lock, exclusive=False) is not False:
            return ""
        return _in_words(_read(folder / LOCK))
    finally:
        os.close(lock)


def _take(lock_file: Path, held: str, me: dict[str, Any], then: str) -> int | None:
    """The open lock; None where the file system has none, or another process of this run holds it."""
    for _ in range(LOOKS):
        lock = _open(lock_file, held)
        got = locked(lock, exclusive=True)
        if got is None:
            os.close(lock)
            lock_file.unlink(missing_ok=True)
            log.warning("WARNING   the file system of %s has no locks: nothing keeps a second run out of it.", held)
            return None
        if got and still_there(lock, lock_file):
            try:
                os.ftruncate(lock, 0)
                os.write(lock, json.dumps(me).encode())
            except OSError as error:
                lock_file.unlink()
                os.close(lock)
                raise UserError(f"{held} can not be written to: {error.strerror}. Name another one.") from error
            return lock
        os.close(lock)
        if not got:
            other = _read(lock_file)
            if me["run"] and other.get("run") == me["run"] and other.get("rank") != me["rank"]:
                return None
            if _lives(other):
                break
        time.sleep(LOOK_S)
    raise UserError(f"{held} is in use by {_in_words(_read(lock_file))}, {then}")


def _open(lock_file: Path, held: str) -> int:
    try:
        return os.open(lock_file, LOCK_OPENING | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"{held} can not be written to: {error.strerror}. Name another one.") from error


def _name_of_this_process(environ: Mapping[str, str]) -> dict[str, Any]:
    """Who holds the lock. Processes of one run meet at one address, which no other run has meanwhile."""
    many = int(environ.get("WORLD_SIZE", 1)) > 1
    run = f"{environ.get('MASTER_ADDR')}:{environ.get('MASTER_PORT')}" if many else ""
    return {"pid": os.getpid(), "host": socket.gethostname(), "run": run, "rank": int(environ.get("RANK", 0))}


def _read(lock_file: Path) -> dict[str, Any]:
    from vicuna.files.lock_holder import read_holder  # --help and a mistyped flag do without what it reads with

    return read_holder(lock_file)


def _lives(other: dict[str, Any]) -> bool:
    """Whether what the file says is of a process there is, as far as can be told from here."""
    if other.get("host") != socket.gethostname():
        return bool(other)
    try:
        os.kill(other["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _in_words(other: dict[str, Any]) -> str:
    if not other:
        return "another process"
    where = "" if other["host"] == socket.gethostname() else f" on {other['host']}"
    return f"process {other['pid']}{where}"
