"""Markdown of what was found: tables that read well as they are, too."""

import math
import re
from collections.abc import Sequence
from typing import Any

_MEANT = re.compile(r"([\\`*_\[\]|$#~])")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], aligned: bool = True) -> str:
    """A table.

    Args:
        aligned: cells are filled up to the width of their column, for a reader in a terminal.
    """
    cells = [[one.replace("\n", " ") for one in row] for row in (heads, *rows)]
    widths = [max(map(len, column)) if aligned else 1 for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def without_nan(data: Any) -> Any:
    """The same with None for numbers that JSON does not have."""
    if isinstance(data, dict):
        return {name: without_nan(one) for name, one in data.items()}
    if isinstance(data, list | tuple):
        return [without_nan(one) for one in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def literal(text: str) -> str:
    """A text that means nothing to Markdown, and stays within a cell of a table; its lines are broken there."""
    escaped = _MEANT.sub(r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))
    return "<br>".join(line for line in escaped.splitlines() if line.strip())
