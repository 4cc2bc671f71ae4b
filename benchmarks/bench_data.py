"""Time and memory until a large file of records is tokenised, beside LLaMA-Factory's own way for the same file.

    python benchmarks/bench_data.py --json data.json                       # needs a network once, for LLaMA-Factory
    python benchmarks/bench_data.py --only ours --rows 70000 --against HEAD~1
    python benchmarks/bench_data.py --only ours --smoke                    # tiny, to see that it works

Makes a file by its seed, of records in the shape of BELLE's and Guanaco's, and tokenises it with an empty cache and
once more with what the first time left: ours by finetune.py --plan_only, which ends where training would begin. Prints
seconds, processor seconds, and peak anonymous memory: of a process and all that it began together (RssAnon, sampled),
for pages of mapped files can be dropped by the system at any time. Exit status 1 if ours takes more than 2 GiB, or 10
seconds the second time. Run it with nothing else running. Linux only.
"""

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench_train import BEFORE, CUTOFF, FACTORY, OURS, ROOT, SHARED, Bench, BenchFlags  # benchmarks/bench_train.py
from provenance import provenance  # benchmarks/provenance.py

from vicuna.args import at_least, flag, parse
from vicuna.data.records import read_records
from vicuna.errors import UserError, run

MOST_MEMORY, MOST_SECONDS_AGAIN = 2 << 30, 10
INTERVAL_S = 0.05
TIMES = ("first", "again")
# What LLaMA-Factory does before it loads a model, by its own functions.
FACTORY_PROGRAM = """
import json
import sys
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer
if __name__ == "__main__":
    model_args, data_args, training_args, _, _ = get_train_args(json.load(open(sys.argv[1], encoding="utf-8")))
    module = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
    found = get_dataset(template, model_args, data_args, training_args, stage="sft", **module)
    print(len(found["train_dataset"]), "rows")
"""


@dataclass
class DataFlags:
    """What is tokenised, and by whom."""

    output_path: str = flag("outs/bench_train", "folder for environments, base, records and caches")
    tokenizer: str = flag("", "folder with a tokenizer.model; default LLaMA's beside the checkout, else of the samples")
    only: list[str] = flag([OURS, FACTORY], "sides to run")
    against: str = flag("", "a commit of this project that runs as a side of its own")
    rows: int = flag(700_000, "records")
    seed: int = flag(0, "of the records")
    rounds: int = flag(1, "runs of each side; they take turns")
    json: str = flag("", "file for the figures and the ratios")
    smoke: bool = flag(False, "a tiny base and few records: whether it works, no figure")

    def __post_init__(self) -> None:
        for name in ("rounds", "rows"):
            at_least(f"--{name}", getattr(self, name), 1)
        if odd := [one for one in self.only if one not in (OURS, FACTORY)]:
            raise UserError(f"--only {odd[0]} is not known; expected some of {OURS}, {FACTORY}.")
        if not sys.platform.startswith("linux"):
            raise UserError("RssAnon is read from /proc: this benchmark needs Linux.")
        if self.smoke:
            self.rows = min(self.rows, 200)


@dataclass(frozen=True)
class Measured:
    """A run: seconds by the clock, seconds of all processors, and peak anonymous memory in bytes."""

    seconds: float
    processor: float
    peak: int


def write_rows(file: Path, count: int, seed: int) -> None:
    """Records of one question and one answer, a third of them with an input, as Guanaco's are; of real sentences."""
    texts = [str(ROOT / "sample" / name) for name in ("instruct/data_sample.jsonl", "text/stories.txt")]
    beside = SHARED / "instruct" / "carbonz0" / "zh-data-part-00.json"
    texts += [str(beside)] if beside.is_file() else []
    said = [
        one["content"] for text in texts for messages in read_records(text, "text", True).dialogues for one in messages
    ]
    sentences = [one for text in said for one in text.replace("\n", "。").split("。") if 3 < len(one.strip()) < 80]
    draw = random.Random(seed)
    with file.open("w", encoding="utf-8") as opened:
        for number in range(count):
            is_guanaco = number % 7 > 4  # 200,000 of 700,000
            length = draw.randint(8, 40) if is_guanaco else draw.randint(1, 14)
            row = {
                "instruction": draw.choice(sentences),
                "input": "。".join(draw.choices(sentences, k=3)) if is_guanaco else "",
                "output": "。".join(draw.choices(sentences, k=length)) + "。",
            }
            opened.write(json.dumps(row, ensure_ascii=False) + "\n")


