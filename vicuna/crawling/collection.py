"""The file that records are collected in: added one by one so that a kill loses none, near-duplicates left out."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rapidfuzz import fuzz, process

from vicuna.crawling.replies import FIELDS, Refused
from vicuna.errors import UserError
from vicuna.files.folder_lock import held_file
from vicuna.files.row_lines import to_json_line
from vicuna.log import log


class Collection:
    """Records in a JSON-lines file, and beside it those that were refused.

    Attributes:
        refused: reason -> how many, of this run.
        calls: the number of the next call.
    """

    def __init__(self, file: IO[bytes], refused_file: IO[bytes], most_similar: float):
        self.file, self.refused_file, self.most_similar = file, refused_file, most_similar
        self.refused: Counter[str] = Counter()
        self.texts: list[str] = []
        self.seen: set[str] = set()
        self.calls = 0
        for value in _read(file):
            self._know(value)
            self.calls = max(self.calls, value.get("call", -1) + 1)
        for value in _read(refused_file):
            self.calls = max(self.calls, value.get("call", -1) + 1)

    def __len__(self) -> int:
        return len(self.texts)

    def add(self, record: dict[str, str], call: int, model: str) -> bool:
        """Write a record, unless one like it is there; it is on the disk when this returns."""
        text = _question(record)
        if text in self.seen:
            self.refuse(Refused("a duplicate", text), call)
            return False
        near = process.extractOne(text, self.texts, scorer=fuzz.ratio, score_cutoff=self.most_similar)
        if near:
            self.refuse(Refused("a near-duplicate", f"{text}\n{near[0]}"), call)
            return False
        _append(self.file, {**record, "call": call, "model": model})
        self._know(record)
        return True

    def refuse(self, one: Refused, call: int) -> None:
        """Note what can not be used."""
        self.refused[one.reason] += 1
        _append(self.refused_file, {"reason": one.reason, "text": one.text, "call": call})

    def _know(self, record: dict[str, Any]) -> None:
        text = _question(record)
        self.texts.append(text)
        self.seen.add(text)


@contextmanager
def open_collection(path: Path, most_similar: float) -> Iterator[Collection]:
    """The collection in `path`, which is made or gone on with, for this process alone.

    Args:
        most_similar: of 100, by the characters that two questions have in common in the same order
            (`rapidfuzz.fuzz.ratio`, which is ROUGE-L's F-measure of characters); from there they are near-duplicates.

    Raises:
        UserError: another process writes it, or it holds something else.
    """
    beside = path.with_name(f"{path.stem}.refused.jsonl")
    if path == beside:
        raise UserError(f"{path} is the name of what is refused: name another output.")
    with held_file(path, "--output"), _opened(path) as file, _opened(beside) as refused_file:
        yield Collection(file, refused_file, most_similar)


def _opened(path: Path) -> IO[bytes]:
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a file; expected a .jsonl file, new or of an earlier run.")
    return path.open("a+b")


def _read(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    """The lines of a file of an earlier run; one that a kill left unfinished is cut away.

    Raises:
        UserError: the line that is not of a run.
    """
    file.seek(0)
    whole = 0
    for number, line in enumerate(file, 1):
        ended = line.endswith(b"\n")
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict) or not ({*FIELDS} <= value.keys() or "reason" in value):
            if not ended and _is_torn(line):
                log.warning("WARNING   line %d of %s was not written to its end, and is left out.", number, file.name)
                file.truncate(whole)
                return
            raise UserError(
                f"{file.name}, line {number}, is not of an earlier run: expected a JSON object with "
                f"{', '.join(FIELDS)}. Name another output; what is there stays as it is."
            )
        whole += len(line)
        yield value
        if not ended:
            file.write(b"\n")


def _is_torn(line: bytes) -> bool:
    """Whether a last line is the beginning of one that a run writes."""
    return any(line.startswith(own[: len(line)]) for own in (b'{"instruction": "', b'{"reason": "'))


def _append(file: IO[bytes], value: dict[str, Any]) -> None:
    file.write(to_json_line(value))
    file.flush()
    os.fsync(file.fileno())


def _question(record: dict[str, Any]) -> str:
    return f"{record['instruction']}\n{record['input']}".strip()
