"""What the tests of launchers share: a call of python as it was noted, and what the program makes of its arguments."""

import tarfile
from dataclasses import dataclass
from pathlib import Path

from vicuna.args import parse

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = sorted([*(ROOT / "scripts").glob("*.sh"), *(ROOT / "tools").glob("*.sh")])
# Stands in for python: notes CUDA_VISIBLE_DEVICES and its arguments, one call a line, and ends with $STATUS.
PYTHON = """#!/usr/bin/env bash
{ printf '%s' "${CUDA_VISIBLE_DEVICES-unset}"; printf '\\037%s' "$@"; printf '\\n'; } >>"$CALLS"
exit "${STATUS:-0}"
"""
# Stands in for a compiler, and PARTS for what it is given of llama.cpp's sources.
COMPILER = """#!/usr/bin/env bash
echo "$*" >>"$PREFIX/compiled"
echo "$*" >"${!#}"
chmod +x "${!#}"
"""
PARTS = (
    *("LICENSE", "convert_hf_to_gguf.py", "convert_lora_to_gguf.py", "conversion/base.py", "models/a.gguf"),
    *("gguf-py/LICENSE", "gguf-py/gguf/gguf.py", "common/json.h", "common/json.cpp", "common/unicode.h"),
    *("common/unicode.cpp", "common/jinja/lexer.cpp", "vendor/nlohmann/json.hpp", "ggml/include/ggml.h"),
    *("tools/server/server.cpp", "common/chat.cpp"),  # not taken
)


def write_sources(folder: Path) -> None:
    """llama.cpp's source package as sources.tar.gz, without a word in it, and `compiler`, which notes its arguments."""
    version = (ROOT / "requirements_cpp.txt").read_text(encoding="utf-8").split("llama-cpp-python==")[1].split()[0]
    with tarfile.open(folder / "sources.tar.gz", "w:gz") as archive:
        for name in PARTS:
            archive.addfile(tarfile.TarInfo(f"llama_cpp_python-{version}/vendor/llama.cpp/{name}"))
    (folder / "compiler").write_text(COMPILER, encoding="utf-8")
    (folder / "compiler").chmod(0o755)


@dataclass
class Call:
    """One call of python by a launcher."""

    visible: str
    argv: list[str]


@dataclass
class Launched:
    status: int
    calls: list[Call]
    said: str

    @property
    def only(self) -> Call:
        (call,) = self.calls
        return call


def flags(groups: tuple[type, ...], argv: list[str], **defaults: object) -> dict:
    """What the program itself makes of the arguments a launcher passes."""
    found = parse("test", *groups, argv=argv, **defaults)
    return {name: value for group in found for name, value in vars(group).items()}
