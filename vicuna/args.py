"""How flags are declared and read: each is a field of a dataclass with its default, its meaning and its unit.

A flag means the same in every program, because the programs combine the same small dataclasses, which stand in the
`flags.py` of the package that they are for. The parser is transformers' HfArgumentParser, which takes `--x True`,
`--x 1` and a bare `--x` alike; torch is not imported.
"""

import math
from argparse import RawDescriptionHelpFormatter
from dataclasses import field, fields
from difflib import get_close_matches
from typing import Any

from transformers import HfArgumentParser

from vicuna.errors import UserError


class Words(list):
    """A list that a help text shows as it is typed."""

    def __str__(self) -> str:
        return " ".join(self)


def flag(default: Any, text: str) -> Any:
    """A dataclass field whose help text ends with its default, or with the one that a program puts in its place."""
    if default not in (None, "", []):
        text = f"{text} (default: %(default)s)"
    if isinstance(default, list):
        return field(default_factory=lambda: Words(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


def switch(text: str, bare: Any = True) -> Any:
    """A flag that is None until it is given, and `bare` without a value; a bool also takes `--x 1` and `--x False`."""
    return field(default=None, metadata={"help": text, "nargs": "?", "const": bare})


def at_least(name: str, value: float, low: float) -> None:
    if value < low:
        raise UserError(f"{name} {value} is too small: expected {low} or more.")
    if not math.isfinite(value):
        raise UserError(f"{name} {value} is not a number to count with: expected {low} or more.")


def check_seed(value: int) -> None:
    if not 0 <= value < 2**32:
        raise UserError(f"--seed {value} is out of range: expected 0 to {2**32 - 1}.")


def parse(description: str, *groups: type, argv: list[str] | None = None, **defaults: Any) -> tuple:
    """The flags of a program, one dataclass instance for each of `groups`.

    A flag that does not exist, a value of the wrong kind and a contradiction end the program with status 2 and
    a sentence. `defaults` replace the groups' own; one of them gives way to a flag that says the same differently.
    """
    parser = HfArgumentParser(
        groups,
        description=description,
        formatter_class=RawDescriptionHelpFormatter,
        usage="%(prog)s [flags]        (python %(prog)s --help lists them)",
        allow_abbrev=False,
    )
    parser.set_defaults(**{name: Words(one) if isinstance(one, list) else one for name, one in defaults.items()})
    try:
        if defaults.get("warmup_ratio") is not None and parser.parse_known_args(argv)[0].warmup_steps is not None:
            parser.set_defaults(warmup_ratio=None)
        *flags, unknown = parser.parse_args_into_dataclasses(
            args=argv, look_for_args_file=False, return_remaining_strings=True
        )
    except UserError as error:
        parser.error(str(error))
    if unknown:
        names = [f"--{one.name}" for group in groups for one in fields(group)]
        near = get_close_matches(unknown[0].split("=")[0].replace("-", "_").replace("__", "--", 1), names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"python {parser.prog} --help lists the flags."
        parser.error(f"{unknown[0]!r} is not a flag of {parser.prog}; {hint}")
    return tuple(flags)
