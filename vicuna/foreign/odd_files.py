"""Files from elsewhere: what they are where they are not what their name says, and that their code is never run.

Pointers, web pages, archives and downloads that were broken off are told by their first bytes, so that a message can
name them, in place of what some parser stumbled over. Code in a model's folder, or that its files name on the hub, is
not run, and nobody is asked: every call of a library that could run it is told so with `**NEVER_RUN`;
tests/test_foreign_code.py walks the calls.
"""

import re
from pathlib import Path

# Left out, transformers asks on the terminal, and takes a line that is piped in for the answer.
NEVER_RUN = {"trust_remote_code": False}
_BEGINNING = 4096  # bytes that are looked at
_ARCHIVES = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_AGAIN = "Download or copy it again."
_TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]{1,4}={0,2} \d+\r?\n")
_LFS_SIZE = re.compile(rb"^size (\d+)", re.MULTILINE)
UNFINISHED = (".incomplete", ".part", ".partial", ".crdownload", ".aria2", ".download")


def describe_odd_file(file: Path, is_text: bool = False) -> str:
    """What a file is, as the end of a sentence that begins with its name, and what to do; "" where nothing is odd.

    Args:
        is_text: a text is what was expected.
    """
    if file.is_symlink() and not file.exists():
        return f"is a link to {file.readlink()}, which is not here: fetch it (git annex get), or copy the file itself."
    if not file.is_file():
        return ""
    size = file.stat().st_size
    with file.open("rb") as opened:
        begin = opened.read(_BEGINNING)
    return _empty(begin, size) or _pointer(begin, size) or _page(begin) or ("" if is_text else _other(begin, file))


def _empty(begin: bytes, size: int) -> str:
    if not size:
        return f"is empty. {_AGAIN}"
    if not any(begin):
        return f"begins with nothing but zeros, as a download does that was broken off. {_AGAIN}"
    return ""


def _pointer(begin: bytes, size: int) -> str:
    if begin.startswith(b"version https://git-lfs.github.com/spec/"):
        of = _LFS_SIZE.search(begin)
        real = f" of {int(of[1]):,} bytes" if of else ""
        return (
            f"is a Git LFS pointer, {size} bytes that stand for a file{real}: run git lfs pull in its folder, or "
            "download the file itself."
        )
    if begin.lstrip().startswith((b"/annex/objects/", b".git/annex/objects/", b"../.git/annex/objects/")):
        return f"is a git-annex pointer, {size} bytes that stand for a file: run git annex get in its folder."
    return ""


def _page(begin: bytes) -> str:
    text = begin.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<error")):
        return f"is a web page, such as an error or a login page that was saved under this name. {_AGAIN}"
    return ""


def _other(begin: bytes, file: Path) -> str:
    if begin.startswith(b"GGUF"):
        return "is a GGUF file: give it the ending .gguf, and pass the file itself as --model_path."
    if begin.startswith(b"PK\x03\x04") and file.suffix == ".safetensors":
        return f"is a file of PyTorch: its name is {file.stem if file.stem != 'model' else 'pytorch_model'}.bin."
    if kind := next((name for magic, name in _ARCHIVES.items() if begin.startswith(magic)), ""):
        return f"is a {kind} archive: unpack it."
    if _TIKTOKEN.match(begin):
        return (
            "is a tiktoken vocabulary, as Llama 3 has in its folder original, and no SentencePiece model: put the "
            "model's tokenizer.json beside it."
        )
    text = _as_text(begin)
    if text.startswith("{"):
        return f"is a JSON text, which begins with {_short(text)!r}. {_AGAIN}"
    return f"is a text, which begins with {_short(text)!r}. {_AGAIN}" if text else ""


def _as_text(begin: bytes) -> str:
    """The bytes as text, "" where they are none."""
    try:
        text = begin.decode("utf-8", errors="strict" if len(begin) < _BEGINNING else "ignore").strip()
    except UnicodeDecodeError:
        return ""
    return text if all(sign.isprintable() or sign in "\r\n\t" for sign in text) else ""


def _short(text: str) -> str:
    return " ".join(text[:60].split())


def is_tiktoken(file: Path) -> bool:
    """Whether a file is a vocabulary of tiktoken, which Llama 3's tokenizer.model is."""
    with file.open("rb") as opened:
        return bool(_TIKTOKEN.match(opened.read(_BEGINNING)))


def unfinished(folder: Path) -> list[str]:
    """Names in a folder that downloaders give to what they have not finished."""
    files = [*folder.iterdir(), *(folder / ".cache/huggingface/download").glob("*")]  # the hub's own has a place for it
    return sorted(file.name for file in files if file.name.endswith(UNFINISHED))
