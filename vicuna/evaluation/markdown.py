"""Markdown of what was found: tables that read well as they are, too."""

import math
from collections.abc import Sequence
from typing import Any


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; a cell of several lines has them broken within it."""
    cells = [[_cell(one) for one in row] for row in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def without_nan(data: Any) -> Any:
    """The same with None for numbers that JSON does not have."""
    if isinstance(data, dict):
        return {name: without_nan(one) for name, one in data.items()}
    if isinstance(data, list | tuple):
        return [without_nan(one) for one in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _cell(text: str) -> str:
    """A text that stays within its cell, and means what it is: no tag and no column of its own."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return "<br>".join(plain.splitlines())
