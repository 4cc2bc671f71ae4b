"""Measure the memory of quantising a model of few and of many blocks: the peak is to grow by no block.

    python benchmarks/quantise_memory.py --folder big-disk
    python benchmarks/quantise_memory.py --folder big-disk --shape tiny          # the same program, in a minute

Makes bases of random float16 weights with 2 and with 4 blocks of LLaMA-7B's size (0.4 GB each), and has
tools/quant_llama.py quantise each at 4 bits. Peak memory is anonymous memory (RssAnon, sampled), as in
merge_memory.py. Exit status 1 if it grows by more than a quarter of a block for each block more. Linux only.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from merge_memory import SHAPES, Peak, make_base  # benchmarks/merge_memory.py
from provenance import commit  # benchmarks/provenance.py

from vicuna.args import flag, parse
from vicuna.errors import UserError, run
from vicuna.model.config import linear_layers

ROOT = Path(__file__).resolve().parent.parent
VOCAB = 1800
GROUPS = {"7B": 128, "tiny": 32}
ALLOWED = 0.25  # of a block


@dataclass
class MemoryFlags:
    """What is measured, and where."""

    folder: str = flag(".", "folder on a disk with room for 6 GB")
    shape: Literal["7B", "tiny"] = flag("7B", "size of the blocks")
    blocks: list[str] = flag(["2", "4"], "numbers of blocks")
    nsamples: int = flag(4, "rows that they are quantised on")
    seqlen: int = flag(128, "tokens of a row")
    out: str = flag("", "JSON file for the figures")


def main(flags: MemoryFlags) -> None:
    """Measure each, and compare."""
    peaks, seconds = {}, {}
    config = SHAPES[flags.shape]
    config.vocab_size = VOCAB
    for count in map(int, flags.blocks):
        config.num_hidden_layers = count
        with tempfile.TemporaryDirectory(prefix="quantise-memory-", dir=flags.folder) as folder:
            base = Path(folder) / "base"
            make_base(base, config, one_file=True)
            peaks[count], seconds[count] = measure(base, flags)
        print(f"{count} blocks: peak {peaks[count] / 2**30:.2f} GiB, {seconds[count]:.0f} s", flush=True)
    block = sum(columns * rows for columns, rows in linear_layers(config).values()) * 2 // config.num_hidden_layers
    few, many = min(peaks), max(peaks)
    growth = (peaks[many] - peaks[few]) / max(1, many - few)
    print(f"a block has {block / 2**30:.2f} GiB in float16; the peak grows by {growth / 2**30:+.3f} GiB for each more")
    if flags.out:
        facts = {
            "shape": flags.shape, "peaks": peaks, "seconds": seconds, "block": block, "growth": growth,
            "nsamples": flags.nsamples, "seqlen": flags.seqlen, "commit": commit(),
            "date": str(datetime.now(UTC).date()),
            "versions": {name: version(name) for name in ("torch", "transformers", "gptqmodel")},
        }  # fmt: skip
        Path(flags.out).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    if growth > ALLOWED * block:
        raise UserError(f"the peak grows by {growth / 2**30:.2f} GiB a block: the blocks are not quantised one by one.")


def measure(base: Path, flags: MemoryFlags) -> tuple[int, float]:
    """Quantise in a process of its own: its peak, in bytes, and how long it took."""
    text = ROOT / "sample/text/knowledge.txt"
    words = [base, text, "--wbits", 4, "--groupsize", GROUPS[flags.shape], "--save", base.with_name("out")]
    words += ["--nsamples", flags.nsamples, "--seqlen", flags.seqlen]
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, str(ROOT / "tools/quant_llama.py"), *map(str, words)])
    peak = Peak(process.pid)
    if process.wait():
        raise UserError(f"tools/quant_llama.py failed on {base}.")
    return peak.stop(), time.perf_counter() - begin


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, MemoryFlags)))
