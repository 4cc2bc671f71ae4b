"""Where a figure comes from: what stands beside it in benchmarks/RESULTS.md. Needs no library."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")


def provenance(program: str) -> dict[str, Any]:
    """Command, machine, versions, commit and date of a run on the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "command": shlex.join(["python", program, *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} cores, {names[0] if names else platform.machine()}",
        "versions": versions(LIBRARIES),
        "commit": commit(),
        "date": today(),
    }


def versions(libraries: Sequence[str]) -> dict[str, str]:
    """Versions of Python and of the libraries that a figure depends on."""
    return {"Python": platform.python_version(), **{name: version(name) for name in libraries}}


def today() -> str:
    """The date, in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%d")


def commit() -> str:
    """The commit of the working tree, with -dirty where it was changed; "unknown" outside git."""
    asked = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
