"""What of llama.cpp is used as it is: its converters, its engine for chat templates, its vocabularies and templates.

scripts/install_cpp.sh takes them from the source package of the very version that it compiles, and keeps them in the
user's cache folder; nothing of them stands in this project.
"""

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vicuna.errors import UserError
from vicuna.gguf_file.reader import INSTALL_COMMAND

PACKAGE = "llama-cpp-python"


def source_folder() -> Path:
    """Where llama.cpp's `convert_hf_to_gguf.py`, `convert_lora_to_gguf.py` and `models` are, of the version installed.

    Raises:
        UserError: they are not there.
    """
    try:
        installed = version(PACKAGE)
    except PackageNotFoundError as error:
        raise UserError(
            f"llama.cpp is needed here, and {PACKAGE} is not installed; install it: {INSTALL_COMMAND}"
        ) from error
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "chinese-vicuna" / "llama.cpp" / installed
    if not (folder / "convert_hf_to_gguf.py").is_file():
        raise UserError(
            f"llama.cpp's converters and its engine for chat templates are not in {folder}; install them, which "
            f"compiles no wheel again: {INSTALL_COMMAND}"
        )
    return folder


def render_program() -> Path:
    """The program that renders chat templates as llama.cpp's server does; see vicuna/gguf/render_template.cpp.

    Raises:
        UserError: it was not compiled.
    """
    program = source_folder() / f"render_template-{platform.system()}-{platform.machine()}"
    if not program.is_file():
        raise UserError(
            f"llama.cpp's engine for chat templates was not compiled to {program}; with a C++ compiler (g++ or clang) "
            f"do it: {INSTALL_COMMAND}"
        )
    return program


def render_in_llama_cpp(requests: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
    """Render by llama.cpp's own engine, as its server does.

    Args:
        requests: each with `template` and `messages`, and where wanted `tools`, `add_generation_prompt`, `bos_token`,
            `eos_token`, and `kwargs`, further values for the template.

    Returns:
        For each `{"text": …}`, or `{"error": …}` with the engine's own words where it does not render.

    Raises:
        UserError: the program is not there, or ends before it has answered all.
    """
    lines = [json.dumps(one) for one in requests]
    program = render_program()
    ran = subprocess.run([program], input="".join(f"{line}\n" for line in lines).encode(), capture_output=True)
    answers = ran.stdout.decode().splitlines()
    if ran.returncode or len(answers) != len(lines):
        said = ran.stderr.decode(errors="replace").strip()
        raise UserError(
            f"{program} ended with status {ran.returncode} after {len(answers)} of {len(lines)} templates ({said}); "
            f"compile it again: {INSTALL_COMMAND}"
        )
    return [json.loads(answer) for answer in answers]
