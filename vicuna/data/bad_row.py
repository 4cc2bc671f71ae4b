"""What a row that can not be used is."""


class BadRow(Exception):
    """Why a row can not be used: what was found in which field, and the reason in a word or two for counting."""

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason
