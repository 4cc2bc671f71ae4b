"""llama.cpp's library: loading it, and what it has to say."""

from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from vicuna.errors import UserError
from vicuna.gguf_file.reader import optional_package

_ERROR = 4  # ggml's level; what is below is of interest to its developers
_said: deque[str] = deque(maxlen=4)
_listening: list[Any] = []  # what the library may call as long as the program runs


@cache
def load_llama_cpp() -> Any:
    """The package llama_cpp, whose errors are kept for `last_error` instead of being printed.

    Raises:
        UserError: it is not installed.
    """
    api = optional_package("llama_cpp")

    @api.llama_log_callback
    def listen(level: int, text: bytes, user_data: Any) -> None:
        if level == _ERROR:
            _said.append(text.decode(errors="replace").strip())

    api.llama_log_set(listen, None)
    _listening.append(listen)
    return api


def last_error(default: object) -> str:
    """The first of the latest errors of llama.cpp, else `default`; and they are forgotten."""
    said = [text for text in _said if text]
    _said.clear()
    return said[0].split(": ", 1)[-1] if said else str(default)


@contextmanager
def opened_vocabulary(file: Path) -> Iterator[Any]:
    """A GGUF file as `llama_cpp.Llama` that has its vocabulary alone; no weight is read.

    Raises:
        UserError: llama.cpp is not installed, or can not read it.
    """
    api = load_llama_cpp()
    try:
        llama = api.Llama(model_path=str(file), vocab_only=True, verbose=False)
    except Exception as error:  # the template engine it hands the chat template to has errors of its own
        raise UserError(f"llama.cpp can not read the vocabulary of {file} ({last_error(error)}).") from error
    with closing(llama):
        yield llama
