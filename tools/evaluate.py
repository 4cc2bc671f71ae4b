"""Evaluate models side by side, each kind of evaluation by a word of its own.

    python tools/evaluate.py KIND [flags]
    python tools/evaluate.py KIND --help

Every kind writes results.json, results.md and rows.jsonl, a line for each thing that is done, to --output_path. The
same command goes on where it stopped. docs/en/tools.md says what each kind measures.
"""

import importlib
import sys
from dataclasses import dataclass

from vicuna import log
from vicuna.args import parse
from vicuna.data.flags import ReadFlags
from vicuna.errors import run
from vicuna.evaluation.flags import LossFlags, ModelsFlags, OutputFlags


@dataclass(frozen=True)
class Kind:
    """A kind of evaluation.

    Attributes:
        summary: what it does, in a line.
        groups: dataclasses with its flags.
        runs: module:function, called with an instance of each of `groups`; None or the exit status.
        more: examples and remarks for --help.
    """

    summary: str
    groups: tuple[type, ...]
    runs: str
    more: str = ""


KINDS = {
    "loss": Kind(
        "answer loss and perplexity on held-out records, by category",
        (ModelsFlags, ReadFlags, LossFlags, OutputFlags),
        "vicuna.evaluation.held_out_loss:evaluate_loss",
        "    python tools/evaluate.py loss --data_path held_out.jsonl --model_path base --lora_path - lora-Vicuna "
        "--output_path loss",
    ),
}


def main(argv: list[str]) -> None:
    """Run a kind, or say which there are."""
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{__doc__}\nkinds:")
        print("\n".join(f"  {name:<12}{kind.summary}" for name, kind in KINDS.items()))
        sys.exit(0 if argv else 2)
    name, *rest = argv
    if name not in KINDS:
        print(f"evaluate.py: error: {name!r} is no kind of evaluation; expected one of {', '.join(KINDS)}, then its "
              "flags.", file=sys.stderr)  # fmt: skip
        sys.exit(2)
    kind = KINDS[name]
    description = f"{kind.summary[0].upper()}{kind.summary[1:]}.\n\n{kind.more}"
    flags = parse(description, *kind.groups, argv=rest, program=f"evaluate.py {name}")
    log.set_up()
    module, _, function = kind.runs.partition(":")
    # Imported here so that --help and a mistyped flag answer at once.
    sys.exit(getattr(importlib.import_module(module), function)(*flags))


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
