"""What a library stumbles over in a file from elsewhere, as a sentence: whatever it raises, panics of Rust among it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vicuna.errors import LibraryFailure, Stopped, UserError, exceptions_only, first_line

_PASSED_ON = (UserError, Stopped, MemoryError)  # what ends a program, or is no fault of the file


@contextmanager
def refusals(say: Callable[[str], str]) -> Iterator[None]:
    """Let a library read what somebody else wrote; what it raises becomes a refusal.

    Args:
        say: from the library's own words, the sentence.

    Raises:
        UserError: it raised something.
    """
    try:
        with exceptions_only():
            yield
    except _PASSED_ON:
        raise
    except LibraryFailure as error:
        raise UserError(say(first_line(error.__cause__)[:300])) from error.__cause__
    except Exception as error:
        raise UserError(say(first_line(error)[:300])) from error
