"""What the tests of files of questions share: a file of them, and how it is answered, in this process or in another."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.starting import Started
from vicuna.answer.flags import DecodingFlags, PredictFlags, ServeFlags
from vicuna.answer.prediction import answer_files
from vicuna.files.row_lines import FACTS
from vicuna.model.flags import ModelFlags

SHORT = {"max_new_tokens": 10, "min_new_tokens": 4}
COUNT = 14
# Sends itself a signal, or waits for ever.
AT_A_BATCH = """
import os, runpy, signal, sys, threading
import torch
does, batch = sys.argv[1], int(sys.argv[2])
begun = []

def look(module, args, output):
    if isinstance(module, torch.nn.Embedding) and args[0].shape[-1] > 1:
        begun.append(1)
        if len(begun) == batch and does == "wait":
            threading.Event().wait()
        elif len(begun) == batch:
            os.kill(os.getpid(), getattr(signal, does))

torch.nn.modules.module.register_module_forward_hook(look)
sys.argv = sys.argv[3:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def questions(file: Path, count: int = COUNT) -> Path:
    """Questions of several lengths in any order, every second one with a response."""
    rows = [
        {"id": f"x{n}", "instruction": f"{n} 请说说春天的花。" * (1 + n * 5 % 7), "output": "好。" if n % 2 else ""}
        for n in range(count)
    ]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def predict(base: Path, data: Path | list[Path], output: Path, lora: object = "", **more: object) -> list[dict]:
    """Answer the file in this process; the lines there are then."""
    paths = [str(path) for path in (data if isinstance(data, list) else [data])]
    decoding = {name: more.pop(name) for name in list(more) if name in DecodingFlags.__dataclass_fields__}
    reading = {name: more.pop(name) for name in list(more) if name in PredictFlags.__dataclass_fields__}
    model = {name: more.pop(name) for name in list(more) if name in ModelFlags.__dataclass_fields__}
    answer_files(
        ModelFlags(**{"model_path": str(base), "bits": 32, **model}),
        str(lora),
        ServeFlags(**more),
        DecodingFlags(**{**SHORT, **decoding}),
        PredictFlags(data_path=paths, output_path=str(output), **{"micro_batch": 4, **reading}),
    )
    return lines_of(output)


def lines_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def facts_of(file: Path) -> dict:
    return json.loads(Path(f"{file}{FACTS}").read_text(encoding="utf-8"))


def words(base: Path, data: Path, output: Path, *more: object) -> list[str]:
    flags = ["--model_path", base, "--bits", 32, "--data_path", data, "--output_path", output, "--micro_batch", 4]
    short = [word for name, value in SHORT.items() for word in (f"--{name}", value)]
    return ["generate.py", *map(str, [*flags, *short, *more])]


def started(does: str, argv: list[str], batch: int = 3) -> subprocess.Popen:
    """The program in a process of its own, which does something at the first token of a batch; see `AT_A_BATCH`."""
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", AT_A_BATCH, does, str(batch), *argv]
    return Started(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environ)
