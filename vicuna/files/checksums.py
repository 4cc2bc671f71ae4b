"""Lists of SHA-256 as they are published: our own JSON, what sha256sum writes, and tables in Markdown.

A table names a file now in a cell, now in the head of a column or in the heading above it, with a * for the number;
the rows are then models, of which one's files are to be like these. Digests cut short by … are kept as they are.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from vicuna.errors import UserError
from vicuna.foreign.paths import read_text
from vicuna.foreign.typed import Foreign, Name, opens, parse, typed

MOST_LIST = 64 << 20  # bytes; a model of a thousand tensors has 0.2 million
DIGEST_LENGTH = 64  # hexadecimal digits
_CUT = "(?:…|\\.{3})"
# In full; or a beginning, and perhaps an end, around dots; or a beginning alone.
_DIGEST = re.compile(
    rf"(?:[0-9a-f]{{64}}|[0-9a-f]{{6,63}}\s?{_CUT}\s?[0-9a-f]{{0,57}}|[0-9a-f]{{12,63}})", re.IGNORECASE
)
_OTHER_SUMS = (32, 40)  # digits of MD5 and SHA-1
_LINE = re.compile(rf"\\?({_DIGEST.pattern})\s+\*?(\S.*)", re.IGNORECASE)
_TAGGED = re.compile(rf"SHA256 ?\((.+)\) ?= ?({_DIGEST.pattern})", re.IGNORECASE)
_WORD = re.compile(r"[\w*./-]+")
_FILE = re.compile(r"[\w*./-]*\.(?:pth|bin|safetensors|model|json|jinja|zip|gguf)\b", re.IGNORECASE)
_BREAK = re.compile(r"<br\s*/?>|,")


@dataclass(frozen=True)
class ChecksumEntry:
    """What files are to be like.

    Attributes:
        pattern: name of a file, with a * for what differs between its parts.
        label: which model, where the list has several for the same files, else "".
        digests: of the files in order.
        size: bytes, where the list says so.
    """

    pattern: str
    label: str
    digests: tuple[str, ...]
    size: int | None = None


@dataclass(frozen=True)
class ChecksumList:
    """A list with its entries; `tensors` as `vicuna.export.manifests` writes them, {} where it has none."""

    source: Path
    entries: list[ChecksumEntry]
    tensors: dict[str, Any] = field(default_factory=dict)


def read_checksum_list(file: Path) -> ChecksumList:
    """Read a list of any of the three kinds.

    Raises:
        UserError: no such file, or no SHA-256 in it.
    """
    text = read_text(file, MOST_LIST, pipes=True)
    if text.lstrip().startswith("{"):
        return _parse_manifest(file, text)
    entries = list(_parse_lines(text)) or list(_parse_tables(text))
    if entries:
        return ChecksumList(file, entries)
    if re.search(r"^(?:[0-9a-f]{32}|[0-9a-f]{40})\s", text, re.MULTILINE | re.IGNORECASE):
        raise UserError(f"{file} is a list of MD5 or SHA-1, which prove nothing today; expected SHA-256.")
    raise UserError(f"{file} holds no SHA-256; expected our JSON, lines of sha256sum or a table in Markdown.")


class _HashedFile(Foreign):
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]
    size: Annotated[int, Field(ge=0)] | None = None


class _HashedTensor(Foreign):
    dtype: Annotated[str, Field(max_length=40)]
    shape: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=16)]
    sha256: Annotated[str, Field(max_length=DIGEST_LENGTH)]


@opens(
    {
        "files": {"a.bin": {"sha256": "0" * DIGEST_LENGTH, "size": 1}},
        "tensors": {"a": {"dtype": "float32", "shape": [1], "sha256": "0" * DIGEST_LENGTH}},
    }
)
class _Manifest(Foreign):
    files: dict[Name, _HashedFile]
    tensors: dict[Name, _HashedTensor] = Field(default_factory=dict)


def _parse_manifest(file: Path, text: str) -> ChecksumList:
    try:
        found = typed(parse(text.encode(), file), _Manifest, file)
    except UserError as error:
        raise UserError(f"{file} is no manifest of this program: {error} Write it anew.") from error
    entries = [ChecksumEntry(name, "", (one.sha256.lower(),), one.size) for name, one in found.files.items()]
    return ChecksumList(file, entries, {name: one.model_dump() for name, one in found.tensors.items()})


def _parse_lines(text: str) -> Iterator[ChecksumEntry]:
    """ "digest  name" and "SHA256 (name) = digest"."""
    for line in text.splitlines():
        line = line.strip()
        if (match := _LINE.fullmatch(line)) and is_digest(match[1]):
            yield ChecksumEntry(match[2].removeprefix("./"), "", (normalise_digest(match[1]),))
        elif match := _TAGGED.fullmatch(line):
            yield ChecksumEntry(match[1].removeprefix("./"), "", (normalise_digest(match[2]),))


def _parse_tables(text: str) -> Iterator[ChecksumEntry]:
    """The rows of tables. Rows of the same model with a number each are its parts."""
    heading, head, found = "", [], {}
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("#"):
            heading, head = line, []
        elif "|" not in line:
            head = []
        elif not head:
            head = _cells(line)
        elif not re.fullmatch(r"[|:\s-]+", line) and (entry := _parse_row(_cells(line), head, heading)):
            found.setdefault((entry.pattern, entry.label), (entry, []))[1].extend(entry.digests)
    for entry, digests in found.values():
        yield replace(entry, digests=tuple(digests))


def _cells(line: str) -> list[str]:
    return [cell.strip().strip("`*") for cell in line.strip("|").split("|")]


def _parse_row(cells: list[str], head: list[str], heading: str) -> ChecksumEntry | None:
    """An entry; None for a row without digests, such as one that says "TBA"."""
    for i, cell in enumerate(cells):
        parts = [part.strip().strip(" `") for part in _BREAK.split(cell)]
        if not all(map(is_digest, parts)):
            continue
        others = [one for j, one in enumerate(cells) if j != i]
        named = [match[0] for one in others if (match := _FILE.fullmatch(one))]
        digests = tuple(map(normalise_digest, parts))
        if named:
            return ChecksumEntry(named[0], "", digests)
        label = " ".join(one for one in others if not one.isdigit()) or " ".join(others)
        pattern = next(filter(None, map(_file_in, (*head[i : i + 1], *head, heading))), "")
        pattern = f"*{pattern}" if pattern.startswith(".") else pattern
        return ChecksumEntry(pattern, label, digests) if pattern else None
    return None


def _file_in(text: str) -> str:
    """The first name of a file in a text, "" for none."""
    words = _WORD.finditer(text)  # a word at a time: what begins within one begins no better name
    return next((match[0] for word in words if (match := _FILE.match(text, word.start()))), "")


def is_digest(text: str) -> bool:
    """Whether a text is a SHA-256, or a part of one."""
    return bool(_DIGEST.fullmatch(text)) and len(text) not in _OTHER_SUMS


def normalise_digest(digest: str) -> str:
    """A digest in small letters, with one … for what is left out of it."""
    return re.sub(rf"\s?{_CUT}\s?", "…", digest.lower())


def match_digest(said: str, found: str) -> str:
    """How a digest is like what a list says: "", "equal", or "prefix" where it is cut short and as far as it goes."""
    if said == found:
        return "equal"
    begin, _, end = said.partition("…")
    return "prefix" if len(begin + end) < DIGEST_LENGTH and found.startswith(begin) and found.endswith(end) else ""
