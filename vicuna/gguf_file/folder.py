"""A folder in Hugging Face format that stands for a GGUF file: its small files are made, its weights stay in the file.

All that opens a base reads folders: config, tokenizer, template and decoding are files there, and a link leads to the
weights (`vicuna.files.tensors.weight_paths` finds it).
"""

import json
import shutil
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

from vicuna.errors import UserError
from vicuna.gguf_file.architecture import config_of
from vicuna.gguf_file.link import LINK, stands_for
from vicuna.gguf_file.reader import GGUFFile, read_gguf_model
from vicuna.gguf_file.vocabulary import tokenizer_files
from vicuna.prompt.tokenizer_files import CHAT_TEMPLATE_FILE, TOKENIZER_CONFIG

try:
    import fcntl
except ImportError:  # Windows, where a folder of a program that was killed stays
    fcntl = None

_PREFIX, _LOCK = "vicuna-gguf-", "in-use"


def refuse_file(folder: Path, reader: str) -> None:
    """Refuse a base that is a GGUF file where another program reads the folder itself.

    Args:
        reader: what does, as the subject of a sentence.

    Raises:
        UserError: see above.
    """
    if file := stands_for(folder):
        raise UserError(
            f"{reader} reads a model's folder itself, and --model_path {file} is a GGUF file: make a folder of it "
            f"first, python tools/convert_gguf.py {file} {file.stem}-hf, and name that."
        )


def folder_of(name: str) -> Path:
    """The folder that stands for the GGUF model of `--model_path`; it is gone when the program ends.

    Raises:
        UserError: see `read_gguf_model`, `config_of` and `tokenizer_files`.
    """
    path = Path(name).expanduser().resolve()
    stat = path.stat() if path.is_file() else None
    return _made(name, stat and stat.st_size, stat and stat.st_mtime_ns)


@cache
def _made(name: str, size: int | None, changed: int | None) -> Path:
    file = read_gguf_model(name)
    config_of(file)  # refused before anything is made
    _remove_left_behind()
    holder = tempfile.TemporaryDirectory(prefix=_PREFIX)
    lock = (Path(holder.name) / _LOCK).open("w")
    if fcntl is not None:
        fcntl.flock(lock, fcntl.LOCK_EX)
    _holders.append((holder, lock))
    folder = Path(holder.name) / file.path.name
    folder.mkdir()
    write_small_files(file, folder)
    (folder / LINK).symlink_to(file.path.resolve())
    return folder


_holders: list[tuple[tempfile.TemporaryDirectory, IO]] = []  # each removes its folder when the program ends


def _remove_left_behind() -> None:
    """Remove such folders of programs that were killed, whose locks ended with them."""
    for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}") if fcntl is not None else ():
        with suppress(OSError), lock.open("a") as opened:  # in use, or somebody else's
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)


def write_small_files(file: GGUFFile, folder: Path) -> None:
    """All of a model but its weights: config, ways of decoding, tokenizer and chat template.

    Raises:
        UserError: see `config_of` and `tokenizer_files`.
    """
    config = config_of(file)
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", generation_of(file))
    tokenizer = tokenizer_files(file.keys, file.path)
    if tokenizer.sentencepiece is not None:
        (folder / "tokenizer.model").write_bytes(tokenizer.sentencepiece)
    if tokenizer.json is not None:
        (folder / "tokenizer.json").write_text(tokenizer.json, encoding="utf-8")
    _write(folder / TOKENIZER_CONFIG, tokenizer.config | {"model_max_length": config["max_position_embeddings"]})
    if tokenizer.template:
        (folder / CHAT_TEMPLATE_FILE).write_text(tokenizer.template, encoding="utf-8")


def generation_of(file: GGUFFile) -> dict[str, Any]:
    """What generation_config.json says of a file's model: every id that ends an answer, and what the file declares."""
    own = {**file.generation, "eos_token_id": file.ends if len(file.ends) > 1 else next(iter(file.ends), None)}
    return {name: value for name, value in own.items() if value is not None}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
