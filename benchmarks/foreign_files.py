"""Seconds and memory of opening a base whose files are odd, beside those of the good one.

    python benchmarks/foreign_files.py --model_path models/tiny-llama-zh

Each is opened in a process of its own, as every program opens a base before it reads a weight. The odd values lie at
the bounds of what is read, or just above: nothing here is larger than what a program refuses. Exits with 1 where one
takes more than 2 s or 200 MB more than the good one. Run it where nothing else runs.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vicuna.args import flag, parse
from vicuna.errors import UserError, run

MOST_SECONDS, MOST_MB = 2.0, 200
OPEN = """
import resource, sys, time
from vicuna.errors import UserError
from vicuna.model.base import check_base
begin = time.perf_counter()
try:
    check_base(sys.argv[1])
    said = "opened"
except UserError as error:
    said = str(error)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(time.perf_counter() - begin, peak, said[:90].split(chr(10))[0], sep=chr(9))
"""


@dataclass
class ForeignFlags:
    """Which base."""

    model_path: str = flag("", "a small base in Hugging Face format with its weights in model.safetensors")

    def __post_init__(self) -> None:
        if not (Path(self.model_path) / "model.safetensors").is_file():
            raise UserError(f"--model_path {self.model_path or 'is empty'}; expected a base with a model.safetensors.")


def edited(name: str, **fields: Any) -> Callable[[Path], None]:
    """What gives a JSON file of a folder other fields."""

    def edit(folder: Path) -> None:
        file = folder / name
        settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        file.write_text(json.dumps(settings | fields), encoding="utf-8")

    return edit


def written(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content, encoding="utf-8") and None


ODD: dict[str, Callable[[Path], None]] = {
    "the good one": lambda folder: None,
    "10,000 layers": edited("config.json", num_hidden_layers=10_000),
    "65,536 labels": edited("config.json", num_labels=65_536),
    "65,537 labels": edited("config.json", num_labels=65_537),
    "4,096 experts": edited("config.json", num_experts=4096, num_local_experts=4096),
    "a hidden size of 65,536": edited("config.json", hidden_size=65_536, num_attention_heads=1024),
    "a vocabulary of 2**24": edited("config.json", vocab_size=1 << 24),
    "2**31 positions": edited("config.json", max_position_embeddings=1 << 31),
    "a factor that is no number": edited("config.json", rope_scaling={"type": "linear", "factor": float("nan")}),
    "lists in lists, 65 deep": written("config.json", '{"a":' + "[" * 65 + "]" * 65 + "}"),
    "a config of 4 MB": written("config.json", '{"a": [' + "0," * (2 << 20) + "0]}"),
    "an index of 50,000 names": edited(
        "model.safetensors.index.json", weight_map={f"layers.{i}.weight": "model.safetensors" for i in range(50_000)}
    ),
    "10,001 ids that end": edited("generation_config.json", eos_token_id=[2] * 10_001),
}  # fmt: skip


def main(flags: ForeignFlags) -> None:
    good: tuple[float, float] | None = None
    failed = False
    with tempfile.TemporaryDirectory() as place:
        for name, spoil in ODD.items():
            folder = Path(shutil.copytree(flags.model_path, Path(place) / name.replace(" ", "-")))
            spoil(folder)
            done = subprocess.run(
                [sys.executable, "-c", OPEN, str(folder)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise UserError(f"{name}: {done.stderr.strip().splitlines()[-1]}")
            seconds, megabytes, said = done.stdout.splitlines()[-1].split("\t", 2)
            found = float(seconds), float(megabytes)
            good = good or found
            above = found[0] - good[0] > MOST_SECONDS or found[1] - good[1] > MOST_MB
            failed |= above
            print(f"| {name} | {found[0]:.2f} s | {found[1]:,.0f} MB | {said.replace(place, '')} |{' ABOVE' * above}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, ForeignFlags)))
