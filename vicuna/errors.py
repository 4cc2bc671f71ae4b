"""How a program tells its user what went wrong.

Whatever a user can cause is raised as `UserError`, whose text says what is wrong with which value, what was
expected and what to do; `run` prints it as a sentence. Everything else is a bug and keeps its traceback.
"""

import sys
from collections.abc import Callable
from pathlib import Path


class UserError(Exception):
    """Something the user can mend. The message is shown as it is, without a traceback."""


def run(program: Callable[[], None]) -> None:
    """Run `program`; a `UserError` becomes a line on stderr and exit status 1, Ctrl-C status 130."""
    try:
        program()
    except UserError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{Path(sys.argv[0]).name}: stopped by Ctrl-C", file=sys.stderr)
        sys.exit(130)
