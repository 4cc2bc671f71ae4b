"""What a row that can not be used is, and how several are told."""

from collections.abc import Sequence
from typing import Any, Self

EXPECTED = "; expected "  # in what is wrong, before what would be right
SHOWN_BAD_ROWS = 10
SHOWN_CHARACTERS = 1000  # of what is wrong, which may quote the row


class BadRow(Exception):
    """Why a row can not be used: what was found in which field, and the reason in a word or two for counting."""

    def __init__(self, message: str, reason: str):
        half = SHOWN_CHARACTERS // 2
        is_long = len(message) > SHOWN_CHARACTERS
        super().__init__(f"{message[:half]} … {message[-half:]}" if is_long else message)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return self._told, (*self.args, self.reason)

    @classmethod
    def _told(cls, message: str, reason: str) -> Self:
        """One whose message is short enough already."""
        found = cls("", reason)
        found.args = (message,)
        return found


def told_once(problems: Sequence[str], margin: str) -> str:
    """The first ten problems in a line each, and, where all of them expect the same, what that is once.

    Args:
        margin: what each line begins with.
    """
    told = [problem.rpartition(EXPECTED) for problem in problems[:SHOWN_BAD_ROWS]]
    expected = {after for _, _, after in told}
    if len(told) > 1 and len(expected) == 1 and "" not in expected:
        return "\n".join([f"{margin}{before}" for before, _, _ in told] + [f"{margin}expected {expected.pop()}"])
    return "\n".join(f"{margin}{problem}" for problem in problems[:SHOWN_BAD_ROWS])
