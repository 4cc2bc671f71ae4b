"""Kill merging, exporting, tokenising and saving a chat at many points, and look at what stands and what is left.

    python benchmarks/cut_off.py --points 20 --out cut_off.json

Each is ended by SIGKILL, then by SIGHUP, before the Nth change that it makes to files (tests/killed_at.py counts them,
nothing waits for a time), at points that are spread over all of them, each time in the folder that the time before has
left. After each end what stood before has to stand, byte by byte, and nothing else may have a name that is not hidden,
but what is complete; what the program then makes in that folder when it is let be has to be what it makes in a folder
of its own, and nothing hidden may be left. Each is forked from this process, which has read the libraries. Prints a
table for benchmarks/RESULTS.md; exit status 1 if anything differs.
"""

import hashlib
import json
import os
import runpy
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from provenance import provenance  # benchmarks/provenance.py
from tqdm import tqdm

from vicuna.args import at_least, flag, parse
from vicuna.errors import UserError, run

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
LIBRARIES = ("torch", "transformers", "peft", "datasets", "accelerate", "gguf", "vicuna.export.merged", "vicuna.gguf")
BEFORE = "before.txt"
CHAT = """
import sys
from vicuna.errors import ended_by_signals, run
from vicuna.pages.saved_chats import write_chat

def program():
    with ended_by_signals():
        write_chat(sys.argv[1], "someone", "a talk", "{}\\n" * 1000)

run(program)
"""
SIGNALS = (signal.SIGKILL, signal.SIGHUP)


@dataclass
class CutFlags:
    """What to end, and how often."""

    points: int = flag(20, "points of each program, for each of the two signals")
    only: list[str] = flag([], "names of programs: merge, merge-pth, export, cache, chat; default: all")
    model_path: str = flag("models/tiny-llama-zh", "base")
    lora_path: str = flag("lora-Vicuna", "adapter on it")
    out: str = flag("", "JSON file for the figures")

    def __post_init__(self) -> None:
        at_least("--points", self.points, 1)


@dataclass
class Subject:
    """A program that writes to a folder.

    Attributes:
        argv: of the folder.
    """

    name: str
    argv: Callable[[Path], list[str]]


def subjects(flags: CutFlags, aside: Path) -> list[Subject]:
    """The programs, with the names of the flags that they take."""
    base, lora, tools = str(Path(flags.model_path).resolve()), str(Path(flags.lora_path).resolve()), ROOT / "tools"
    merge = [str(tools / "merge_lora.py"), "--model_path", base, "--lora_path", lora, "--out_path"]
    export = [str(tools / "export_gguf.py"), "--model_path", base, "--type", "f16", "--out_path"]
    rows = str(ROOT / "sample/instruct/data_sample.jsonl")
    plan = [str(ROOT / "finetune.py"), "--model_path", base, "--data_path", rows, "--plan_only", "--output_path"]
    chat = aside / "chat.py"
    chat.write_text(CHAT, encoding="utf-8")
    found = [
        Subject("merge", lambda place: [*merge, str(place / "merged")]),
        Subject("merge-pth", lambda place: [*merge, str(place / "merged"), "--format", "pth"]),
        Subject("export", lambda place: [*export, str(place / "model.gguf")]),
        Subject("cache", lambda place: [*plan, str(aside / "lora"), "--cache_path", str(place)]),
        Subject("chat", lambda place: [str(chat), str(place)]),
    ]
    unknown = set(flags.only) - {one.name for one in found}
    if unknown:
        raise UserError(f"--only {min(unknown)} is unknown; expected {', '.join(one.name for one in found)}.")
    return [one for one in found if not flags.only or one.name in flags.only]


