"""What benchmarks/gpu.py says of its run: the GPU and its peak, the versions, and the table."""

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from provenance import commit, today, versions  # benchmarks/provenance.py

if TYPE_CHECKING:
    import torch

GIB = 2**30
NEEDED = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")  # peft imports accelerate
# Dense float16 tensor TFLOP/s with float32 accumulation, from NVIDIA's data sheets and architecture papers, by words
# of the driver's name; bfloat16, where there is any, has the same peak. The first that fit count.
PEAK_TFLOPS = {
    "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "H200 NVL": 835, "H200": 989, "A100": 312, "A30": 165, "A40": 150,
    "L40S": 362, "L4": 121, "RTX 4090": 165, "RTX 3090": 71, "RTX 2080 Ti": 53.8, "T4": 65, "V100-SXM2": 125,
    "V100-PCIE": 112,
}  # fmt: skip


def describe_run(where: "torch.device", peak: float | None, known_commit: str) -> dict[str, Any]:
    """Command, GPU, versions, commit and date of a run.

    Args:
        known_commit: where git can not tell it.
    """
    import torch

    gpu = "the CPU, smoke run: no figure here means anything"
    if where.type == "cuda":
        found = torch.cuda.get_device_properties(where)
        gpu = f"{found.name}, {found.total_memory / GIB:.1f} GiB, sm_{found.major}{found.minor}"
    return {
        "command": shlex.join(["bash", "benchmarks/gpu.sh", *sys.argv[1:]]),
        "machine": gpu,
        "peak_tflops": peak,
        "versions": versions(NEEDED),
        "cuda": torch.version.cuda,
        "commit": known_commit or commit(),
        "date": today(),
    }


def peak_tflops(name: str) -> float | None:
    """Dense 16-bit peak of a GPU by its name; None where it is not known."""
    fits = (peak for part, peak in PEAK_TFLOPS.items() if re.search(rf"\b{part}\b(?! (?:Ti|D|SUPER|Laptop)\b)", name))
    return next(fits, None)


COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "tokens/s": lambda row: f"{row['tokens_per_s']:.0f}",
    "of the 6N ceiling": lambda row: percent(row["share_of_6n_ceiling"]),
    "weights, GiB": lambda row: gib(row["weights_bytes"]),
    "peak of a step, GiB": lambda row: gib(row["peak_bytes"]),
    "peak while saving, GiB": lambda row: gib(row["peak_bytes_while_saving"]),
    "loss, first to last": lambda row: f"{row['losses'][0]:.3f} to {row['losses'][-1]:.3f}",
}


def report(facts: dict[str, Any], rows: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of Markdown for benchmarks/RESULTS.md."""
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    peak = "unknown GPU, so no share of it"
    if facts["peak_tflops"]:
        peak = f"{facts['peak_tflops']} TFLOP/s (16 bits, dense, float32 accumulation; NVIDIA's data sheet)"
    yield f"`{facts['command']}` on {facts['machine']}. {versions}, CUDA {facts['cuda']}; commit {facts['commit']},"
    yield f"{facts['date']}. Random weights; half of the tokens supervised; memory is max_memory_allocated."
    yield ""
    yield f"Peak: {peak}. The ceiling is peak / 6N tokens/s, N being the"
    yield "parameters of the linear layers, the head included: 2N each for the forward pass, its recomputation and the"
    yield "gradient of the activations. The frozen base has no gradient of weights; the products inside attention are"
    yield "not counted. At 8 bits the forward products run in int8, whose peak is higher than the one named."
    yield ""
    yield f"| case | compute | {' | '.join(COLUMNS)} |"
    yield f"|{'---|' * (2 + len(COLUMNS))}"
    for row in rows:
        if reason := row.get("not_measured"):
            yield f"| {row['case']} | not measured: {reason} |{' |' * len(COLUMNS)}"
        else:
            yield f"| {row['case']} | {row['compute_dtype']} | {' | '.join(cell(row) for cell in COLUMNS.values())} |"


def percent(share: float | None) -> str:
    return "unknown GPU" if share is None else f"{share:.0%}"


def gib(size: int | None) -> str:
    return "–" if size is None else f"{size / GIB:.2f}"
