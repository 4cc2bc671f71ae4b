"""A file of JSON lines that grows by a line for each row that is done, and goes on where it stopped.

Beside it stands what the lines depend on. A line is whole once its newline is written; what a kill left of one is not.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any

from vicuna.errors import Stopped, UserError, ended_by_signals
from vicuna.files.folder_lock import held_file
from vicuna.foreign.paths import open_regular, read_text
from vicuna.log import log

FACTS = ".run_args.json"  # behind the name of the file of lines
KIND = "row_lines"  # which tells them from other files of that name
ROW = "row"


class RowLines:
    """The lines of rows, each with its number under `row`; held by one process at a time.

    Attributes:
        done: numbers of the rows whose lines are there, in the order of the lines.
        facts: what was said when the file was begun; {} for a new one.
    """

    def __init__(self, file: Path, flag: str):
        self.file, self.flag = file, flag
        self.facts_file = file.with_name(file.name + FACTS)
        self.done: list[int] = []
        self.facts: dict[str, Any] = {}
        self._known: set[int] = set()
        self._whole = 0  # bytes of whole lines
        self._ended = True  # the last of them has its newline
        self._opened: FileIO | None = None

    def __contains__(self, row: int) -> bool:
        return row in self._known

    def read(self) -> None:
        """Find out what is done, without a change to the file.

        Raises:
            UserError: a file that this program has not begun, or whose lines someone has changed.
        """
        self.facts = self._read_facts()
        with open_regular(self.file) if self.file.exists() else BytesIO() as opened:
            text = opened.read()
        if text and not self.facts:
            raise UserError(
                f"{self.flag} {self.file} exists, and no {self.facts_file.name} beside it says that it was begun here. "
                "Nothing is ever written over: name a new file."
            )
        for number, line in enumerate(text.splitlines(keepends=True), 1):
            row = _row_of(line)
            if row is None and not line.endswith(b"\n"):
                return  # torn
            if row is None or row in self._known:
                what = "is no line of this program" if row is None else f"is a second one of row {row}"
                raise UserError(
                    f"{self.flag} {self.file} line {number} {what}: it was changed since. Name a new file, or put back "
                    "what was there."
                )
            self._note(row)
            self._whole += len(line)
            self._ended = line.endswith(b"\n")

    def begin(self, facts: dict[str, Any]) -> None:
        """Open the file to go on with, without what a kill left of a line; a new one gets its `facts` first."""
        if not self.done:
            self.facts = {KIND: 1, **facts}
            _replace(self.facts_file, json.dumps(self.facts, ensure_ascii=False, indent=2).encode() + b"\n")
        self._opened = self.file.open("ab", buffering=0)
        self._opened.truncate(self._whole)
        if not self._ended:  # an editor took the newline away, or a kill came before it
            self._write(b"\n")

    def append(self, lines: Sequence[dict[str, Any]]) -> None:
        """Write lines, each at once."""
        for line in lines:
            self._write(to_json_line(line))
            self._note(line[ROW])
        os.fsync(self._opened.fileno())

    def sort(self) -> None:
        """Put the lines into the order of the rows; a machine that refuses leaves them in that of the answers."""
        if self.done == sorted(self.done):
            return
        lines = dict(zip(self.done, self.file.read_bytes().splitlines(keepends=True), strict=True))
        try:
            _replace(self.file.resolve(), b"".join(lines[row] for row in sorted(lines)))
        except OSError as error:
            log.warning("WARNING %s stays in the order of the answers: %s", self.file, error.strerror)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()

    def _write(self, rest: bytes) -> None:
        while rest:
            rest = rest[self._opened.write(rest) :]

    def _note(self, row: int) -> None:
        self.done.append(row)
        self._known.add(row)

    def _read_facts(self) -> dict[str, Any]:
        if not self.facts_file.exists():
            return {}
        try:
            found = json.loads(read_text(self.facts_file))
        except (UserError, ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or KIND not in found:
            raise UserError(
                f"{self.facts_file} belongs to {self.flag} {self.file.name}, but was not written by this program, or "
                "was changed since. Name a new file."
            )
        return found


@contextmanager
def held_lines(file: Path, flag: str) -> Iterator[RowLines]:
    """The lines of a file, which no other process writes while the block runs.

    Raises:
        UserError: a folder, or one that can not be made; another process holds it.
    """
    if file.is_dir():
        raise UserError(f"{flag} {file} is a folder; expected a file, new or begun.")
    with held_file(file, flag), contextlib.closing(RowLines(file, flag)) as lines:
        yield lines


@contextmanager
def told_when_stopped(lines: RowLines, count: int, what: str = "records are answered") -> Iterator[None]:
    """Let a signal end the block, and say how much is done.

    Args:
        count: of all rows.

    Raises:
        Stopped: on a signal.
    """
    try:
        with ended_by_signals():
            yield
    except (KeyboardInterrupt, Stopped) as ending:
        reason, status = (str(ending), ending.status) if isinstance(ending, Stopped) else ("stopped by Ctrl-C", 130)
        done = f"{len(lines.done)} of {count} {what} in {lines.file}"
        raise Stopped(f"{reason}: {done}; the same command goes on", status) from ending


def to_json_line(value: Any) -> bytes:
    """A value as a line of JSON, also one of types that only tables have, and half characters as JSON spells them."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:  # a number that is none
        text = json.dumps(_finite(value), ensure_ascii=False, default=str)
    return text.encode("utf-8", errors="backslashreplace") + b"\n"


def _finite(value: Any) -> Any:
    """A value with null in the place of NaN and infinity, for which JSON has no word."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not float("-inf") < value < float("inf") else value


def _row_of(line: bytes) -> int | None:
    """The number in a line; None where it is not one of ours, or not whole."""
    try:
        row = json.loads(line).get(ROW)
    except (ValueError, AttributeError):
        return None
    return row if type(row) is int else None


def _replace(file: Path, content: bytes) -> None:
    """Give a file new content, all of it at once. Who holds the lines is alone."""
    aside = file.with_name(f".{file.name}.new")
    try:
        with aside.open("wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        if file.exists():
            shutil.copymode(file, aside)
        os.replace(aside, file)
    finally:
        aside.unlink(missing_ok=True)
