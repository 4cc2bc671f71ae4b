"""What a row that can not be used is."""

from typing import Any, Self

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
