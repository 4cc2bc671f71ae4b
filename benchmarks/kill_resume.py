"""Kill training runs with SIGKILL at many points, resume them, and compare them with runs that were never stopped.

    python benchmarks/kill_resume.py --jobs 2 --out kill_resume.json

Trains a tiny base on the CPU, with dropout, accumulation and evaluation, over three epochs. Two thirds of the kills
come at random moments between the first step and the end, spread over them; a third inside saves, as soon as one file
of a checkpoint is there: each file in turn, also under the name it has before it is moved into place. A run is killed
several times and resumed each time with --resume_from_checkpoint auto. Once it ends, its adapters have to be those of
the straight run byte by byte, its steps.jsonl value by value, and its folder has to hold the same files, every
checkpoint whole. Prints a table for benchmarks/RESULTS.md; exit status 1 if anything differs.
"""

import json
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from killable_run import ROOT, KillableRun, Point  # benchmarks/killable_run.py
from provenance import provenance  # benchmarks/provenance.py
from tqdm import tqdm

from vicuna.args import flag, parse
from vicuna.errors import UserError, run

RECORDS, SAVE_STEPS = 28, 2
ADAPTERS = ("adapter_model.safetensors", "best/adapter_model.safetensors")
MOVED = ("run_args.json", "manifest.json")  # written under a name with a dot in front first
KILLS_A_RUN, TRIES = 8, 3
DIFFERENCES = ("not recognised", "differing adapters", "differing records", "files left, missing or torn")
COLUMNS = ("points", "inside saves", "torn", "whole", "missed", "runs", *DIFFERENCES)


@dataclass
class KillFlags:
    """What to kill, and how often."""

    points: int = flag(72, "kills over all settings; every third is inside a save")
    bits: list[int] = flag([4, 8, 32], "precisions of the base")
    processes: list[int] = flag([1, 2], "processes of a run; more than 1 with the last of --bits only")
    seed: int = flag(0, "fixes the moments and the saves")
    jobs: int = flag(1, "settings that run at the same time")
    model_path: str = flag("", "base to train on; default: a tiny one is made")
    out: str = flag("", "JSON file for the figures and every kill")

    def __post_init__(self) -> None:
        if min(self.points, self.jobs, *self.processes) < 1:
            raise UserError("--points, --jobs and --processes must be 1 or more.")


