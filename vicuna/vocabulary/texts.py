"""The lines of data files of every format, as what a vocabulary is trained or measured on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vicuna.data.encodings import decode_text
from vicuna.data.records import parse_source, read_records
from vicuna.errors import UserError
from vicuna.vocabulary.flags import TextFlags


@dataclass
class TextFile:
    """What was read of a file."""

    path: str
    sha256: str
    lines: int = 0
    characters: int = 0


@dataclass
class Texts:
    """The lines of several files, read one file after the other.

    Attributes:
        files: those that are read, as far as they are.
    """

    flags: TextFlags
    files: list[TextFile] = field(default_factory=list)

    def check(self) -> None:
        """Refuse a weight, before anything is read: a line counts once.

        Raises:
            UserError: a file with a weight.
        """
        for name in self.flags.data_path:
            if parse_source(name).weight != 1:
                raise UserError(f"--data_path {name} has a weight, which counts in training only: name the file alone.")

    def __iter__(self) -> Iterator[str]:
        self.check()
        flags = self.flags
        for name in flags.data_path:
            records = read_records([name], "text", flags.skip_bad_rows, flags.encoding, flags.fields)
            file = TextFile(name, records.sha256)
            self.files.append(file)
            for line in _lines(records.dialogues):
                file.lines += 1
                file.characters += len(line)
                yield line


def _lines(dialogues: Sequence[Sequence[dict]]) -> Iterator[str]:
    for messages in dialogues:
        for one in messages:
            for text in (one["content"], one.get("input")):
                for line in (text or "").split("\n"):
                    if line.strip():
                        yield line.rstrip("\r")


def read_words(file: Path) -> list[str]:
    """The words of --add_tokens: one a line, each once.

    Raises:
        UserError: no such file, or no word in it.
    """
    if not file.is_file():
        raise UserError(f"--add_tokens {file} does not exist; expected a text file of words, one a line.")
    text, _ = decode_text(file.read_bytes(), file)
    words = list(dict.fromkeys(word for line in text.splitlines() if (word := line.strip())))
    if not words:
        raise UserError(f"--add_tokens {file} holds no word; expected one a line.")
    return words
