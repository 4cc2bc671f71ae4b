"""Time LoRA training steps on random weights of LLaMA-7B and 13B shape, and measure their memory.

    bash benchmarks/gpu.sh --out out

Needs a GPU, torch, transformers, peft with accelerate, and bitsandbytes; no model, no data and no network. Prints a
table for benchmarks/RESULTS.md; gpu.json in --out is written after every case. A case that the time left or the memory
can not hold is skipped with the reason; one that fails or runs out of memory is reported, and the next one runs.
"""

import gc
import importlib.util
import json
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu_report import GIB, NEEDED, describe_run, peak_tflops, report  # benchmarks/gpu_report.py

from vicuna import log
from vicuna.args import flag, parse
from vicuna.errors import UserError, run
from vicuna.model.flags import LoraFlags

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

BEGAN = time.monotonic()
QUERY_VALUE = ("q_proj", "v_proj")
ALL_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# hidden size, intermediate size, layers, heads, vocabulary
LARGE = {"7B": (4096, 11008, 32, 32, 32000), "13B": (5120, 13824, 40, 40, 32000)}
TINY = {"7B": (64, 128, 2, 4, 320), "13B": (128, 192, 3, 4, 320)}
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
TIMED_STEPS, FEWEST_STEPS, SECONDS_PER_CASE = 8, 2, 15


@dataclass
class BenchFlags:
    """What to run, and for how long."""

    out: str = flag("out", "folder for gpu.json")
    minutes: float = flag(9.0, "the whole run, the start of Python included, ends within this time")
    only: str = flag("", 'cases whose name contains this, such as "7B, 8 bit"')
    commit: str = flag("", "commit to report where git can not tell it")
    smoke: bool = flag(False, "tiny shapes on the CPU: shows that the program runs; its figures mean nothing")


@dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes:
        dtype: "" for what the hardware gets, else "float16", as on GPUs without bfloat16.
        full_logits: the head over every position, as a plain loss has it.
        narrow: norms, embedding and head in the compute dtype, where finetune.py keeps them in float32.
        common: tokens that all rows begin with, computed once.
        packed: rows of half to all of the tokens, behind one another without padding.
    """

    shape: str
    bits: int
    tokens: int
    micro_batch: int
    modules: tuple[str, ...]
    dtype: str = ""
    full_logits: bool = False
    narrow: bool = False
    common: int = 0
    packed: bool = False

    @property
    def name(self) -> str:
        parts = [self.shape, f"{self.bits} bit", f"{self.micro_batch} x {self.tokens}"]
        parts += ["all seven layers" if self.modules == ALL_LAYERS else "q and v"]
        variants = {self.dtype: self.dtype, "full logits": self.full_logits, "narrow": self.narrow}
        variants |= {f"{self.common} tokens in common": self.common, "packed": self.packed}
        return ", ".join([*parts, *(name for name, on in variants.items() if on)])


@dataclass
class Bench:
    """What the cases share: where they run, the base at hand, and the speed seen so far."""

    flags: BenchFlags
    where: "torch.device"
    peak_tflops: float | None
    rows: list[dict[str, Any]] = field(default_factory=list)
    base: "PreTrainedModel | None" = None
    base_key: tuple[str, int] | None = None
    parameters_per_s: float = 5e7  # low, until a base was made
    flops_per_s: float = 4e12  # low, until a case was measured

    @property
    def seconds_left(self) -> float:
        return max(0.0, 60 * self.flags.minutes - (time.monotonic() - BEGAN))


def main(flags: BenchFlags) -> None:
    """Run every case, print the table."""
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        raise UserError(f"{', '.join(lacking)} not installed: this needs {', '.join(NEEDED)}; bash scripts/install.sh.")
    log.set_up()
    import torch

    if not flags.smoke and not torch.cuda.is_available():
        raise UserError("there is no GPU that this PyTorch can use; --smoke runs tiny shapes on the CPU.")
    chosen = [case for case in cases(flags.smoke) if flags.only in case.name]
    if not chosen:
        known = "; ".join(case.name for case in cases(flags.smoke))
        raise UserError(f"--only {flags.only}: no case has this in its name; there are {known}.")
    where = torch.device("cpu") if flags.smoke else torch.device("cuda", 0)
    bench = Bench(flags, where, None if flags.smoke else peak_tflops(torch.cuda.get_device_name(where)))
    facts = describe_run(where, bench.peak_tflops, flags.commit)
    file = Path(flags.out) / "gpu.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    for case in chosen:
        row = run_case(bench, case)
        bench.rows.append(row)
        log.log.info("%4.0f s left  %s: %s", bench.seconds_left, case.name, row.get("not_measured", "measured"))
        file.write_text(json.dumps({**facts, "cases": bench.rows}, indent=2) + "\n", encoding="utf-8")
    print("\n".join(report(facts, bench.rows)))
    if any(row.get("failed") for row in bench.rows):
        raise UserError(f"a case failed; the table above and {file} say which.")


# 1. cases: those of one base together, what finetune.py does by default first


def cases(smoke: bool) -> list[Case]:
    """Every case of a run, in order."""
    short, long = ((16, 2), (32, 1)) if smoke else ((256, 4), (2048, 1))
    found = []
    for shape, bits in (("7B", 8), ("7B", 4), ("13B", 4), ("13B", 8), *([("7B", 32)] if smoke else [])):
        variants = [{}] if bits == 32 else [{}, {"dtype": "float16"}]
        if shape == "7B" and bits < 16:
            variants += [{"full_logits": True}, {"narrow": True}]
            laid = (shape, bits, short[0], 4 * short[1], QUERY_VALUE)
            found += [Case(*laid, common=short[0] * 5 // 8), Case(*laid, packed=True)]
        for more in variants:
            found.append(Case(shape, bits, *short, QUERY_VALUE, **more))
            found.append(Case(shape, bits, *long, ALL_LAYERS, **more))
    return found


# 2. one case, within time and memory


def run_case(bench: Bench, case: Case) -> dict[str, Any]:
    """A row of the table: what was measured, or why nothing was."""
    import torch

    row: dict[str, Any] = {"case": case.name, **asdict(case)}
    shape = dict(zip(SIZES, (TINY if bench.flags.smoke else LARGE)[case.shape], strict=True))
    own = own_dtype(bench, case.bits)
    dtype = getattr(torch, case.dtype) if case.dtype else own
    count, weights = sizes(shape, case.bits, own)
    flops = 6 * count * case.tokens * case.micro_batch
    new_base = bench.base_key != (case.shape, case.bits)
    # a first step, the fewest timed ones, and saving
    expected = (count / bench.parameters_per_s if new_base else 0) + (1 + FEWEST_STEPS) * flops / bench.flops_per_s + 5
    if reason := refusal(bench, case, own, expected, weights):
        return {**row, "not_measured": reason}
    tidy(bench.where)  # here, where the error of the case before holds nothing any more
    try:
        if new_base:
            load(bench, case, shape, count)
        found = measure(bench, case, dtype, 0 if bench.flags.smoke else min(SECONDS_PER_CASE, bench.seconds_left))
    except torch.OutOfMemoryError:
        return {**row, "not_measured": "out of memory"}
    except RuntimeError as error:
        return {**row, "not_measured": f"failed: {str(error).strip().splitlines()[0]}", "failed": True}
    bench.flops_per_s = flops / found["seconds_per_step"]
    speed = found["tokens_in_rows"] / found["seconds_per_step"]
    computed = found["tokens_computed"] / found["seconds_per_step"]
    share = computed * 6 * count / (bench.peak_tflops * 1e12) if bench.peak_tflops else None
    return {**row, **found, "tokens_per_s": speed, "linear_parameters": count, "share_of_6n_ceiling": share}


def own_dtype(bench: Bench, bits: int) -> "torch.dtype":
    """What finetune.py computes in on this hardware; bfloat16 in a smoke run, so that all ways are gone."""
    import torch

    from vicuna.model.base import compute_dtype

    return torch.bfloat16 if bench.flags.smoke and bits < 16 else compute_dtype(bits)[0]


def sizes(shape: dict[str, int], bits: int, dtype: "torch.dtype") -> tuple[int, float]:
    """Parameters of the linear layers, the head included, and bytes of the weights, by arithmetic."""
    hidden, inner, layers, _, vocabulary = shape.values()
    blocks, head = layers * (4 * hidden * hidden + 3 * hidden * inner), vocabulary * hidden
    return blocks + head, blocks * bits / 8 + 2 * head * (dtype.itemsize if bits >= 16 else 4)


def refusal(bench: Bench, case: Case, own: "torch.dtype", expected: float, weights: float) -> str:
    """Why a case is not worth beginning; "" if it is."""
    import torch

    if case.dtype and getattr(torch, case.dtype) is own:
        return f"this GPU computes in {case.dtype} anyway: the case without it is the same"
    if expected > bench.seconds_left:
        return f"skipped: takes about {expected:.0f} s, {bench.seconds_left:.0f} s are left"
    if bench.where.type == "cuda":
        memory = torch.cuda.get_device_properties(bench.where).total_memory
        if weights > 0.95 * memory:
            return f"skipped: the weights alone take {weights / GIB:.1f} GiB of {memory / GIB:.1f}"
    return ""


def load(bench: Bench, case: Case, shape: dict[str, int], count: int) -> None:
    """Make the base of a case in place of the one at hand."""
    import torch
    from random_llama import random_base

    bench.base = bench.base_key = None
    tidy(bench.where)
    torch.manual_seed(0)
    began = now(bench.where)
    bench.base = random_base(shape, case.bits, own_dtype(bench, case.bits), bench.where)
    bench.base_key = (case.shape, case.bits)
    took = now(bench.where) - began
    bench.parameters_per_s = count / took
    log.log.info("%s at %d bits made in %.0f s", case.shape, case.bits, took)


def measure(bench: Bench, case: Case, dtype: "torch.dtype", seconds: float) -> dict[str, Any]:
    """Run a case on the base at hand: losses, seconds a step, memory of a step and of saving."""
    import torch
    from peft import LoraConfig, get_peft_model
    from random_llama import Steps, batch_of, random_rows, set_dtypes, weight_bytes

    from vicuna.model.adapter import save_adapter
    from vicuna.train.last_block import LastBlock
    from vicuna.train.sharing import Operations, count_operations

    if case.bits < 16:
        set_dtypes(bench.base, dtype, dtype if case.narrow else torch.float32)
    weights = weight_bytes(bench.base)
    lora = LoraFlags()
    torch.manual_seed(0)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=lora.lora_r, lora_alpha=lora.lora_alpha, lora_dropout=lora.lora_dropout,
        target_modules=list(case.modules),
    )  # fmt: skip
    model = get_peft_model(bench.base, config).train()
    operations = None
    if case.common or case.packed:  # tiny shapes would never be worth it
        smallest = Operations(token=1, pair=0, call=0)
        operations = smallest if bench.flags.smoke else count_operations(bench.base.config, bench.where.type, dtype)
    last_block = LastBlock(model)
    try:
        rows = random_rows(case.micro_batch, case.tokens, bench.base.config.vocab_size, case.common, case.packed)
        batch = batch_of(rows, bench.where, operations)
        steps = Steps(model, batch, dtype, case.full_logits)
        losses = steps.settle()
        reset_peak(bench.where)
        times, began = [], time.monotonic()
        while len(times) < FEWEST_STEPS or (len(times) < TIMED_STEPS and time.monotonic() - began < seconds):
            started = now(bench.where)
            losses.append(steps.step())
            times.append(now(bench.where) - started)
        peak = peak_bytes(bench.where)
        reset_peak(bench.where)
        with tempfile.TemporaryDirectory() as folder:
            save_adapter(model, Path(folder))
        return {
            "compute_dtype": str(dtype).removeprefix("torch."), "seconds_per_step": statistics.median(times),
            "timed_steps": len(times), "skipped_steps": steps.skipped, "losses": losses, "weights_bytes": weights,
            "peak_bytes": peak, "peak_bytes_while_saving": peak_bytes(bench.where),
            "tokens_in_rows": sum(len(row["input_ids"]) for row in rows), "tokens_computed": batch["input_ids"].numel(),
        }  # fmt: skip
    finally:
        last_block.close()
        bench.base = model.unload()


def now(where: "torch.device") -> float:
    """Seconds, once all work that was handed to the device is done."""
    import torch

    if where.type == "cuda":
        torch.cuda.synchronize(where)
    return time.perf_counter()


def reset_peak(where: "torch.device") -> None:
    """Begin a measurement of memory."""
    import torch

    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)


def peak_bytes(where: "torch.device") -> int | None:
    """max_memory_allocated since `reset_peak`; None on the CPU."""
    import torch

    return torch.cuda.max_memory_allocated(where) if where.type == "cuda" else None


def tidy(where: "torch.device") -> None:
    """Give back what no one holds."""
    import torch

    gc.collect()
    if where.type == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, BenchFlags)))
