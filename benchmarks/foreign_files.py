"""Seconds and memory of opening odd files beside the good one: bases, adapters, GGUF files, rows, saved chats.

    python benchmarks/foreign_files.py --model_path models/tiny-llama-zh --lora_path lora-Vicuna

Each is opened in a process of its own, as every program opens it before it reads a weight. The odd values lie at the
bounds of what is read, or just above: nothing here is larger than what a program refuses. Exits with 1 where one takes
more than 2 s or 200 MB more than the good one of its kind. Run it where nothing else runs.
"""

import json
import shutil
import struct
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
from pathlib import Path
from vicuna.errors import UserError
{reader}
place = Path(sys.argv[1])
begin = time.perf_counter()
try:
    {call}
    said = "opened"
except UserError as error:
    said = str(error)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(time.perf_counter() - begin, peak, said[:90].split(chr(10))[0], sep=chr(9))
"""


@dataclass
class ForeignFlags:
    """Which base, and which adapter."""

    model_path: str = flag("models/tiny-llama-zh", "a small base in Hugging Face format, weights in model.safetensors")
    lora_path: str = flag("lora-Vicuna", "an adapter on it")

    def __post_init__(self) -> None:
        for name, path, file in (
            ("model_path", self.model_path, "model.safetensors"),
            ("lora_path", self.lora_path, "adapter_model.safetensors"),
        ):
            if not (Path(path) / file).is_file():
                raise UserError(f"--{name} {path or 'is empty'}; expected a folder with {file}.")


Spoil = Callable[[Path], object]


def edited(name: str, **fields: Any) -> Spoil:
    """What gives a JSON file of a folder other fields."""

    def edit(folder: Path) -> None:
        file = folder / name
        settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        file.write_text(json.dumps(settings | fields), encoding="utf-8")

    return edit


def written(name: str, content: str) -> Spoil:
    return lambda folder: (folder / name).write_text(content, encoding="utf-8")


def patched(at: int, content: bytes) -> Spoil:
    """What puts bytes into a file; -1 cuts the file in half instead."""

    def patch(file: Path) -> None:
        text = file.read_bytes()
        file.write_bytes(text[: len(text) // 2] if at < 0 else text[:at] + content + text[at + len(content) :])

    return patch


def lines(*rows: object) -> Spoil:
    return lambda file: file.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


BASES: dict[str, Spoil] = {
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
    "a tokenizer that pads to 2**30": edited(
        "tokenizer.json", padding={"strategy": {"Fixed": 1 << 30}, "direction": "Right", "pad_to_multiple_of": None,
                                   "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"}
    ),
    "a tokenizer that makes of a letter 2**20": edited(
        "tokenizer.json", normalizer={"type": "Replace", "pattern": {"String": "a"}, "content": "a" * (1 << 20)}
    ),
}  # fmt: skip
ADAPTERS: dict[str, Spoil] = {
    "a rank of 2**24": edited("adapter_config.json", r=1 << 24),
    "a pattern that goes back": edited("adapter_config.json", target_modules="(.*.*)*x"),
    "50,000 patterns of ranks": edited("adapter_config.json", rank_pattern={f"a{i}": 8 for i in range(50_000)}),
    "100,000 layers": edited("adapter_config.json", layers_to_transform=list(range(100_000))),
    "every module whole": edited("adapter_config.json", modules_to_save=["s"]),
    "an infinite alpha": edited("adapter_config.json", lora_alpha=float("inf")),
    "lists in lists, 65 deep": written("adapter_config.json", '{"a":' + "[" * 65 + "]" * 65 + "}"),
    "a run record of 4 MB": written("run_args.json", '{"a": [' + "0," * (2 << 20) + "0]}"),
}
GGUFS: dict[str, Spoil] = {
    "2**60 tensors": patched(8, struct.pack("<Q", 1 << 60)),
    "2**60 keys": patched(16, struct.pack("<Q", 1 << 60)),
    "the first key of 2**60 letters": patched(24, struct.pack("<Q", 1 << 60)),
    "half of it": patched(-1, b""),
}
GOOD_ROW = json.dumps({"instruction": "1+1=?", "output": "2"})
ROWS: dict[str, Spoil] = {
    "a row of 3,000 brackets in brackets": lines(GOOD_ROW, '{"a":' + "[" * 3000 + "]" * 3000 + "}", GOOD_ROW),
    "a row of MOSS with 80,000 blanks": lines(
        GOOD_ROW, json.dumps({"conversation_id": 1, "plain_text": f"[Human]: a{' ' * 80_000}b<eoh> [MOSS]: c<eoa>"})
    ),
    "a number of 100,000 digits": lines(GOOD_ROW, f'{{"instruction": "a", "output": {"1" * 100_000}}}'),
    "100,000 braces that open": lines(GOOD_ROW, "{ x " * 100_000),
}
CHATS: dict[str, Spoil] = {
    "lists in lists, 100,000 deep": lines("[" * 100_000),
    "2 MB of turns": lines(json.dumps({"history": [{"input": "", "output": ""}] * 60_000})),
    "ways within ways, 61 deep": lines(
        '{"history": [{"input": "", "output": "", "others": [' * 61 + "]}]}" * 61
    ),
}  # fmt: skip


@dataclass
class Kind:
    """A kind of file that comes from elsewhere.

    Attributes:
        reader, call: Python that opens what lies at `place`; make: writes a good one.
    """

    name: str
    reader: str
    call: str
    make: Spoil
    odd: dict[str, Spoil]


def kinds(flags: ForeignFlags) -> list[Kind]:
    """All of them, with a good one of each."""
    adapter = "from vicuna.model.adapter_files import read_adapter\nfrom vicuna.model.adapter_kinds import Use\n"
    adapter += "from vicuna.model.found import run_args"
    chat = json.dumps({"history": [{"input": "1+1=?", "output": "2"}]})
    return [
        Kind("base", "from vicuna.model.base import check_base", "check_base(str(place))",
             lambda place: shutil.copytree(flags.model_path, place), BASES),
        Kind("adapter", adapter, "read_adapter(place, Use.FLOAT), run_args(place)",
             lambda place: shutil.copytree(flags.lora_path, place), ADAPTERS),
        Kind("GGUF file", "from vicuna.gguf_file.reader import read_gguf", "read_gguf(str(place), '--model_path')",
             lambda place: exported(flags.model_path, place), GGUFS),
        Kind("rows", "from vicuna.data.records import read_records", "read_records([str(place)], 'instruct', True)",
             lines(*[GOOD_ROW] * 10), ROWS),
        Kind("saved chat", "from vicuna.pages.saved_chats import parse_last_chat",
             "parse_last_chat(place.read_text(encoding='utf-8'))", lines(chat), CHATS),
    ]  # fmt: skip


def exported(model_path: str, file: Path) -> None:
    """Write a base as a GGUF file, with what comes with the package gguf alone."""
    tool = [sys.executable, str(Path(__file__).resolve().parent.parent / "tools/export_gguf.py")]
    words = ["--model_path", model_path, "--type", "f16", "--prompt_type", "instruct", "--out_path", str(file)]
    done = subprocess.run([*tool, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{model_path} can not be exported: {done.stderr.strip().splitlines()[-1]}")


def measured(kind: Kind, place: Path) -> tuple[float, float, str]:
    """Seconds and MB of opening what lies at `place`, and what was said."""
    program = OPEN.format(reader=kind.reader, call=kind.call)
    done = subprocess.run([sys.executable, "-c", program, str(place)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{kind.name} {place.name}: {done.stderr.strip().splitlines()[-1]}")
    seconds, megabytes, said = done.stdout.splitlines()[-1].split("\t", 2)
    return float(seconds), float(megabytes), said.replace(str(place.parent), "")


def main(flags: ForeignFlags) -> None:
    """Open all, print a line for each."""
    failed = False
    for kind in kinds(flags):
        with tempfile.TemporaryDirectory() as folder:
            good = Path(folder) / ("good.gguf" if kind.odd is GGUFS else "good.jsonl")
            kind.make(good)
            least = measured(kind, good)
            for name, spoil in {"the good one": lambda place: None, **kind.odd}.items():
                place = good.with_stem(name.replace(" ", "-").replace("**", "^"))
                shutil.copytree(good, place) if good.is_dir() else shutil.copyfile(good, place)
                spoil(place)
                seconds, megabytes, said = measured(kind, place)
                above = seconds - least[0] > MOST_SECONDS or megabytes - least[1] > MOST_MB
                failed |= above
                line = f"| {kind.name} | {name} | {seconds:.2f} s | {megabytes:,.0f} MB | {said} |{' ABOVE' * above}"
                print(line, flush=True)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, ForeignFlags)))
