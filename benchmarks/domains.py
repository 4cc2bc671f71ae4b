"""Answer the paper's questions about domains on a base, by the project's own programs, in tables.

    python benchmarks/domains.py                          # the embedded base; about 20 minutes on two cores
    python benchmarks/domains.py --output_path /data/domains --model_path /data/llama-7b

One prompt, several or none; begun from scratch, or after one or three epochs of general records; whether a legal model
is a lawyer in general role play. All is written to --output_path, where the next call finds what is done.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from provenance import provenance  # benchmarks/provenance.py

from vicuna.args import flag, parse
from vicuna.errors import UserError, run

ROOT = Path(__file__).resolve().parent.parent
GENERAL, READING, ROLE_PLAY = (
    "sample/instruct/data_sample.jsonl", "sample/general/probe.jsonl", "sample/general/role_play.jsonl"
)  # fmt: skip
HELD_OUT = 10  # every tenth general record, whose words the base has read; no adapter learns it
SHARE = 0.2  # of the general records, where some are mixed in
# How a set is asked, --prompts, and whether general records are mixed in.
WAYS = (("none", "none", False), ("one", "one", False), (f"one, general x {SHARE}", "one", True))
TABLES = ("prompts", "starts", "roles")
# The role of a lawyer where nobody asked for one.
LAWYER = "作为一名律师"
AS_LAWYER = re.compile(r"作为(?:一名|一位|一个)?(?:专业的)?律师")
LISTED = re.compile(r"1[.．、]")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "run_args.json")


@dataclass
class DomainsFlags:
    """Where, and how long."""

    output_path: str = flag("outs/domains", "folder for data, adapters, results and answers")
    model_path: str = flag("models/tiny-llama-zh", "the base")
    learning_rate: float = flag(2e-3, "of the domain's runs; the general ones have 3e-3")
    general_epochs: int = flag(3, "epochs of the general run")
    domain_epochs: int = flag(7, "epochs of each medical run")
    legal_epochs: int = flag(24, "epochs of each legal run; with the paper's 6 the embedded base has no role yet")
    total_batch: int = flag(8, "records a step")
    max_new_tokens: int = flag(48, "longest answer")
    only: list[str] = flag([*TABLES], "tables to make")

    def __post_init__(self) -> None:
        if odd := [name for name in self.only if name not in TABLES]:
            raise UserError(f"--only {odd[0]} is no table; expected some of {', '.join(TABLES)}.")


class Domains:
    """The runs, each made once."""

    def __init__(self, flags: DomainsFlags):
        self.flags, self.folder = flags, Path(flags.output_path)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.general_train, self.general_test = (self.folder / f"general_{part}.jsonl" for part in ("train", "test"))
        parts: tuple[list[str], list[str]] = ([], [])
        for number, line in enumerate((ROOT / GENERAL).read_text(encoding="utf-8").splitlines()):
            row = {**json.loads(line), "category": "general"}
            parts[number % HELD_OUT == 0].append(json.dumps(row, ensure_ascii=False) + "\n")
        for file, lines in zip((self.general_train, self.general_test), parts, strict=True):
            file.write_text("".join(lines), encoding="utf-8")

    def call(self, *argv: object, env: dict[str, str] | None = None, shell: bool = False) -> None:
        """Run a program of the project; what it says goes to a log.

        Raises:
            UserError: it failed.
        """
        words = [*(["bash"] if shell else [sys.executable]), *map(str, argv)]
        with (self.folder / "log.txt").open("ab") as log:
            log.write(f"\n$ {' '.join(words)}\n".encode())
            log.flush()
            whole = {**os.environ, "PYTHON": sys.executable, "NUM_PROCESSES": "1", **(env or {})}
            done = subprocess.run(words, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=whole, check=False)
        if done.returncode:
            raise UserError(f"{argv[0]} ended with status {done.returncode}: see {self.folder / 'log.txt'}.")

    def general(self, prompt_type: str) -> Path:
        """A general adapter, with a checkpoint of each epoch."""
        output = self.folder / f"general_{prompt_type}"
        if not (output / "adapter_config.json").exists():
            epochs = self.flags.general_epochs
            settings = self.settings(3e-3, epochs, steps_of(self.general_train, self.flags.total_batch))
            self.call("finetune.py", "--data_path", self.general_train, "--prompt_type", prompt_type,
                      "--output_path", output, *settings)  # fmt: skip
        return output

    def settings(self, rate: float, epochs: int, save_steps: int) -> list[object]:
        small = ["--bits", 32, "--gradient_checkpointing", False, "--micro_batch", 8, "--cutoff_len", 256]
        modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        return [
            *("--model_path", self.flags.model_path, *small, "--total_batch", self.flags.total_batch),
            *("--learning_rate", rate, "--num_epoch", epochs, "--warmup_steps", 3, "--test_size", 0),
            *("--eval_steps", 0, "--save_steps", save_steps, "--lora_target_modules", *modules),
        ]

    def after(self, epochs: int, prompt_type: str = "instruct") -> Path:
        """The general adapter after some epochs, alone: another run begins from it with a schedule of its own."""
        checkpoint = checkpoints(self.general(prompt_type))[epochs - 1]
        alone = self.folder / f"{checkpoint.parent.name}_{checkpoint.name}"
        if not alone.exists():
            alone.mkdir()
            for name in ADAPTER_FILES:
                shutil.copyfile(checkpoint / name, alone / name)
        return alone

    def data(self, domain: str, prompts: str, part: str) -> Path:
        """Records of a domain, asked in one of the ways."""
        file = self.folder / f"{domain}_{prompts}_{part}.jsonl"
        if not file.exists():
            raw = {
                "medical": ["--from", "cmedqa2", "--to", "instruct", "--split", part, "--data_path", "sample/medical"],
                "legal": ["--from", "lawyer-llama", "--to", "chat", "--data_path",
                          f"sample/legal/counsel{'_held_out' if part == 'test' else ''}.json"],
            }  # fmt: skip
            self.call("tools/convert_data.py", *raw[domain], "--prompts", prompts, "--category", domain,
                      "--output_path", file)  # fmt: skip
        return file

    def as_lawyer(self) -> Path:
        """The words of a lawyer as the answer to each role play: how near a model is to them, where it says others."""
        file = self.folder / "as_lawyer.jsonl"
        rows = [json.loads(line) for line in (ROOT / ROLE_PLAY).read_text(encoding="utf-8").splitlines()]
        lines = [json.dumps({**row, "output": LAWYER, "category": "role"}, ensure_ascii=False) for row in rows]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return file

    def domain(self, name: str, domain: str, prompts: str, start: Path | None, mixed: bool = False) -> Path:
        """A run on a domain by its launcher, or from scratch; a checkpoint of each epoch where nothing is mixed in."""
        output, data = self.folder / name, self.data(domain, prompts, "train")
        if (output / "adapter_config.json").exists():
            return output
        epochs = self.flags.legal_epochs if domain == "legal" else self.flags.domain_epochs
        settings = self.settings(
            self.flags.learning_rate, epochs, 0 if mixed else steps_of(data, self.flags.total_batch)
        )
        if start is None:
            self.call("finetune.py", "--data_path", data, "--output_path", output, *settings)
        else:
            where = {"lora_checkpoint": start, "DATA_PATH": data, "OUTPUT_PATH": output}
            env = {key: str(Path(value).resolve()) for key, value in where.items()}
            env["GENERAL_PATH"] = f"{self.general_train.resolve()}:{SHARE}" if mixed else ""
            self.call(f"scripts/finetune_{domain}.sh", *settings, env=env, shell=True)
        return output

    def losses(self, name: str, adapters: Sequence[object], data: Sequence[object], prompt_type: str) -> list[dict]:
        """The loss of each adapter by category, as tools/evaluate.py measures it; - is the base alone."""
        output = self.folder / f"loss_{name}"
        models = ["--model_path", self.flags.model_path, "--lora_path", *adapters, "--bits", 32]
        self.call("tools/evaluate.py", "loss", *models, "--data_path", *data, "--prompt_type", prompt_type,
                  "--output_path", output)  # fmt: skip
        found = json.loads((output / "results.json").read_text(encoding="utf-8"))["models"]
        return [{kind: of["loss"] for kind, of in one["categories"].items()} for one in found]

    def answers(self, adapter: Path, questions: str | Path) -> list[str]:
        """Greedy answers of an adapter to a file of questions."""
        output = self.folder / f"answers_{adapter.name}_{Path(questions).stem}.jsonl"
        if not output.exists() or count_lines(output) < count_lines(ROOT / questions):
            self.call("generate.py", "--model_path", self.flags.model_path, "--lora_path", adapter, "--bits", 32,
                      "--data_path", questions, "--output_path", output, "--max_new_tokens", self.flags.max_new_tokens,
                      "--do_sample", False)  # fmt: skip
        return [json.loads(line)["answer"] for line in output.read_text(encoding="utf-8").splitlines()]


def count_lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def steps_of(data: str | Path, total_batch: int) -> int:
    """Optimizer steps of an epoch."""
    return -(-count_lines(ROOT / data) // total_batch)


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*"), key=lambda one: int(one.name.split("-")[1]))


def at_domain_loss(curve: Sequence[dict[str, float]], domain: str, wanted: float) -> float | None:
    """The general loss where a curve of epochs first comes down to a domain loss, on a line between two of them."""
    for before, after in pairwise(curve):
        high, low = before[domain], after[domain]
        if low <= wanted < high:
            share = (high - wanted) / (high - low)
            return before["general"] + share * (after["general"] - before["general"])
    return curve[0]["general"] if curve[0][domain] <= wanted else None


def main(flags: DomainsFlags) -> None:
    """The runs, and the tables that are wanted."""
    work = Domains(flags)
    facts = provenance("benchmarks/domains.py")
    print(f"`{facts['command']}`: {facts['machine']}, commit {facts['commit']}, {facts['date']}.\n", flush=True)
    for name in flags.only:
        facts[name] = {"prompts": prompt_table, "starts": start_table, "roles": role_table}[name](work)
        print_table(facts[name])
    (work.folder / "domains.json").write_text(json.dumps(facts, ensure_ascii=False, indent=2), encoding="utf-8")


def prompt_table(work: Domains) -> list[dict[str, Any]]:
    """One prompt, several, none, or one with general records among them; all begin after one general epoch."""
    start, rows = work.after(1), []
    for name, prompts, mixed in [("mixed", "mixed", False), *WAYS]:
        run_name = f"medical_{prompts}{'_general' if mixed else ''}"
        adapter = work.domain(run_name, "medical", prompts, start, mixed)
        held_out = work.data("medical", prompts, "test")
        data = [held_out, work.general_test, READING]
        before, after = work.losses(run_name, [start, adapter], data, "instruct")
        asked, general = work.answers(adapter, held_out), work.answers(adapter, work.general_test)
        rows.append(
            {
                "prompts": name,
                "medical loss": f"{before['medical']:.3f} to {after['medical']:.3f}",
                **{f"{kind} loss": f"{before[kind]:.3f} to {after[kind]:.3f}" for kind in ("general", "reading")},
                "lists in medical answers": f"{sum(map(is_list, asked))} of {len(asked)}",
                "lists in general answers": f"{sum(map(is_list, general))} of {len(general)}",
            }
        )
    return rows


def is_list(answer: str) -> bool:
    return LISTED.match(answer.strip()) is not None


def start_table(work: Domains) -> list[dict[str, Any]]:
    """Where a domain's run begins: what it keeps of the general ability when it has learnt as much of the domain."""
    epochs_before = work.flags.general_epochs
    starts = {"after 1 epoch": work.after(1), f"after {epochs_before} epochs": work.after(epochs_before)}
    data, curves = [work.data("medical", "one", "test"), work.general_test, READING], {}
    for name, start in {"from scratch": None, **starts}.items():
        run_name = {"from scratch": "medical_scratch", "after 1 epoch": "medical_one"}.get(name, "medical_after_all")
        epochs = checkpoints(work.domain(run_name, "medical", "one", start))
        curves[name] = work.losses(f"{run_name}_epochs", [start or "-", *epochs], data, "instruct")
    # The best that all of them reach.
    wanted = max(min(one["medical"] for one in curve) for curve in curves.values())
    return [
        {
            "begun": name,
            "medical loss": f"{curve[0]['medical']:.3f} to {curve[-1]['medical']:.3f}",
            "general loss": f"{curve[0]['general']:.3f} to {curve[-1]['general']:.3f}",
            f"general loss at medical loss {wanted:.3f}": f"{at_domain_loss(curve, 'medical', wanted):.3f}",
            "by epoch": "; ".join(f"{one['medical']:.2f}/{one['general']:.2f}" for one in curve),
        }
        for name, curve in curves.items()
    ]


