"""Documents put behind each other in rows of one length, without losing a token.

What a row has no place for begins the next one, behind the token before it, which is context there and not learnt
again: so every token that is learnt of a document alone is learnt once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from vicuna.prompt.templates import IGNORE_INDEX

SHORTEST = 2  # a part of one token teaches nothing


@dataclass
class PackedRow:
    """One row: ids and labels, and the parts of documents in it.

    Attributes:
        starts: where each part begins.
        documents: which one it is of, by the number that it was added with.
    """

    input_ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    documents: list[int] = field(default_factory=list)


class Packer:
    """Makes rows of at most `length` tokens; all but the last have at least length - 1."""

    def __init__(self, length: int):
        self.length = length
        self.row = PackedRow()

    def add(self, document: int, input_ids: Sequence[int], labels: Sequence[int]) -> Iterator[PackedRow]:
        """The rows that become full with a document."""
        at = 0
        while True:
            room = self.length - len(self.row.input_ids)
            part = slice(at, at + room)
            self.row.starts.append(len(self.row.input_ids))
            self.row.documents.append(document)
            self.row.input_ids += input_ids[part]
            self.row.labels += [IGNORE_INDEX, *labels[part][1:]]
            if self.length - len(self.row.input_ids) < SHORTEST:
                yield from self.end()
            if at + room >= len(input_ids):
                return
            at += room - 1

    def end(self) -> Iterator[PackedRow]:
        """The last row, if there is anything in it."""
        if self.row.input_ids:
            yield self.row
            self.row = PackedRow()