def tree(pid: int) -> list[int]:
    """A process and all that it began, and those began."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += map(int, task.read_text(encoding="ascii").split())
            except OSError:  # it has ended
                continue
    return found


def anonymous_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:")), 0)


def measure(command: list[Any], env: dict[str, str], cwd: Path, log: Path) -> Measured:
    """Run something.

    Raises:
        UserError: it failed.
    """
    peak, done = 0, threading.Event()
    with log.open("ab") as said:
        said.write(f"\n$ {' '.join(map(str, command))}\n".encode())
        said.flush()
        before, start = os.times(), time.perf_counter()
        process = subprocess.Popen(
            list(map(str, command)), cwd=cwd, env={**os.environ, **env}, stdout=said, stderr=subprocess.STDOUT
        )

        def watch() -> None:
            nonlocal peak
            while not done.wait(INTERVAL_S):
                peak = max(peak, sum(map(anonymous_bytes, tree(process.pid))))

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            status = process.wait()
        finally:
            process.kill()
            done.set()
            watching.join()
    seconds, after = time.perf_counter() - start, os.times()
    if status:
        raise UserError(f"{command[0]} ended with status {status}: see {log}.")
    processor = sum(getattr(after, name) - getattr(before, name) for name in ("children_user", "children_system"))
    return Measured(round(seconds, 2), round(processor, 2), peak)


class DataBench:
    """The sides, and what they run on."""

    def __init__(self, flags: DataFlags):
        sides = BenchFlags(
            flags.output_path, tokenizer=flags.tokenizer, against=flags.against, smoke=flags.smoke,
            only=list(dict.fromkeys([OURS, *flags.only])),
        )  # fmt: skip
        self.flags, self.bench = flags, Bench(sides)
        self.bench.prepare()
        self.folder = self.bench.folder
        self.file = self.folder / f"rows_{flags.rows}_{flags.seed}.jsonl"
        write_rows(self.file, flags.rows, flags.seed)
        about = {"rows": {"file_name": self.file.name}}
        (self.folder / "dataset_info.json").write_text(json.dumps(about), encoding="utf-8")

    def run(self, side: str) -> dict[str, Measured]:
        """The first time with an empty cache, and again."""
        cache = self.folder / f"cache_{side}"
        shutil.rmtree(cache, ignore_errors=True)
        found = {}
        for which in TIMES:
            if side == FACTORY:
                settings = self.folder / "llamafactory_data.json"
                settings.write_text(json.dumps(self.factory_settings()), encoding="utf-8")
                program = self.folder / "llamafactory_data.py"
                program.write_text(FACTORY_PROGRAM, encoding="utf-8")
                command = [self.bench.pythons[side], program, settings]
                env = {"HF_DATASETS_CACHE": str(cache), "DISABLE_VERSION_CHECK": "1"}
                where = self.folder
            else:
                where = ROOT if side == OURS else self.bench.before
                command = [
                    *(sys.executable, "finetune.py", "--model_path", self.bench.base, "--data_path", self.file),
                    *("--prompt_type", "instruct", "--cutoff_len", CUTOFF, "--cache_path", cache, "--plan_only"),
                    *("--output_path", self.folder / "run_data"),
                ]
                env = {"PYTHONPATH": str(where), "HF_HUB_OFFLINE": "1"}
            found[which] = measure(command, env, where, self.folder / "log.txt")
        shutil.rmtree(cache, ignore_errors=True)
        return found

    def factory_settings(self) -> dict[str, Any]:
        return {
            "model_name_or_path": str(self.bench.base), "stage": "sft", "do_train": True, "finetuning_type": "lora",
            "template": "alpaca", "dataset_dir": str(self.folder), "dataset": "rows", "cutoff_len": CUTOFF,
            "preprocessing_num_workers": len(os.sched_getaffinity(0)), "output_dir": str(self.folder / "run_data"),
            "use_cpu": True, "report_to": "none",
        }  # fmt: skip


def main(flags: DataFlags) -> None:
    bench = DataBench(flags)
    sides = [*flags.only, *([BEFORE] if flags.against else [])]
    found: dict[str, list[dict[str, Measured]]] = {side: [] for side in sides}
    for _ in range(flags.rounds):
        for side in sides:
            found[side].append(bench.run(side))
    medians = {
        f"{side}_{which}": Measured(
            *(statistics.median(getattr(one[which], name) for one in runs) for name in ("seconds", "processor", "peak"))
        )
        for side, runs in found.items()
        for which in TIMES
    }
    print("| side | start | seconds | processor seconds | peak anonymous memory, MiB |\n|---|---|---|---|---|")
    for side in sides:
        for which in TIMES:
            one = medians[f"{side}_{which}"]
            print(f"| {side} | {which} | {one.seconds:.1f} | {one.processor:.1f} | {one.peak / 2**20:.0f} |")
    ratios = {
        f"data_{side}_{which}": round(medians[f"{side}_{which}"].seconds / medians[f"{OURS}_{which}"].seconds, 3)
        for side in sides
        for which in TIMES
        if side != OURS and OURS in sides
    }
    known = {**provenance("benchmarks/bench_data.py"), "rows": flags.rows, "bytes": bench.file.stat().st_size}
    print(json.dumps(known, ensure_ascii=False))
    if flags.json:
        every = {
            side: [{which: asdict(one) for which, one in run.items()} for run in runs] for side, runs in found.items()
        }
        text = json.dumps(
            {**known, "smoke": flags.smoke, "runs": every, "ratios": ratios}, ensure_ascii=False, indent=1
        )
        Path(flags.json).write_text(text + "\n", encoding="utf-8")
    bench.file.unlink()
    ours = [one for run in found.get(OURS, []) for one in run.items()]
    if any(one.peak > MOST_MEMORY or (which == "again" and one.seconds > MOST_SECONDS_AGAIN) for which, one in ours):
        sys.exit(1)


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, DataFlags)))