def role_table(work: Domains) -> list[dict[str, Any]]:
    """How often a legal model speaks as a lawyer: where it is one, and where it is told to be something else."""
    start, rows = work.after(work.flags.general_epochs, "chat"), []
    for name, prompts, mixed in [("the general model", "", False), *WAYS]:
        run_name = f"legal_{prompts}{'_general' if mixed else ''}"
        adapter = work.domain(run_name, "legal", prompts, start, mixed) if prompts else start
        held_out = work.data("legal", prompts or "one", "test")
        data = [held_out, work.general_test, READING, work.as_lawyer()]
        (loss,) = work.losses(run_name if prompts else "legal_before", [adapter], data, "chat")
        counts = [
            (sum(AS_LAWYER.search(one) is not None for one in said), len(said))
            for said in (work.answers(adapter, questions) for questions in (held_out, ROLE_PLAY, work.general_test))
        ]
        rows.append(
            {
                "prompts": name,
                "legal loss": f"{loss['legal']:.3f}",
                "general loss": f"{loss['general']:.3f}",
                "reading loss": f"{loss['reading']:.3f}",
                f"loss of {LAWYER} in role play": f"{loss['role']:.3f}",
                **{
                    f"as a lawyer in {what}": f"{count} of {of}"
                    for what, (count, of) in zip(("legal answers", "role play", "general answers"), counts, strict=True)
                },
            }
        )
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    heads = list(rows[0])
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    print("\n".join(f"| {' | '.join(str(row[head]) for head in heads)} |" for row in rows), end="\n\n", flush=True)


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, DomainsFlags)))