@dataclass
class Setting:
    """One precision on a number of processes: its straight run, its killed runs, and what came of them."""

    bits: int
    processes: int
    base: Path
    data: Path
    folder: Path
    bar: tqdm
    kills: list[Point] = field(default_factory=list)
    counts: Counter = field(default_factory=Counter)
    odd: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.bits} bits, {self.processes} process{'es' if self.processes > 1 else ''}"

    @property
    def straight(self) -> Path:
        return self.folder / "straight"

    def command(self, output: Path) -> list[str]:
        launcher = ["-m", "vicuna.train.launch", "--standalone", f"--nproc_per_node={self.processes}"]
        words = ["finetune.py", "--bits", self.bits, "--num_epoch", 3, "--total_batch", 5, "--micro_batch", 2]
        words += ["--lora_dropout", 0.05, "--learning_rate", 1e-2, "--warmup_steps", 2, "--log_steps", 4]
        words += ["--test_size", 5, "--eval_steps", 3, "--save_steps", SAVE_STEPS, "--save_total_limit", 3]
        words += ["--model_path", self.base, "--data_path", self.data, "--output_path", output]
        words += ["--resume_from_checkpoint", "auto"]
        return [sys.executable, *(launcher if self.processes > 1 else []), *map(str, words)]

    def measure(self, points: int, saves_before: int, seed: int) -> dict[str, Any]:
        """A row of the table; `saves_before` kills inside saves belong to the settings before this one."""
        pending = self.draw(points, saves_before, random.Random(f"{seed}, {self.name}"))
        runs = 0
        while pending:
            runs += 1
            chain = sorted(pending[:KILLS_A_RUN], key=lambda point: (point.lines, point.after_s))
            self.kill_and_resume(self.folder / f"killed-{runs}", chain)
            pending = [point for point in pending if not point.state and point.tries < TRIES]
        states = Counter(point.state for point in self.kills)
        return {
            "setting": self.name,
            "points": len(self.kills),
            "inside saves": sum(bool(point.file) for point in self.kills),
            "torn": states["torn"],
            "whole": states["whole"],
            "missed": points - len(self.kills),
            "runs": runs,
            "not recognised": sum(not point.recognised for point in self.kills),
            "differing adapters": self.counts["adapters"],
            "differing records": self.counts["records"],
            "files left, missing or torn": len(self.odd),
            "odd": self.odd,
            "kills": [asdict(point) for point in self.kills],
        }

    def time_straight(self) -> list[float]:
        """Make the run that is not killed; when it began, when each line of its record came, when it ended, in s."""
        times = [time.monotonic()]
        with KillableRun(self.command(self.straight), self.straight) as going:
            while not going.ended:
                times += [time.monotonic()] * (going.lines() + 1 - len(times))
                time.sleep(0.002)
            going.wait()
        return [*times, time.monotonic()]

    def draw(self, points: int, saves_before: int, draw: random.Random) -> list[Point]:
        """The kills: a moment in each of equal parts of the straight run's record, and saves, their files in turn."""
        times = self.time_straight()
        steps = [line["step"] for line in record(self.straight)]
        saved = [step for step in range(1, steps[-1] + 1) if step % SAVE_STEPS == 0 or step == steps[-1]]
        files = file_order(self.straight / f"checkpoint-{steps[-1]}")
        draw.shuffle(saved)
        found = []
        for i in range(points // 3):
            # 5 has no divisor in common with the number of files, so it comes to each of them.
            step, file = saved[i % len(saved)], files[(saves_before + i) * 5 % len(files)]
            found.append(Point(sum(one <= step for one in steps), step=step, file=file))
        moments = points - len(found)
        for i in range(moments):
            line, part = divmod(1 + (i + draw.random()) / moments * len(steps), 1)
            found.append(Point(int(line), part * (times[int(line) + 1] - times[int(line)])))
        draw.shuffle(found)
        return found

    def kill_and_resume(self, output: Path, chain: list[Point]) -> None:
        """Kill one run at every point of `chain`, which are in order; let it end, and compare."""
        last = None
        for point in [*chain, None]:
            with KillableRun(self.command(output), output) as going:
                members = going.reach(point) if point else []
                if members:
                    going.kill(members)
                else:
                    going.wait()
            if last:
                last.recognised = last.words in going.words()
            if not members:
                break
            self.look(output, point)
            last = point
        if point:  # the run ended before it could be killed
            point.tries += 1
        self.compare(output)

    def look(self, output: Path, point: Point) -> None:
        """Note in what state the newest checkpoint is: the manifest, which is put in place last, decides."""
        from vicuna.train.checkpoint import MANIFEST, list_checkpoints

        newest = next(iter(list_checkpoints(output)), None)
        if newest is None:
            point.state, point.words = "none", "has no whole checkpoint to resume"
        elif (newest / MANIFEST).exists():
            point.state, point.words = "whole", f"resumes {newest} at step"
        else:
            point.state, point.words = "torn", f"{newest.name} is passed over"
        point.files = len(list(newest.iterdir())) if newest else 0
        self.kills.append(point)
        self.bar.update()

    def compare(self, output: Path) -> None:
        """Count what differs from the straight run."""
        from vicuna.train.checkpoint import list_checkpoints, torn_reason

        same = all((self.straight / name).read_bytes() == (output / name).read_bytes() for name in ADAPTERS)
        self.counts["adapters"] += not same
        pairs = zip_longest(record(self.straight), record(output))
        self.counts["records"] += sum(one != other for one, other in pairs)
        names = [{str(path.relative_to(top)) for path in top.rglob("*")} for top in (self.straight, output)]
        self.odd += [f"{output.name}/{name}" for name in sorted(names[0] ^ names[1])]
        self.odd += [f"{path}: {problem}" for path in list_checkpoints(output) if (problem := torn_reason(path))]


def record(output: Path) -> list[dict[str, Any]]:
    """Every step's loss, gradient norm, learning rate and records; every evaluation's loss."""
    return [json.loads(line) for line in (output / "steps.jsonl").read_text(encoding="utf-8").splitlines()]


def file_order(checkpoint: Path) -> list[str]:
    """The names that come up in a save, in order."""
    files = sorted(checkpoint.iterdir(), key=lambda file: file.stat().st_mtime_ns)
    return [name for file in files for name in ([f".{file.name}"] if file.name in MOVED else []) + [file.name]]


def main(flags: KillFlags) -> None:
    """Measure every setting, print the table."""
    facts = provenance("benchmarks/kill_resume.py")
    pairs = [(bits, count) for count in flags.processes for bits in (flags.bits if count == 1 else flags.bits[-1:])]
    with tempfile.TemporaryDirectory() as aside, tqdm(total=flags.points, unit="kill", disable=None) as bar:
        base, data = Path(flags.model_path or f"{aside}/base").resolve(), Path(aside) / "records.jsonl"
        if not flags.model_path:
            make_base(base)
        lines = (ROOT / "sample/instruct/data_sample.jsonl").read_text(encoding="utf-8").splitlines()
        data.write_text("\n".join(lines[:RECORDS]) + "\n", encoding="utf-8")
        work, saves = [], 0
        for i, (bits, count) in enumerate(pairs):
            points = flags.points // len(pairs) + (i < flags.points % len(pairs))
            folder = Path(aside) / f"{bits}-{count}"
            folder.mkdir()
            work.append((Setting(bits, count, base, data, folder, bar), points, saves))
            saves += points // 3
        with ThreadPoolExecutor(flags.jobs) as pool:
            rows = list(pool.map(lambda job: job[0].measure(*job[1:], flags.seed), work))
    if flags.out:
        text = json.dumps({**facts, "settings": rows}, indent=2, ensure_ascii=False)
        Path(flags.out).write_text(text + "\n", encoding="utf-8")
    print("\n".join(report(facts, rows)))
    if any(row[name] for row in rows for name in DIFFERENCES):
        odd = "; ".join(name for row in rows for name in row["odd"])
        raise UserError(f"killed runs did not end as the straight ones; the table says where. {odd}")


def make_base(folder: Path) -> None:
    """A LLaMA of 2 blocks and hidden size 32, hardly trained."""
    sizes = ["--hidden_size", "32", "--num_layers", "2", "--vocab_size", "1800", "--steps", "20"]
    command = [sys.executable, "tools/make_tiny_llama.py", "--output_path", str(folder), *sizes]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        raise UserError(f"{shlex.join(command)} failed: {''.join(done.stderr.strip().splitlines()[-1:])}")


def report(facts: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    """Lines of Markdown for benchmarks/RESULTS.md."""
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    lines = [f"`{facts['command']}` on {facts['machine']}. {versions}; commit {facts['commit']}, {facts['date']}.", ""]
    lines += [f"| setting | {' | '.join(COLUMNS)} |", f"|{'---|' * (1 + len(COLUMNS))}"]
    total = {"setting": "together", **{name: sum(row[name] for row in rows) for name in COLUMNS}}
    lines += [f"| {' | '.join(str(row[name]) for name in ('setting', *COLUMNS))} |" for row in [*rows, total]]
    files = Counter(kill["file"] for row in rows for kill in row["kills"] if kill["file"])
    return [*lines, "", "Kills by the file that triggered them: " + ", ".join(f"{k} {n}" for k, n in files.items())]


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, KillFlags)))
