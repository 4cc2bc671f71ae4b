"""Measure memory and time of merging an adapter into a 7B-shaped base, beside the naive way.

    python benchmarks/merge_memory.py --folder big-disk --out merge_memory.json
    python benchmarks/merge_memory.py --folder big-disk --shape tiny          # the same program, in a minute

Makes a base of random float16 weights (7B: 13 GB, in one file and in files of 2 GiB) and a LoRA adapter of rank 8 on
all seven linear layers. Then every way runs as a process of its own: tools/merge_lora.py to .safetensors and to .pth,
tools/export_gguf.py to three types of GGUF (needs scripts/install_cpp.sh), and what one writes without them: load,
merge_and_unload, save. Peak memory is anonymous memory (RssAnon, sampled): pages of mapped files can be dropped by the
system at any time, and do not count. Exit status 1 if a merge takes more than twice its largest tensor plus 1 GiB, or
a way fails. Needs 60 GB of free disk at 7B, and for the last way 16 GB of memory; what it makes is deleted, each as
soon as it was measured. Linux only.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from provenance import commit  # benchmarks/provenance.py
from safetensors.torch import save_file
from transformers import LlamaConfig

from vicuna.args import flag, parse
from vicuna.errors import UserError, run
from vicuna.files.tensors import create_model, create_tensor_file, meta_tensor
from vicuna.model.config import meta_model

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ("torch", "transformers", "peft", "safetensors", "gguf", "llama-cpp-python")
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SHAPES = {
    "7B": LlamaConfig(vocab_size=32000, tie_word_embeddings=False),
    "tiny": LlamaConfig(
        vocab_size=32000, hidden_size=512, intermediate_size=1376, num_hidden_layers=12, num_attention_heads=8,
        tie_word_embeddings=False,
    ),
}  # fmt: skip
FREE_DISK = {"7B": 60 * 10**9, "tiny": 2 * 10**9}
INTERVAL_S = 0.02
# What the tool replaces, and what Chinese-Alpaca's users were told to do.
NAIVE = """
import sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float16, trust_remote_code=False)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
"""


@dataclass
class MemoryFlags:
    """What is measured, and where."""

    folder: str = flag(".", "folder on a disk with room for three models")
    shape: Literal["7B", "tiny"] = flag("7B", "size of the base")
    ways: list[str] = flag([], "only these; default: all that the table below has")
    naive: bool = flag(True, "also load, merge_and_unload, save, which takes the memory of the whole model")
    out: str = flag("", "JSON file for the figures")


@dataclass(frozen=True)
class Measurement:
    """One way: peak anonymous memory and time. `bound` is what the peak may be, 0 for no bound."""

    way: str
    peak: int
    seconds: float
    bound: int
    status: int

    @property
    def kept(self) -> bool:
        return self.status == 0 and (not self.bound or self.peak <= self.bound)


class Peak:
    """Samples the anonymous memory of a process, in bytes, until it ends or `stop` is called."""

    def __init__(self, pid: int | str = "self"):
        self._status = Path(f"/proc/{pid}/status")
        self._stop = threading.Event()
        self.bytes = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.is_set() and (now := anonymous_bytes(self._status)) is not None:
            self.bytes = max(self.bytes, now)
            self._stop.wait(INTERVAL_S)

    def stop(self) -> int:
        """The highest value that was seen."""
        self._stop.set()
        self._thread.join()
        return max(self.bytes, anonymous_bytes(self._status) or 0)


def anonymous_bytes(status: Path) -> int | None:
    """RssAnon from a /proc/PID/status, in bytes; None once the process is gone."""
    try:
        lines = status.read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), None)


def make_base(folder: Path, config: LlamaConfig, one_file: bool) -> None:
    """Random float16 weights in the files of a Hugging Face folder, and a small tokenizer."""
    folder.mkdir()
    shapes = {name: tensor.shape for name, tensor in meta_model(config).state_dict().items()}
    plan = {name: meta_tensor(shape, torch.float16) for name, shape in shapes.items()}
    tensors = create_tensor_file(folder / "model.safetensors", plan) if one_file else create_model(folder, plan)
    torch.manual_seed(0)
    noise = torch.empty(1 << 22, dtype=torch.float16).normal_(std=0.02)
    for tensor in tensors.values():
        flat = tensor.view(-1)
        for start in range(0, len(flat), len(noise)):
            flat[start : start + len(noise)] = noise[: len(flat) - start]
    config.dtype = torch.float16
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    sys.path.insert(0, str(ROOT / "tools"))
    import make_tiny_llama

    (folder / "tokenizer.model").write_bytes(make_tiny_llama.train_tokenizer(make_tiny_llama.corpus(), 1800))


def make_adapter(folder: Path, config: LlamaConfig) -> None:
    """Rank 8 on all seven linear layers, of random values."""
    lora = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=MODULES)
    model = get_peft_model(meta_model(config), lora)
    shapes = {name: tensor.shape for name, tensor in get_peft_model_state_dict(model).items()}
    folder.mkdir()
    save_file(
        {name: torch.randn(*shape) * 0.01 for name, shape in shapes.items()}, folder / "adapter_model.safetensors"
    )
    lora.save_pretrained(folder)


def measure(way: str, command: list[object], bound: int) -> Measurement:
    """Run a command and watch its memory."""
    print(f"{way} …", file=sys.stderr)
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, stdout=subprocess.DEVNULL)
    peak = Peak(process.pid)
    status = process.wait()
    return Measurement(way, peak.stop(), time.monotonic() - began, bound, status)


def list_commands(base: Path, adapter: Path, out: Path, one_file: bool, naive: bool) -> dict[str, list[object]]:
    """Name -> command, of all that is measured on a base; what begins with "merge" has a bound."""
    merge = ["tools/merge_lora.py", "--model_path", base, "--lora_path", adapter, "--out_path", out]
    merge += ["--prompt_type", "chat"]
    if one_file:
        return {
            "merge, one file to files of 2 GiB": merge,
            "merge, one file to one .pth": [*merge, "--format", "pth", "--num_shards", 1],
        }
    found = {
        "merge, files of 2 GiB to files of 2 GiB": merge,
        "merge, files of 2 GiB to two .pth": [*merge, "--format", "pth", "--num_shards", 2],
    }
    for kind in ("f16", "q8_0", "q4_k_m"):
        export = ["tools/export_gguf.py", "--model_path", base, "--out_path", out.with_suffix(".gguf"), "--type", kind]
        found[f"export, files of 2 GiB to GGUF {kind}"] = export
    if naive:
        found["naive: load, merge_and_unload, save"] = ["-c", NAIVE, base, adapter, out]
    return found


def measure_all(work: Path, flags: MemoryFlags) -> list[Measurement]:
    """Every way, one after the other; whatever one of them writes is deleted before the next."""
    config = SHAPES[flags.shape]
    largest = max(tensor.numel() for tensor in meta_model(config).state_dict().values()) * torch.float16.itemsize
    base, adapter, out = work / "base", work / "adapter", work / "out"
    make_adapter(adapter, config)
    found: list[Measurement] = []
    for one_file in (False, True):
        make_base(base, config, one_file)
        for way, command in list_commands(base, adapter, out, one_file, flags.naive).items():
            if flags.ways and way not in flags.ways:
                continue
            found.append(measure(way, command, 2 * largest + 2**30 if way.startswith("merge") else 0))
            shutil.rmtree(out, ignore_errors=True)
            out.with_suffix(".gguf").unlink(missing_ok=True)
        shutil.rmtree(base)
    return found


def main(flags: MemoryFlags) -> None:
    """Make, measure, print a table for RESULTS.md."""
    if not sys.platform.startswith("linux"):
        raise UserError("RssAnon is read from /proc: this benchmark needs Linux.")
    free = shutil.disk_usage(flags.folder).free
    if free < FREE_DISK[flags.shape]:
        raise UserError(
            f"--folder {flags.folder} has {free / 1e9:.0f} GB free, and --shape {flags.shape} needs "
            f"{FREE_DISK[flags.shape] / 1e9:.0f} GB: name a folder on another disk."
        )
    with tempfile.TemporaryDirectory(prefix="merge-memory-", dir=flags.folder) as work:
        found = measure_all(Path(work), flags)
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    print(f"\n{flags.shape}, {versions}, commit {commit()}, {datetime.now(UTC):%Y-%m-%d}\n")
    print("| way | peak anonymous memory, GiB | bound, GiB | seconds |\n|---|---|---|---|")
    for one in found:
        bound = f"{one.bound / 2**30:.2f}" if one.bound else "–"
        failed = f" (ended with status {one.status})" if one.status else ""
        print(f"| {one.way}{failed} | {one.peak / 2**30:.2f} | {bound} | {one.seconds:.0f} |")
    if flags.out:
        facts = {"shape": flags.shape, "versions": versions, "ways": [asdict(one) for one in found]}
        Path(flags.out).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    if not all(one.kept for one in found):
        sys.exit(1)


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, MemoryFlags)))
