"""What the readers of published sets give: a dialogue or why there is none, with its place, and how files are found."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vicuna.data.bad_row import BadRow
from vicuna.data.files import EXPECTED, file_kind, read_rows
from vicuna.errors import UserError
from vicuna.foreign.paths import what_stands_there
from vicuna.prompt.templates import Message


@dataclass(frozen=True)
class Options:
    """What the readers can be told, see `vicuna.conversion.flags`."""

    encoding: str | None = None
    answers: str = "numbered"
    split: str = "all"
    drop_laws: bool = False
    direction: str = "both"


@dataclass(frozen=True)
class Found:
    """One row of a set.

    Attributes:
        row: number of the row in its file; several dialogues may be made of one.
        value: its dialogue, or why it has none.
        notes: what was mended in it, in words to count by.
    """

    path: Path
    line: int
    row: int
    value: list[Message] | BadRow
    notes: tuple[str, ...] = field(default=())


# A row as it stands in a file -> dialogues of it, each with what was mended.
Dialogues = Iterator[tuple[list[Message], tuple[str, ...]]]


def files_of(paths: Sequence[str], endings: Sequence[str] = (".json", ".jsonl")) -> list[Path]:
    """The files that were named, and those with one of the endings in folders that were, by name.

    Raises:
        UserError: no such file, an unknown kind of one, one named twice, or a folder without any.
    """
    found: list[Path] = []
    for name in paths:
        path = Path(name).expanduser()
        inside = sorted(file for file in path.rglob("*") if file.suffix in endings) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"--data_path {name} is a folder without a {' or '.join(endings)} file in it.")
        for file in inside:
            if not file.is_file():
                raise UserError(
                    f"--data_path {file} {what_stands_there(file)}; expected {EXPECTED}, or a folder of such."
                )
            if not file_kind(file):
                raise UserError(f"--data_path {file} ends in {file.suffix!r}; expected {EXPECTED}.")
        found += inside
    if twice := next((file for file, count in Counter(found).items() if count > 1), None):
        raise UserError(f"--data_path names {twice} twice; name it once.")
    return found


def read_each(read: Callable[[Any, Options], Dialogues], paths: Sequence[str], options: Options) -> Iterator[Found]:
    """Every dialogue that `read` makes of every row of the files."""
    for path in files_of(paths):
        for number, (line, row) in enumerate(read_rows(path, options.encoding)[1]):
            try:
                if isinstance(row, BadRow):
                    raise row
                for messages, notes in read(row, options):
                    yield Found(path, line, number, messages, notes)
            except BadRow as problem:
                yield Found(path, line, number, problem)
