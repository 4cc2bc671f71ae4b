"""What the tests of launchers share: a call of python as it was noted, and what the program makes of its arguments."""

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