def end_at(argv: list[str], place: Path, nth: int, number: int, counts: Path) -> int:
    """The status of a program that gets a signal before its `nth` change, 0 for none."""
    from tests.killed_at import watch

    sys.stdout.flush()
    if not (child := os.fork()):
        try:
            with open(os.devnull, "r+b") as nothing:
                for descriptor in range(3):
                    os.dup2(nothing.fileno(), descriptor)
            sys.argv = argv
            watch(place, nth, number, counts)
            runpy.run_path(argv[0], run_name="__main__")
        except SystemExit as ending:
            os._exit(ending.code if isinstance(ending.code, int) else ending.code is not None)
        except BaseException:
            os._exit(99)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def contents(place: Path) -> dict[str, str]:
    """Hashes of all files, by their names."""
    files = [file for file in place.rglob("*") if file.is_file()]
    return {str(file.relative_to(place)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def visible(found: dict[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in found.items() if name[0] != "."}


def cut_off(subject: Subject, number: int, points: int, aside: Path, bar: tqdm) -> dict[str, Any]:
    """End a program at its points in one folder, then let it be."""
    alone, place, counts = aside / "alone", aside / "place", aside / "counts"
    for folder in (alone, place):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / BEFORE).write_text("stands", encoding="utf-8")
    counts.unlink(missing_ok=True)
    if end_at(subject.argv(alone), alone, 0, number, counts):
        raise UserError(f"{subject.name} fails by itself: try {' '.join(subject.argv(alone))}")
    changes, whole = len(counts.read_text(encoding="utf-8").splitlines()), contents(alone)
    odd, ended, most = [], 0, 0
    for nth in sorted({1 + step * (changes - 1) // max(points - 1, 1) for step in range(points)}):
        status = end_at(subject.argv(place), place, nth, number, counts)
        bar.update(1)
        ended += status != 0
        found = contents(place)
        most = max(most, sum(path.name[0] == "." for path in place.iterdir()))
        seen = {name.replace("-kept", ""): digest for name, digest in visible(found).items()}
        complete = all(whole.get(name) == digest for name, digest in seen.items()) and BEFORE in seen
        folders = {name.split("/")[0] for name in seen if "/" in name}  # none without all of its files
        if not complete or any(name not in seen for name in whole if name.split("/")[0] in folders):
            odd.append(f"{nth}: {sorted(seen)}")
        if number != signal.SIGKILL and len(found) != len(visible(found)):
            odd.append(f"{nth}: left {sorted(found.keys() - visible(found).keys())}")
        for path in [path for path in place.iterdir() if path.name[0] != "." and path.name != BEFORE]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if end_at(subject.argv(place), place, 0, number, counts) or contents(place) != whole:
        odd.append("the last run differs")
    return {
        "program": subject.name, "signal": signal.Signals(number).name, "changes": changes, "ended": ended,
        "hidden at most": most, "left": sum(path.name[0] == "." for path in place.iterdir()), "odd": odd,
    }  # fmt: skip


def main(flags: CutFlags) -> None:
    """Try all, print the table."""
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
    for library in LIBRARIES:
        import_module(library)
    with tempfile.TemporaryDirectory() as name:
        aside = Path(name)
        chosen = subjects(flags, aside)
        with tqdm(total=len(chosen) * len(SIGNALS) * flags.points, unit="end", disable=None) as bar:
            rows = [cut_off(one, number, flags.points, aside, bar) for one in chosen for number in SIGNALS]
    facts = {**provenance("benchmarks/cut_off.py"), "rows": rows}
    if flags.out:
        Path(flags.out).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    heads = ("program", "signal", "changes", "ended", "hidden at most", "left")
    print("\n".join(["| " + " | ".join(heads) + " | odd |", "|---" * (len(heads) + 1) + "|"]))
    for row in rows:
        print("| " + " | ".join(str(row[head]) for head in heads) + f" | {len(row['odd'])} |")
    if odd := [f"{row['program']} {row['signal']} {one}" for row in rows for one in row["odd"]]:
        raise UserError("; ".join(odd))


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, CutFlags)))
