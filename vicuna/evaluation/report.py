"""What was found about models on texts, as a table and as a picture."""

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

from vicuna.evaluation.markdown import table
from vicuna.evaluation.perplexity import TextResult
from vicuna.files.aside import whole_file

_HEADS = (
    *("model", "weights", "text", "tokens", "perplexity", "per character", "bits/byte"),
    *("on disk, MiB", "in memory, MiB", "peak, MiB", "tokens/s"),
)


@dataclass
class ModelResult:
    """What was found about a model.

    Attributes:
        weights: precision and device in words; peak_bytes: beside what the program had before.
        texts: by the name of the file; problem: why there are no more of them.
    """

    model: str
    disk_bytes: int
    weights: str = ""
    memory_bytes: int | None = None
    peak_bytes: int | None = None
    texts: dict[str, TextResult] = field(default_factory=dict)
    problem: str = ""


def print_table(results: list[ModelResult]) -> None:
    """The table, as Markdown, and why what lacks figures lacks them."""
    print(table(_HEADS, [row for one in results for row in _table_rows(one)]))
    for one in results:
        if one.problem:
            print(f"{one.model}: {one.problem}")
    sys.stdout.flush()


def _table_rows(one: ModelResult) -> list[tuple[str, ...]]:
    """A row for each text."""
    sizes = (one.disk_bytes, one.memory_bytes, one.peak_bytes)
    shown = ["–" if size is None else f"{size / 2**20:.1f}" for size in sizes]
    rows = [
        (one.model, one.weights, name, str(found.counted), f"{found.perplexity:.5g}", f"{found.per_character:.5g}",
         f"{found.bits_per_byte:.4f}", *shown, f"{found.tokens_per_s:.0f}")
        for name, found in one.texts.items()
    ]  # fmt: skip
    return rows or [(one.model, one.weights or "–", *["–"] * 5, *shown, "–")]


def draw(results: list[ModelResult], same: bool, file: Path) -> None:
    """Bars of each text, and of the memory that the weights take; by byte where tokens can not be compared."""
    from matplotlib.figure import Figure

    shown = [one for one in results if one.texts]
    names = list(dict.fromkeys(name for one in shown for name in one.texts))
    figure = Figure(figsize=(3 + 3.5 * (len(names) + 1), 1.2 + 0.5 * len(shown)), layout="constrained")
    axes = figure.subplots(1, len(names) + 1, sharey=True)
    places = range(len(shown))
    for axis, name in zip(axes, names, strict=False):
        found = [one.texts.get(name) for one in shown]
        values = [math.nan if one is None else one.perplexity if same else one.bits_per_byte for one in found]
        tokens = ", ".join(dict.fromkeys(str(one.counted) for one in found if one))
        axis.bar_label(axis.barh(places, values), fmt="%.4g", padding=3)
        axis.set(title=Path(name).name, xlabel=f"{'perplexity' if same else 'bits per byte'} of {tokens} tokens")
    memory = [(one.memory_bytes or math.nan) / 2**20 for one in shown]
    axes[-1].bar_label(axes[-1].barh(places, memory, color="tab:gray"), fmt="%.4g", padding=3)
    axes[-1].set(title="weights", xlabel="MiB in memory")
    axes[0].set_yticks(places, [f"{one.model}\n{one.weights}" for one in shown])
    axes[0].invert_yaxis()
    for axis in axes:
        axis.margins(x=0.25)
        axis.grid(axis="x", alpha=0.3)
    with whole_file(file) as opened:
        figure.savefig(opened, dpi=120, format=file.suffix[1:])
