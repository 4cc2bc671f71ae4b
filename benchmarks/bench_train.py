"""Training speed beside LLaMA-Factory and the recipe of alpaca-lora: the same records and base, in turn, on the CPU.

    python benchmarks/bench_train.py --json train.json       # needs a network once, for the environments of the others
    python benchmarks/bench_train.py --prepare               # makes those and the records, and times nothing
    python benchmarks/bench_train.py --quick --json train.json    # the ratios of --json in about 12 minutes
    python benchmarks/bench_train.py --only ours --against HEAD~1
    python benchmarks/bench_train.py --only ours compiled    # with --torch_compile, but for its first pass
    python benchmarks/bench_train.py --only ours --smoke     # tiny, to see that it works

Prints medians of real tokens per second (padding is none), what ours is of the others', and the share of what matrix
products alone reach on this machine, by operations really executed. Run it with nothing else running.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matrix_ceiling import ceilings, executed  # benchmarks/matrix_ceiling.py
from provenance import provenance  # benchmarks/provenance.py

from vicuna.args import at_least, flag, parse
from vicuna.errors import UserError, run

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
OURS, FACTORY, RECIPE, BEFORE = "ours", "llamafactory", "alpaca_lora", "against"
COMPILED = "compiled"  # ours with --torch_compile
PASSES = 3  # of that one over the records: in the first, which is not counted, kernels are made
SIDES = (OURS, FACTORY, RECIPE, COMPILED)
CUTOFF = 256
# What the packages of another side are; torch's own of the CPU build where pip is told so (PIP_EXTRA_INDEX_URL).
PACKAGES = {
    FACTORY: ["torch==2.13.0", "llamafactory==0.9.5"],
    RECIPE: ["torch==2.13.0", "transformers==5.23.0", "peft==0.21.2", "accelerate==1.15.0", "datasets==5.2.0"],
}
# These come as builds for CUDA, which fail beside torch's for the CPU; LLaMA-Factory imports the second by name alone.
UNUSED, STUB = ["torchvision", "torchaudio"], "torchaudio"
INSTRUCTION = (
    "你是一名经验丰富的临床医生。请根据下面病人的描述，结合循证医学的知识，给出专业、准确、易懂的回答，必要时提醒病人及时就医，"
    "不要编造不存在的药物或检查。"
)


APART = "apart"  # plain texts, which have BOS in common: ours and --against alone


@dataclass(frozen=True)
class Case:
    """Records, how many a step takes, and the precision."""

    name: str
    records: str
    total_batch: int
    precision: str


CASES = [
    Case("fp32_128", "plain", 128, "fp32"),
    Case("bf16_128", "plain", 128, "bf16"),
    Case("fp32_4", "plain", 4, "fp32"),
    Case("bf16_4", "plain", 4, "bf16"),
    Case("shared_fp32", "shared", 128, "fp32"),
    Case("shared_bf16", "shared", 128, "bf16"),
    Case("apart_fp32", APART, 128, "fp32"),
    Case("apart_bf16", APART, 128, "bf16"),
]
# Names of ratios in the file of --json, where they are not SIDE_CASE.
SPELT = {
    "alpaca_lora_fp32_128": "alpaca_lora_fp32",
    "alpaca_lora_bf16_128": "alpaca_lora_bf16",
    "llamafactory_shared_fp32": "shared_llamafactory_fp32",
    "llamafactory_shared_bf16": "shared_llamafactory_bf16",
    "against_shared_fp32": "shared_against_fp32",
    "against_shared_bf16": "shared_against_bf16",
    "alpaca_lora_shared_fp32": "shared_alpaca_lora_fp32",
    "alpaca_lora_shared_bf16": "shared_alpaca_lora_bf16",
}


AS_PUBLISHED = "alpaca_lora_fp32_by_bf16"


@dataclass
class BenchFlags:
    """What runs, on what, and where."""

    output_path: str = flag("outs/bench_train", "folder for environments, base, records and runs")
    data_path: str = flag("", "records; default carbonz0's beside the checkout, else the sample's")
    tokenizer: str = flag("", "folder with a tokenizer.model; default LLaMA's beside the checkout, else of the samples")
    only: list[str] = flag([OURS, FACTORY, RECIPE], f"sides to run, of {', '.join(SIDES)}")
    cases: list[str] = flag([case.name for case in CASES], "cases to run")
    against: str = flag("", "a commit of this project that runs as a side of its own")
    rounds: int = flag(3, "runs of each side and case; they take turns")
    rows: int = flag(512, "records")
    micro_batch: int = flag(4, "records that are taken at once, by every side")
    threads: int = flag(2, "of the CPU, OMP_NUM_THREADS")
    json: str = flag("", "file for the figures and the ratios")
    quick: bool = flag(False, "128 records, two rounds, and of the cases and sides those that the ratios need most")
    prepare: bool = flag(False, "make environments, base and records, and stop")
    smoke: bool = flag(False, "a tiny base and few records: whether it works, no figure")

    def __post_init__(self) -> None:
        for name in ("rounds", "rows", "micro_batch", "threads"):
            at_least(f"--{name}", getattr(self, name), 1)
        for name, known in (("only", SIDES), ("cases", [case.name for case in CASES])):
            if odd := [one for one in getattr(self, name) if one not in known]:
                raise UserError(f"--{name} {odd[0]} is not known; expected some of {', '.join(known)}.")
        if OURS not in self.only:
            raise UserError(f"--only {' '.join(self.only)} compares nothing with ours: add ours.")
        if self.quick:
            self.rows, self.rounds = min(self.rows, 128), min(self.rounds, 2)
            self.cases = [name for name in self.cases if name != "fp32_4"]
        if self.smoke:
            self.rows, self.rounds = min(self.rows, 24), 1


@dataclass
class Bench:
    """The sides, and what they run on.

    Attributes:
        pythons: side in an environment of its own -> its interpreter; tokens: records -> real tokens of all rows.
    """

    flags: BenchFlags
    pythons: dict[str, Path] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = Path(self.flags.output_path).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.base = self.folder / ("tiny" if self.flags.smoke else "base")
        self.before = self.folder / "against"

    def prepare(self) -> None:
        """Everything that is not timed."""
        from random_base import make_base  # benchmarks/random_base.py

        for side in self.flags.only:
            if side in PACKAGES:
                self.pythons[side] = self.environment(side)
        if self.flags.against:
            shutil.rmtree(self.before, ignore_errors=True)
            self.call(["git", "clone", "-q", "--shared", ROOT, self.before])
            self.call(["git", "-C", self.before, "checkout", "-q", "--detach", commit_of(self.flags.against)])
        if not (self.base / "config.json").is_file():
            beside = SHARED / "tokenizers" / "llama"
            known = self.flags.tokenizer or (str(beside) if beside.is_dir() and not self.flags.smoke else "")
            make_base(self.base, *((64, 2) if self.flags.smoke else (512, 8)), 512, 1800, known)
        for kind in ("plain", "shared", APART):
            self.write_records(kind)

    def environment(self, side: str) -> Path:
        """The interpreter of an environment with a side's packages."""
        folder = self.folder / f"env_{side}"
        python = folder / "bin" / "python"
        done = folder / "packages.json"
        if done.is_file() and json.loads(done.read_text(encoding="utf-8")) == PACKAGES[side]:
            return python
        self.call([sys.executable, "-m", "venv", "--clear", folder])
        self.call([python, "-m", "pip", "install", "-q", *PACKAGES[side], "sentencepiece", "protobuf"])
        self.call([python, "-m", "pip", "uninstall", "-q", "-y", *UNUSED])
        where = subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True)
        stub = Path(where.strip()) / STUB
        stub.mkdir(exist_ok=True)
        (stub / "__init__.py").touch()
        done.write_text(json.dumps(PACKAGES[side]), encoding="utf-8")
        return python

    def write_records(self, kind: str) -> None:
        """The records as Alpaca has them, and tokenised, in the order of the file."""
        from vicuna.data.examples import tokenise
        from vicuna.data.records import read_records
        from vicuna.prompt.tokenizer import TextTokenizer

        beside = SHARED / "instruct" / "carbonz0" / "zh-data-part-00.json"
        real = beside.is_file() and not self.flags.smoke
        found = self.flags.data_path or str(beside if real else ROOT / "sample/instruct/data_sample.jsonl")
        records = read_records(found, "instruct", skip_bad_rows=True)
        rows = []
        for dialogue in list(records.dialogues[i] for i in range(min(self.flags.rows, len(records.dialogues)))):
            asked, answer = dialogue[-2]["content"], dialogue[-1]["content"]
            row = {"instruction": asked, "input": "", "output": answer}
            shared = {"instruction": INSTRUCTION, "input": asked[:20], "output": answer[:40]}
            rows.append({"shared": shared, APART: {"text": answer}}.get(kind, row))
        (self.folder / f"{kind}.json").write_text(json.dumps(rows, ensure_ascii=False, indent=0), encoding="utf-8")
        template = template_of(kind)
        own = read_records(str(self.folder / f"{kind}.json"), template)
        tokenised = tokenise(TextTokenizer(self.base), own, range(len(rows)), template, CUTOFF)
        self.tokens[kind] = sum(tokenised.lengths)
        ids = [{name: row[name] for name in ("input_ids", "labels")} for row in tokenised.rows]
        (self.folder / f"{kind}_ids.json").write_text("\n".join(map(json.dumps, ids)), encoding="utf-8")
        about = {name: {"file_name": f"{name}.json"} for name in ("plain", "shared")}
        (self.folder / "dataset_info.json").write_text(json.dumps(about), encoding="utf-8")

    def call(self, words: list[Any], env: dict[str, str] | None = None, cwd: Path = ROOT) -> None:
        """Run something; what it says goes to a log.

        Raises:
            UserError: it failed.
        """
        with (self.folder / "log.txt").open("ab") as log:
            log.write(f"\n$ {' '.join(map(str, words))}\n".encode())
            log.flush()
            whole = {**os.environ, "OMP_NUM_THREADS": str(self.flags.threads), **(env or {})}
            done = subprocess.run(
                list(map(str, words)), cwd=cwd, env=whole, stdout=log, stderr=subprocess.STDOUT, check=False
            )
        if done.returncode:
            raise UserError(f"{words[0]} ended with status {done.returncode}: see {self.folder / 'log.txt'}.")

    def speed(self, side: str, case: Case) -> float:
        """Real tokens per second of a pass over the records, by the Trainer's clock: without the start."""
        output = self.folder / f"run_{side}_{case.name}"
        shutil.rmtree(output, ignore_errors=True)
        steps = -(-self.flags.rows // case.total_batch)
        if side in (OURS, COMPILED, BEFORE):
            where = self.before if side == BEFORE else ROOT
            command = self.our_command(case, output, PASSES * steps if side == COMPILED else steps)
            command += ["--torch_compile", True] if side == COMPILED else []
            self.call(command, {"PYTHONPATH": str(where), "HF_HUB_OFFLINE": "1"}, where)
        elif side == RECIPE:
            settings = [steps, case.total_batch, self.flags.micro_batch, CUTOFF, case.precision]
            program = ROOT / "benchmarks" / "alpaca_lora_recipe.py"
            rows = self.folder / f"{case.records}_ids.json"
            self.call([self.pythons[side], program, self.base, rows, output, *settings])
        else:
            settings = self.folder / "llamafactory.yaml"  # JSON is YAML; its own way to read .json fails in 0.9.5
            settings.write_text(json.dumps(self.factory_settings(case, output, steps)), encoding="utf-8")
            program = self.pythons[side].parent / "llamafactory-cli"
            self.call([program, "train", settings], {"DISABLE_VERSION_CHECK": "1"})
        history = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
        seconds = next(entry["train_runtime"] for entry in history if "train_runtime" in entry)
        tokens = self.tokens[case.records]
        if side != COMPILED:
            return tokens / seconds
        log = (output / "session.log").read_text(encoding="utf-8")
        first = next(speed for step, speed in re.findall(r"step (\d+)/.* (\d+) tokens/s", log) if int(step) == steps)
        return (PASSES - 1) * tokens / (seconds - tokens / int(first))

    def our_command(self, case: Case, output: Path, steps: int) -> list[Any]:
        return [
            *(sys.executable, "finetune.py", "--model_path", self.base, "--output_path", output),
            *("--data_path", self.folder / f"{case.records}.json", "--prompt_type", template_of(case.records)),
            *("--cutoff_len", CUTOFF, "--max_steps", steps),
            *("--total_batch", case.total_batch, "--micro_batch", self.flags.micro_batch, "--lora_r", 8),
            *("--lora_dropout", 0, "--warmup_steps", 1),
            *("--bits", 16 if case.precision == "bf16" else 32, "--gradient_checkpointing", False),
            *("--test_size", 0, "--eval_steps", 0, "--save_steps", 0, "--log_steps", 1),
        ]

    def factory_settings(self, case: Case, output: Path, steps: int) -> dict[str, Any]:
        return {
            "model_name_or_path": str(self.base), "stage": "sft", "do_train": True, "finetuning_type": "lora",
            "lora_target": "q_proj,v_proj", "lora_rank": 8, "lora_dropout": 0.0, "template": "alpaca",
            "dataset_dir": str(self.folder), "dataset": case.records, "cutoff_len": CUTOFF, "overwrite_cache": True,
            "output_dir": str(output), "per_device_train_batch_size": min(self.flags.micro_batch, case.total_batch),
            "gradient_accumulation_steps": max(1, case.total_batch // self.flags.micro_batch), "max_steps": steps,
            "learning_rate": 3e-4, "bf16": case.precision == "bf16", "use_cpu": True, "logging_steps": 1,
            "save_strategy": "no", "report_to": "none", "disable_gradient_checkpointing": True,
        }  # fmt: skip


def template_of(records: str) -> str:
    """--prompt_type of ours for some records."""
    return "text" if records == APART else "instruct"


def commit_of(name: str) -> str:
    """The commit that a name means in this checkout.

    Raises:
        UserError: there is none.
    """
    asked = ["git", "-C", str(ROOT), "rev-parse", "--verify", "-q", f"{name}^{{commit}}"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"--against {name} is no commit of {ROOT}.")
    return done.stdout.strip()


def turns(flags: BenchFlags) -> Iterator[tuple[Case, str]]:
    """Every case and side of a round, one after the other."""
    sides = [*flags.only, *([BEFORE] if flags.against else [])]
    for case in (case for case in CASES if case.name in flags.cases):
        for side in sides:
            if case.records == APART and (side not in (OURS, BEFORE) or not flags.against):
                continue
            if not (flags.quick and side == RECIPE and case.name not in ("fp32_128", "bf16_128")):
                yield case, side


def main(flags: BenchFlags) -> None:
    bench = Bench(flags)
    bench.prepare()
    if flags.prepare:
        return
    speeds: dict[str, dict[str, list[float]]] = {}
    for number in range(flags.rounds):
        for case, side in turns(flags):
            found = bench.speed(side, case)
            print(f"round {number + 1}  {case.name}  {side}  {found:.0f} tokens/s", file=sys.stderr, flush=True)
            speeds.setdefault(case.name, {}).setdefault(side, []).append(found)
    report(bench, speeds)


def report(bench: Bench, speeds: dict[str, dict[str, list[float]]]) -> None:
    """Print the table, write the file."""
    flags = bench.flags
    peaks, ratios, shares = ceilings(flags.threads), {}, {}
    known_medians: dict[str, dict[str, float]] = {}
    print("| case | side | tokens/s, median | all | ours is | of the ceiling |\n|---|---|---|---|---|---|")
    for case in (case for case in CASES if case.name in speeds):
        medians = {side: statistics.median(found) for side, found in speeds[case.name].items()}
        known_medians[case.name] = medians
        output = bench.folder / f"run_{OURS}_{case.name}"
        shares[case.name] = medians[OURS] * executed(output) / peaks[case.precision]
        for side, median in medians.items():
            ratio = medians[OURS] / median
            if side != OURS:
                ratios[SPELT.get(f"{side}_{case.name}", f"{side}_{case.name}")] = round(ratio, 3)
            every = " ".join(f"{one:.0f}" for one in speeds[case.name][side])
            share = f"{shares[case.name]:.0%}" if side == OURS else ""
            print(f"| {case.name} | {side} | {median:.0f} | {every} | {ratio:.2f} | {share} |")
    as_published = known_medians.get("fp32_128", {}).get(RECIPE)
    if as_published and "bf16_128" in known_medians:  # the recipe as published knows no bfloat16
        ratios[AS_PUBLISHED] = round(known_medians["bf16_128"][OURS] / as_published, 3)
        print(f"\nours in bfloat16 is {ratios[AS_PUBLISHED]:.2f} of the recipe in float32")
    known = provenance("benchmarks/bench_train.py")
    print(json.dumps({**known, "ceilings": peaks}, ensure_ascii=False))
    if flags.json:
        figures = {**known, "smoke": flags.smoke, "ceilings": peaks, "speeds": speeds}
        text = json.dumps({**figures, "of_the_ceiling": shares, "ratios": ratios}, ensure_ascii=False, indent=1)
        Path(flags.json).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, BenchFlags)))
