"""The lists of exact versions and hashes: whole, of what the requirements files ask for, and what CI has installed."""

import hashlib
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename

ROOT = Path(__file__).resolve().parents[2]
LISTS = ROOT / "scripts/constraints"
PYTHONS = ("3.11", "3.12")
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
ALONE = ("requirements_eval.txt", "requirements_gptq.txt")  # installed without what their packages ask for
FILES = ("requirements.txt", "requirements_dev.txt", "requirements_cpp.txt", *ALONE)


def versions(python: str) -> dict[str, str]:
    lines = (LISTS / f"python{python}.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def asked(file: str) -> list[Requirement]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if re.match(r"\w", line)]


def installed(name: str) -> str | None:
    try:
        return distribution(name).version.split("+")[0]
    except PackageNotFoundError:
        return None


def reached() -> set[str]:
    """Names of what the requirements files bring here, by what is installed says it needs."""
    found: set[tuple[str, str]] = set()
    waiting = [(one, file not in ALONE) for file in FILES for one in asked(file)]
    while waiting:
        one, deps = waiting.pop()
        name = canonicalize_name(one.name)
        fresh = {(name, extra) for extra in {"", *one.extras}} - found
        found |= fresh
        if not fresh or not deps or installed(name) is None:
            continue
        for needed in map(Requirement, distribution(name).requires or []):
            if not needed.marker or any(needed.marker.evaluate({"extra": extra}) for _, extra in fresh):
                waiting.append((needed, True))
    return {name for name, _ in found}


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_is_listed_as_it_is_pinned(python):
    listed = versions(python)
    pinned = {canonicalize_name(one.name): str(one.specifier) for file in FILES for one in asked(file)}

    assert {name: f"=={listed.get(name)}" for name in pinned} == pinned
    assert "setuptools" in listed
    assert "wheel" in listed


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lists_are_plain_and_hold_no_address(python):
    text = (LISTS / f"python{python}.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]

    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
    assert len(lines) == len(versions(python))
    assert "//" not in text + (LISTS / f"python{python}.sha256").read_text(encoding="utf-8")
    assert ("not run" in text.splitlines()[0]) == (python != "3.11")


@pytest.mark.parametrize("python", PYTHONS)
def test_every_listed_version_has_the_hash_of_a_file(python):
    lines = (LISTS / f"python{python}.sha256").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[0-9a-f]{64}  \S+\.(whl|tar\.gz|zip)", line)] == []
    parsed = [
        (parse_wheel_filename if name.endswith(".whl") else parse_sdist_filename)(name)[:2]
        for _, name in map(str.split, lines)
    ]

    assert {(name, str(version).split("+")[0]) for name, version in parsed} == set(versions(python).items())


@pytest.mark.skipif(not os.environ.get("VICUNA_EXACT_VERSIONS"), reason="only CI promises the listed versions: .ci/run")
def test_what_is_installed_here_is_what_is_listed():
    listed = versions(HERE)
    here = {name: found for name in reached() if (found := installed(name))}

    assert here == {name: listed.get(name) for name in here}
    assert len(here) > 100


def install(tmp_path: Path, *words: str) -> tuple[subprocess.CompletedProcess, list[str]]:
    """scripts/install.sh with a pip that writes down what it is told, and downloads the file `sent`."""
    pip = tmp_path / "python"
    pip.write_text(
        "#!/usr/bin/env bash\n"
        'case "$*" in\n'
        f'    *"print(sys.prefix)"*) echo "{tmp_path}" ;;\n'
        '    *" pip "*) echo "$*" >>"$CALLS"\n'
        '        if [[ "$*" == *" download "* ]]; then\n'
        '            while [ "$1" != --dest ]; do shift; done\n'
        '            cp "$SENT"/* "$2/"\n'
        "        fi ;;\n"
        f'    *) exec "{sys.executable}" "$@" ;;\n'
        "esac\n",
        encoding="utf-8",
    )
    pip.chmod(0o755)
    calls, sent = tmp_path / "calls", tmp_path / "sent"
    env = {
        "PATH": os.environ["PATH"],
        "PYTHON": str(pip),
        "CALLS": str(calls),
        "SENT": str(sent),
        "HOME": str(tmp_path),
    }
    command = ["bash", str(ROOT / "scripts/install.sh"), *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    return done, calls.read_text(encoding="utf-8").splitlines() if calls.is_file() else []


def test_the_listed_versions_are_the_default_and_newest_leaves_them_out(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    _, (exact,) = install(tmp_path / "a", "--no-deps", "requirements_eval.txt")
    _, (newest,) = install(tmp_path / "b", "--newest", "--no-deps", "requirements_eval.txt")

    assert f"install --constraint scripts/constraints/python{HERE}.txt --no-deps -r requirements_eval.txt" in exact
    assert newest.endswith("install --no-deps -r requirements_eval.txt")


def test_what_was_downloaded_is_compared_and_nothing_of_another_hash_is_installed(tmp_path):
    (tmp_path / "sent").mkdir()
    listed = (LISTS / f"python{HERE}.sha256").read_text(encoding="utf-8").splitlines()
    digest, name = next(line.split() for line in listed if "wheel-" in line)
    (tmp_path / "sent" / name).write_bytes(b"something else")
    done, calls = install(tmp_path, "--verify", "--no-deps", "requirements_eval.txt")

    other = hashlib.sha256(b"something else").hexdigest()
    assert done.returncode == 1
    assert f"{name} has the SHA-256 {other}, and scripts/constraints/python{HERE}.sha256 has {digest}" in done.stderr
    assert not [call for call in calls if " install " in call]


def test_a_file_that_is_not_listed_is_not_installed(tmp_path):
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent/other-1.0-py3-none-any.whl").write_bytes(b"x")
    done, calls = install(tmp_path, "--verify", "--no-deps", "requirements_eval.txt")

    assert done.returncode == 1
    assert "does not list other-1.0-py3-none-any.whl" in done.stderr
    assert not [call for call in calls if " install " in call]


def test_flags_that_do_not_go_together_or_are_unknown_are_refused(tmp_path):
    both, none = install(tmp_path, "--verify", "--newest", "requirements.txt")
    other, _ = install(tmp_path, "--latest", "requirements.txt")

    assert (both.returncode, other.returncode, none) == (2, 2, [])
    assert "hashes are known of the listed versions only" in both.stderr
    assert "--latest is unknown" in other.stderr
