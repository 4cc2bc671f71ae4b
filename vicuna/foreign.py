"""Files from elsewhere: code in a model's folder, or that its files name on the hub, is never run, and nobody is asked.

Every call of a library that could run it is told so with `**NEVER_RUN`; tests/test_foreign_code.py walks the calls.
"""

import json
from pathlib import Path

# Left out, transformers asks on the terminal, and takes a line that is piped in for the answer.
NEVER_RUN = {"trust_remote_code": False}


def names_own_code(file: Path) -> bool:
    """Whether a config, of a model or of a tokenizer, says that Python code of its own belongs to it."""
    try:
        return bool(json.loads(file.read_text(encoding="utf-8")).get("auto_map"))
    except (OSError, ValueError, AttributeError):
        return False
