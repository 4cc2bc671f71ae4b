"""JSON files of models, which people edit by hand."""

from pathlib import Path
from typing import Any

from vicuna.foreign.typed import JSON_LIMIT, is_absent, read_object

TOKENIZER_LIMIT = 128 << 20  # bytes of a tokenizer.json; that of 262,144 tokens has 33 MB


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object, {} where there is no file; who uses a value of it that others wrote checks what it is.

    Raises:
        UserError: it is none.
    """
    if is_absent(file):
        return {}
    return read_object(file, TOKENIZER_LIMIT if file.name == "tokenizer.json" else JSON_LIMIT)
