"""--fill: what stands in the place of {{name}} and the like in records, as sets about a model's identity have it.

The braces are double, as in the identity sets of LLaMA-Factory and ms-swift, so that code with {name} in other files of
a mixture stays as it is; code between backticks does in any case.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vicuna.data.suspicions import CODE
from vicuna.errors import UserError

PLACE = re.compile(r"\{\{ ?([\w.\-]{1,40}) ?\}\}")


def parse_fills(given: Sequence[str]) -> dict[str, str]:
    """Placeholder in small letters -> what stands there, of each `name=text`.

    Raises:
        UserError: not of that form, or one that is given twice.
    """
    found: dict[str, str] = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not equals or not PLACE.fullmatch(f"{{{{{name}}}}}") or not text.strip():
            raise UserError(f"--fill {one} is not of the form name=text; expected such as name=小羊驼 author=春水团队.")
        if name.lower() in found:
            raise UserError(f"--fill names {name} twice; name it once.")
        found[name.lower()] = text
    return found


def check_fills(given: Sequence[str], used: set[str]) -> None:
    """See that every placeholder was there.

    Raises:
        UserError: one that was not.
    """
    fills = parse_fills(given)
    if unused := fills.keys() - used:
        name = min(unused)
        raise UserError(f"--fill {name}={fills[name]}: no record holds {{{{{name}}}}}; leave it out, or correct it.")


def fill(value: Any, fills: Mapping[str, str], used: set[str]) -> Any:
    """A row with its placeholders filled, small and capital letters alike.

    Args:
        used: takes the names of those that were there.
    """
    if isinstance(value, str):
        return _filled(value, fills, used) if "{{" in value else value
    if isinstance(value, list):
        return [fill(one, fills, used) for one in value]
    if isinstance(value, dict):
        return {name: fill(one, fills, used) for name, one in value.items()}
    return value


def _filled(text: str, fills: Mapping[str, str], used: set[str]) -> str:
    def put(place: re.Match) -> str:
        name = place[1].lower()
        if name not in fills:
            return place[0]
        used.add(name)
        return fills[name]

    code = [one.span() for one in CODE.finditer(text)]
    parts, at = [], 0
    for start, end in [*code, (len(text), len(text))]:
        parts += [PLACE.sub(put, text[at:start]), text[start:end]]
        at = end
    return "".join(parts)
