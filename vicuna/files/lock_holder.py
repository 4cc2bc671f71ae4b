"""What the file beside a lock says of its holder; a folder that was passed on may bring one along."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from vicuna.errors import UserError
from vicuna.foreign.typed import Count, Foreign, Name, opens, read_typed


@opens({"pid": 4711, "host": "a", "run": "", "rank": 0})
class LockHolder(Foreign):
    """Who holds a lock."""

    pid: Annotated[int, Field(ge=1, lt=1 << 31)]  # which os.kill takes
    host: Name
    run: Name
    rank: Count


def read_holder(lock_file: Path) -> dict[str, Any]:
    """Its fields; none where the file says something else, or is not there."""
    try:
        return read_typed(lock_file, LockHolder).model_dump()
    except UserError:
        return {}
