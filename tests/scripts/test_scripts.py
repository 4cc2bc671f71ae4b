"""Every script: it is bash that stops at the first error, and every flag that it passes exists."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scripts.launchers import PARTS, ROOT, SCRIPTS, write_sources


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / ".ci/run"], ids=lambda script: script.name)
def test_a_script_is_valid_bash(script):
    if not script.is_file():
        pytest.skip(f"{script.name} is not there")
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_stops_at_the_first_error(script):
    if script.name == "environment.sh":
        pytest.skip("it is sourced")
    text = script.read_text(encoding="utf-8")

    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text


PROGRAM = re.compile(
    r"(?:scripts/)?((?:tools/)?(?:finetune_chat(?=\.py)|finetune|generate|chat|make_tiny_llama|compare_answers"
    r"|merge_lora|export_gguf|verify_sha256))\w*\.(?:py|sh)\b"
)


def flags_passed(script: Path) -> dict[str, set[str]]:
    """Program -> flags that a line of the script, comments included, passes to it.

    Flags belong to the program named before them; on a line that names none, to that of the script's own name.
    """
    own = PROGRAM.match(script.name)
    found: dict[str, set[str]] = {}
    for line in script.read_text(encoding="utf-8").replace("\\\n", " ").split("\n"):
        if re.search(r"rendezvous|nvidia-smi|\bprobe\b", line):  # of other programs; test_domains.py runs the last
            continue
        named = list(PROGRAM.finditer(line))
        ends = [*(match.start() for match in named[1:]), len(line)]
        parts = [(match[1], line[match.end() : end]) for match, end in zip(named, ends, strict=False)]
        for name, rest in parts or ([(own[1], line)] if own else []):
            found.setdefault(f"{name}.py", set()).update(re.findall(r"(?<![\w-])--\w+", rest))
    return found


@pytest.mark.parametrize(
    ("name", "at_least"),
    [
        ("finetune.sh", 9),
        ("finetune_4bit.sh", 1),
        ("finetune_fp16.sh", 1),
        ("generate.sh", 4),
        ("generate_4bit.sh", 1),
        ("chat_7B.sh", 7),
    ],
)
def test_the_reader_of_the_test_below_finds_the_flags(name, at_least):
    (found,) = flags_passed(ROOT / "scripts" / name).values()

    assert len(found) >= at_least


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_every_flag_that_a_script_passes_exists_in_the_program(program, script):
    for name, passed in flags_passed(script).items():
        known = set(re.findall(r"--\w+", program(name, "--help").stdout))
        assert len(known) > 3
        assert passed - known == set()


PIP = """#!/usr/bin/env bash
case "$*" in
    *"print(sys.prefix)"*) echo "$PREFIX" ;;
    *" download "*)
        echo "${!#}" >>"$PREFIX/downloaded"
        while [ "$1" != --dest ]; do shift; done
        cp "$PREFIX/sources.tar.gz" "$2/llama_cpp_python-${3#*==}.tar.gz"
        ;;
    *" wheel "*)
        while [ "$1" != --wheel-dir ]; do shift; done
        name=$(basename "$3" .tar.gz)
        echo "$CMAKE_ARGS" >"$2/$name-py3-none-any.whl"
        ;;
    *--force-reinstall*) cat "${!#}" >>"$PREFIX/installed" ;;
esac
"""


@pytest.fixture
def installing(tmp_path) -> Callable[..., str]:
    """Runs scripts/install_cpp.sh with a pip and a compiler that write what they are asked for; says what it said."""
    write_sources(tmp_path)
    (tmp_path / "python").write_text(PIP, encoding="utf-8")
    (tmp_path / "python").chmod(0o755)
    env = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHON": str(tmp_path / "python"),
        "CXX": str(tmp_path / "compiler"), "PREFIX": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }  # fmt: skip

    def run(**more: str) -> str:
        command = ["bash", str(ROOT / "scripts/install_cpp.sh")]
        ran = subprocess.run(command, env={**env, **more}, capture_output=True, text=True, check=True)
        return ran.stdout + ran.stderr

    return run


def test_llama_cpp_is_compiled_once_for_each_setting_and_the_one_asked_for_is_installed(installing, tmp_path):
    said = [installing(**more) for more in ({}, {}, {"CMAKE_ARGS": "-DGGML_CUDA=on"}, {})]

    assert ["compiling llama-cpp-python" in one for one in said] == [True, False, True, False]
    installed = (tmp_path / "installed").read_text(encoding="utf-8").splitlines()
    assert ["-DGGML_CUDA=on" in one for one in installed] == [False, True, False]


def test_converters_and_template_engine_are_taken_once_from_the_sources_that_are_compiled(installing, tmp_path):
    assert "engine for chat templates" in installing()
    assert "engine for chat templates" not in installing()

    (folder,) = (tmp_path / "cache/chinese-vicuna/llama.cpp").iterdir()
    taken = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    (program,) = [name for name in taken if name.startswith("render_template-") and not name.endswith(".of")]
    assert taken == {*PARTS[:-2], ".parts", program, f"{program}.of"}
    assert "vicuna/gguf/render_template.cpp" in (folder / program).read_text(encoding="utf-8")
    assert len((tmp_path / "downloaded").read_text(encoding="utf-8").splitlines()) == 1
    assert len((tmp_path / "compiled").read_text(encoding="utf-8").splitlines()) == 1


def test_a_cache_with_a_wheel_from_before_gets_the_sources_and_compiles_no_wheel(installing, tmp_path):
    installing()
    shutil.rmtree(tmp_path / "cache/chinese-vicuna/llama.cpp")
    said = installing(CXX="no-such-compiler")
    assert "compiling" not in said
    assert "without a C++ compiler" in said
    (folder,) = (tmp_path / "cache/chinese-vicuna/llama.cpp").iterdir()
    assert (folder / "convert_hf_to_gguf.py").is_file()
    assert "engine for chat templates" in installing()
