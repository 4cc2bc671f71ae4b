"""How long programs take to start: this checkout beside another commit, in turn.

    python benchmarks/bench_start.py --against HEAD~1 --json start.json

Times `--help` of each program, a plan, and a training of one step from the command to its end, on a tiny base and a few
records, where the start is nearly all of it. Prints medians in seconds, and what this checkout's are of the other's.
Run it with nothing else running.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_train import BEFORE, OURS, ROOT, Bench, BenchFlags  # benchmarks/bench_train.py
from provenance import provenance  # benchmarks/provenance.py

from vicuna.args import at_least, flag, parse
from vicuna.errors import UserError, run

PROGRAMS = ("finetune.py", "finetune_chat.py", "generate.py", "chat.py", "tools/merge_lora.py", "tools/export_gguf.py")


@dataclass
class StartFlags:
    """What is started, and how often."""

    output_path: str = flag("outs/bench_start", "folder for base, records and runs")
    tokenizer: str = flag("", "folder with a tokenizer.model; default that of the samples")
    against: str = flag("", "a commit of this project that runs as a side of its own")
    rounds: int = flag(5, "starts of each; the sides take turns")
    json: str = flag("", "file for the figures and the ratios")

    def __post_init__(self) -> None:
        at_least("--rounds", self.rounds, 1)


def commands(bench: Bench) -> dict[str, list[Any]]:
    """What is started -> its words."""
    train = ["finetune.py", "--model_path", bench.base, "--data_path", bench.folder / "plain.json", "--bits", 32]
    train += ["--test_size", 0, "--eval_steps", 0, "--save_steps", 0, "--max_steps", 1, "--total_batch", 4]
    return {
        **{f"{program} --help": [program, "--help"] for program in PROGRAMS},
        "plan": [*train, "--plan_only", "--output_path", bench.folder / "plan"],
        "one step": [*train, "--output_path", bench.folder / "step"],
    }


def seconds(words: list[Any], where: Path) -> float:
    """From the command to its end.

    Raises:
        UserError: it failed.
    """
    env = {**os.environ, "PYTHONPATH": str(where), "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=where, env=env, capture_output=True, text=True, check=False
    )
    took = time.perf_counter() - start
    if done.returncode:
        raise UserError(f"{words[0]} ended with status {done.returncode} in {where}: {done.stderr.strip()[-500:]}")
    return took


def main(flags: StartFlags) -> None:
    bench = Bench(
        BenchFlags(flags.output_path, tokenizer=flags.tokenizer, against=flags.against, smoke=True, only=[OURS])
    )
    bench.prepare()
    sides = {OURS: ROOT, **({BEFORE: bench.before} if flags.against else {})}
    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(flags.rounds):
        for name, words in commands(bench).items():
            for side, where in sides.items():
                shutil.rmtree(bench.folder / "step", ignore_errors=True)
                found.setdefault(name, {}).setdefault(side, []).append(round(seconds(words, where), 3))
    medians = {name: {side: statistics.median(one) for side, one in times.items()} for name, times in found.items()}
    print("| what | side | seconds, median | all |\n|---|---|---|---|")
    for name, times in found.items():
        for side, each in times.items():
            print(f"| {name} | {side} | {medians[name][side]:.2f} | {' '.join(f'{one:.2f}' for one in each)} |")
    ratios = {name: round(one[OURS] / one[BEFORE], 3) for name, one in medians.items() if flags.against}
    known = provenance("benchmarks/bench_start.py")
    print(json.dumps({**known, "of the other": ratios}, ensure_ascii=False))
    if flags.json:
        text = json.dumps({**known, "seconds": found, "ratios": ratios}, ensure_ascii=False, indent=1)
        Path(flags.json).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, StartFlags)))
