"""What an evaluation has found so far: a line for each thing that is done, on the disk at once; then the results.

A folder belongs to one command: the same one goes on with what is there, another one is refused with what differs.
"""

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from vicuna import __version__
from vicuna.errors import UserError
from vicuna.evaluation.flags import OutputFlags
from vicuna.evaluation.markdown import without_nan
from vicuna.files.aside import write_text
from vicuna.files.row_lines import FACTS, ROW, RowLines, held_lines, told_when_stopped
from vicuna.foreign.typed import parse
from vicuna.train.plan import library_versions

ROWS, RESULTS, PAGE = "rows.jsonl", "results.json", "results.md"


_MISSING = object()


class Journal:
    """The lines of a folder, by what each is about.

    Attributes:
        lines: key -> line; a line's key is what it has under the names that the kind told.
    """

    def __init__(self, rows: RowLines, names: Sequence[str], folder: Path, kind: str):
        self.rows, self.names, self.folder, self.kind = rows, names, folder, kind
        self.lines: dict[tuple[Hashable, ...], dict[str, Any]] = {}

    def __contains__(self, key: tuple[Hashable, ...]) -> bool:
        return key in self.lines

    def __getitem__(self, key: tuple[Hashable, ...]) -> dict[str, Any]:
        return self.lines[key]

    def add(self, *lines: dict[str, Any]) -> None:
        """Write lines; they are on the disk when this returns."""
        numbered = [{ROW: len(self.rows.done) + n, **line} for n, line in enumerate(lines, 1)]
        self.rows.append(numbered)
        for line in json.loads(json.dumps(without_nan(numbered), default=str)):  # as it would be read back
            self._know(line)

    def stopping(self, count: int, what: str) -> AbstractContextManager[None]:
        """While the block runs, a signal ends it and says how much of `count` is done."""
        return told_when_stopped(self.rows, count, what)

    def write(self, results: Mapping[str, Any], page: str) -> None:
        """Write results.json, with versions beside what was found, and results.md."""
        about = {"kind": self.kind, **self.rows.facts.get("compared", {})}
        data = without_nan({**about, **results, "versions": library_versions()})
        write_text(self.folder / RESULTS, json.dumps(data, ensure_ascii=False, indent=1, default=str) + "\n")
        write_text(self.folder / PAGE, page)

    def read(self) -> None:
        """Take in what was written before."""
        for line in self.rows.file.read_bytes().splitlines():
            self._know(parse(line, self.rows.file))

    def _know(self, line: dict[str, Any]) -> None:
        key = tuple(line.get(name, _MISSING) for name in self.names)
        if any(one is _MISSING or isinstance(one, list | dict) for one in key):
            raise UserError(
                f"{self.rows.file} has a line without {', '.join(self.names)}, each a text or a number: it was changed "
                "since. Put back what was there, or begin anew with --overwrite."
            )
        self.lines[key] = line


@contextmanager
def open_journal(
    output: OutputFlags,
    kind: str,
    names: Sequence[str],
    settings: Mapping[str, Any],
    contents: Mapping[str, str],
) -> Iterator[Journal]:
    """The journal in --output_path, new or to go on with, for this process alone. Opened last of all checks.

    Args:
        kind: of evaluation.
        names: fields of a line that together tell which one it is.
        settings: what the lines depend on, by the flag that says it: {"--cutoff_len": 512}.
        contents: the same of what two values say nothing to a reader, a SHA-256: {"--data_path": "ab12…"}.

    Raises:
        UserError: the folder holds results of another command, or something else.
    """
    folder = Path(output.output_path).expanduser()
    with held_lines(folder / ROWS, "--output_path") as rows:
        if output.overwrite:
            _remove(folder)
        elif not rows.facts_file.exists() and (found := [one for one in (RESULTS, PAGE) if (folder / one).exists()]):
            raise UserError(
                f"--output_path {folder} has a {found[0]} that was not written here: name another folder, or pass "
                "--overwrite."
            )
        rows.read()
        compared = json.loads(json.dumps({"kind": kind, "settings": settings, "contents": contents}, default=str))
        if rows.done and (differences := _differences(rows.facts.get("compared", {}), compared)):
            raise UserError(
                f"--output_path {folder} holds {len(rows.done)} rows of another command: {'; '.join(differences)}. Go "
                "on as it was begun, name another folder, or begin anew with --overwrite."
            )
        rows.begin({"version": __version__, "compared": compared})
        journal = Journal(rows, names, folder, kind)
        journal.read()
        yield journal


def _remove(folder: Path) -> None:
    """Remove what an evaluation has written."""
    for name in (ROWS, ROWS + FACTS, RESULTS, PAGE):
        (folder / name).unlink(missing_ok=True)


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    if old.get("kind") != new["kind"]:
        return [f"it was {old.get('kind')}, now {new['kind']}"]
    before, now = old.get("settings", {}), new["settings"]
    found = [
        f"{name} was {_shown(before.get(name))}, now {_shown(now.get(name))}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]
    before, now = old.get("contents", {}), new["contents"]
    return found + [f"{name} is another one" for name in {**before, **now} if before.get(name) != now.get(name)]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "none" if value in (None, "") else str(value)
