"""JSON files of models, which people edit by hand."""

import json
from pathlib import Path
from typing import Any

from vicuna.errors import UserError
from vicuna.foreign.odd_files import describe_odd_file


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object, {} where there is no file.

    Raises:
        UserError: it is none.
    """
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        odd = describe_odd_file(file, is_text=True)
        raise UserError(f"{file} {odd or f'is not JSON ({error}). Copy it again.'}") from error
    if not isinstance(found, dict):
        raise UserError(f"{file} is JSON, but no object with names and values. Copy it again.")
    return found
