"""--fields: where in a row the fields of a known format are, for files with names of their own."""

import re
from collections.abc import Sequence
from typing import Any

from vicuna.data.bad_row import BadRow
from vicuna.data.marks import check_row, unmarked
from vicuna.errors import UserError

NAMES = (
    *("instruction", "input", "output", "system", "history", "messages", "conversations", "text"),
    *("reasoning_content", "tools"),
)
OPTIONAL = ("input", "system", "history", "reasoning_content", "tools")
ANSWER = "output"  # which a row that is only asked can do without too
# A name, or a place in a list: [0] is the first, [-1] the last, [] all of them.
STEP = re.compile(r"(?:^|\.)(?P<name>[^.\[\]]+)|\[(?P<place>-?\d+)?\]")


def parse_fields(given: Sequence[str]) -> dict[str, str]:
    """Field of a known format -> path in the row, of each `field=path`.

    Raises:
        UserError: not of that form, an unknown field, one given twice, or a path that is none.
    """
    paths: dict[str, str] = {}
    for one in given:
        name, _, path = one.partition("=")
        if name not in NAMES:
            raise UserError(f"--fields {one}: {name!r} is not a field to fill; expected one of {', '.join(NAMES)}.")
        if name in paths:
            raise UserError(f"--fields names {name} twice: {paths[name]} and {path}; name it once.")
        if "".join(step.group() for step in STEP.finditer(path)) != path or not path:
            raise UserError(
                f"--fields {one}: {path!r} is not a path; expected a name, or names and places such as turns[].q or "
                "answers[0].text."
            )
        paths[name] = path
    return paths


def pick(row: Any, paths: dict[str, str], asked: bool = False) -> Any:
    """The row as a known format, made of what stands at the paths; a row that is none as it is.

    A field that is not there is a `BadRow`, unless a format can do without it.

    Args:
        asked: the row is to be answered, and nothing of it learnt.
    """
    if not paths or isinstance(row, BadRow):
        return row
    found = {}
    try:
        if isinstance(row, dict):
            used = {path if path in row else STEP.match(path).group("name") for path in paths.values()}
            others = {name: value for name, value in row.items() if name not in used}
            check_row(unmarked(others) if asked else others, chosen=True)
        for name, path in paths.items():
            value = _at(row, path)
            if value is None and name not in OPTIONAL and not (asked and name == ANSWER):
                has = ", ".join(map(repr, row)) if isinstance(row, dict) else f"a {type(row).__name__}"
                raise BadRow(f"has nothing at {path}, where --fields looks for {name}; it has {has}", "fields missing")
            found[name] = value
    except BadRow as problem:
        return problem
    return found


def _at(value: Any, path: str) -> Any:
    """What stands at a path, None where it leads nowhere; a name that is spelt like the path is not taken apart."""
    if isinstance(value, dict) and path in value:
        return value[path]
    step = STEP.match(path)
    if step is None:
        return value
    rest, name = path[step.end() :].removeprefix("."), step["name"]
    if name is not None:
        return _at(value[name], rest) if isinstance(value, dict) and name in value else None
    if not isinstance(value, list):
        return None
    if step["place"] is None:
        return [_at(item, rest) for item in value]
    place = int(step["place"])
    return _at(value[place], rest) if -len(value) <= place < len(value) else None
