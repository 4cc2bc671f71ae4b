"""Dialogues on disk, where a list would take many times the memory of the files that they were read from."""

import json
import os
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from vicuna.prompt.templates import Message


class SpilledDialogues(Sequence[list[Message]]):
    """A list of dialogues that can be added to and read, in a file."""

    def __init__(self, file: BinaryIO):
        self._file, self._ends, self._writing = file, array("Q", [0]), True

    def append(self, messages: list[Message]) -> None:
        """Add a dialogue; not once one was read."""
        self.append_json(spilled(messages))

    def append_json(self, raw: bytes) -> None:
        """Add what `spilled` gives for a dialogue."""
        self._ends.append(self._ends[-1] + self._file.write(raw))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> list[Message]:
        return unspilled(self.as_json(index))

    def as_json(self, index: int) -> bytes:
        """A dialogue as it stands in the file."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self._writing:
            self._file.flush()
            self._writing = False
        start, end = self._ends[index], self._ends[index + 1]
        return os.pread(self._file.fileno(), end - start, start)


def spilled(messages: list[Message]) -> bytes:
    """A dialogue as it stands in the file."""
    return json.dumps(messages, ensure_ascii=False).encode("utf-8", "surrogatepass")


def unspilled(raw: bytes) -> list[Message]:
    """A dialogue of what stands in the file."""
    return json.loads(raw)


@contextmanager
def spilled_dialogues(folder: Path) -> Iterator[SpilledDialogues]:
    """Such a list, empty, in a file without a name on the disk of `folder`."""
    with tempfile.TemporaryFile(dir=folder) as file:
        yield SpilledDialogues(file)
