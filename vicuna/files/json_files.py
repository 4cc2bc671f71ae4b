"""JSON files of models, which people edit by hand."""

from pathlib import Path
from typing import Any

from vicuna.foreign.typed import JSON_LIMIT, is_absent, read_object
from vicuna.prompt.tokenizer_files import TOKENIZER_LIMIT


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object, {} where there is no file; who uses a value of it that others wrote checks what it is.

    Raises:
        UserError: it is none.
    """
    if is_absent(file):
        return {}
    return read_object(file, TOKENIZER_LIMIT if file.name == "tokenizer.json" else JSON_LIMIT)
