"""What a library stumbles over in a file from elsewhere, as a sentence: whatever it raises, panics of Rust among it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vicuna.errors import Stopped, UserError, first_line

# What ends a program, or is no fault of the file. A panic is a BaseException too, and no handler of Exception sees it.
_PASSED_ON = (UserError, Stopped, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError)


@contextmanager
def refusals(say: Callable[[str], str]) -> Iterator[None]:
    """Let a library read what somebody else wrote; what it raises becomes a refusal.

    Args:
        say: from the library's own words, the sentence.

    Raises:
        UserError: it raised something.
    """
    try:
        yield
    except _PASSED_ON:
        raise
    except BaseException as error:
        raise UserError(say(first_line(error)[:300])) from error
