"""Which rows of a base's embeddings and head are new: what tools/expand_vocabulary.py writes down beside them.

They begin as something made of the old rows, so --train new_rows trains them alone.
"""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from vicuna.errors import UserError
from vicuna.files.json_files import read_json

NEW_ROWS = "new_rows.json"


def write_new_rows(folder: Path, rows: Sequence[int], **facts: Any) -> None:
    """Write down which rows are new, as ranges, and whatever else is known of them."""
    ends = [row + 1 for row, following in pairwise([*rows, -1]) if following != row + 1]
    starts = [row for before, row in pairwise([-1, *rows]) if row != before + 1 or row == 0]
    ranges = [list(pair) for pair in zip(starts, ends, strict=True)]
    text = json.dumps({"rows": ranges, **facts}, ensure_ascii=False, indent=2)
    (folder / NEW_ROWS).write_text(text + "\n", encoding="utf-8")


def read_new_rows(folder: Path, vocab: int) -> list[int]:
    """The new rows of the base in `folder`.

    Args:
        vocab: rows of its embeddings.

    Raises:
        UserError: nothing says which; or what does is not of this base.
    """
    file = folder / NEW_ROWS
    if not file.is_file():
        raise UserError(
            f"{folder} has no {NEW_ROWS}, which says which rows are new: enlarge the base with "
            "tools/expand_vocabulary.py, or take another --train."
        )
    try:
        rows = [row for start, end in read_json(file)["rows"] for row in range(start, end)]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} does not say which rows are new ({error!r}): enlarge the base again.") from error
    if not rows or rows[0] < 0 or sorted(set(rows)) != rows or rows[-1] >= vocab:
        raise UserError(f"{file} names rows that the base, of {vocab}, does not have: it belongs to another one.")
    return rows
