"""The plan: what a run is going to do, in numbers, before the first step; the same facts go into run_args.json."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from vicuna import __version__
from vicuna.data.flags import DataFlags
from vicuna.data.records import Examples, Records, Source, label_spans
from vicuna.errors import UserError
from vicuna.model.base import Base, compute_dtype, device
from vicuna.model.flags import LoraFlags, ModelFlags
from vicuna.model.parameters import ParameterCounts
from vicuna.train.checkpoint import StartingPoint
from vicuna.train.flags import RunFlags
from vicuna.train.schedule import describe_rates, learning_rate_at
from vicuna.train.trainer import StepBatchSampler

FEW_STEPS = 50  # fewer optimizer steps than this rarely change a model visibly
MUCH_UNKNOWN = 0.05
SHOWN_FILES = 5  # run_args.json has all of them
# State of the optimizer, bytes per trained parameter; adafactor's rows and columns are left out.
OPTIMIZER_BYTES = {
    **{"adamw_torch": 8, "adamw_torch_fused": 8, "paged_adamw_32bit": 8, "adamw_8bit": 2, "paged_adamw_8bit": 2},
    **{"lion_8bit": 1, "paged_lion_8bit": 1, "adafactor": 0, "sgd": 0},
}


@dataclass
class Plan:
    """Facts by subject, printed in this order.

    Attributes:
        steps: optimizer steps of the run; warmup: how many of them raise the learning rate.
        next_rate: learning rate of the first step of a run that goes on with a schedule.
        facts: the numbers, as run_args.json keeps them.
        lines: subject -> one line of text.
        warnings: what is probably a mistake, with the way out.
    """

    steps: int
    warmup: int
    next_rate: float
    facts: dict[str, Any]
    lines: dict[str, str]
    warnings: list[str]

    def __str__(self) -> str:
        return "\n".join(
            [f"{name:<9} {text}" for name, text in self.lines.items()] + [f"WARNING   {text}" for text in self.warnings]
        )


def make_plan(
    base: Base,
    records: Records,
    train: Examples,
    held_out: Examples | None,
    batches: StepBatchSampler,
    parameters: ParameterCounts,
    flags: tuple[ModelFlags, DataFlags, LoraFlags, RunFlags],
    start: StartingPoint,
) -> Plan:
    """Work the plan out.

    Args:
        parameters: counted on the model without weights.

    Raises:
        UserError: the schedule to go on with is over.
    """
    model, data, lora, run = flags
    trainable, total = parameters.trainable, parameters.total
    dtype, reason = compute_dtype(model.bits)
    per_epoch, steps = batches.steps_per_epoch, batches.steps
    warmup = 100 if run.warmup_steps is None else run.warmup_steps
    if run.warmup_ratio is not None:
        warmup = math.ceil(run.warmup_ratio * steps)
    next_rate, start_text = _next_rate(start, run, warmup, steps)
    tokens = sum(train.lengths)
    lengths = sorted(train.lengths)
    left_out = train.left_out + (held_out.left_out if held_out else 0)
    cut = train.cut + (held_out.cut if held_out else 0)
    held = len(held_out.lengths) if held_out else 0
    shortened = train.shortened + (held_out.shortened if held_out else 0)
    rows = sum(source.rows for source in records.sources) + records.bad.total()
    weights_gib = parameters.weight_bytes(model.bits, dtype) / 2**30
    # float32 weights, their gradients, and the optimizer's state
    trained_gib = trainable * (8 + OPTIMIZER_BYTES[run.optim]) / 2**30
    facts = {
        "rows": rows, "rows_train": len(train.lengths), "rows_eval": held, "rows_left_out": left_out,
        "rows_bad": dict(records.bad), "rows_cut": cut, "rows_shortened": shortened,
        "encoding": records.encoding, "files": [_file(source) for source in records.sources],
        "tokens_train": tokens, "tokens_supervised": train.supervised, "longest": lengths[-1],
        "median": lengths[len(lengths) // 2], "tokens_unknown": train.unknown,
        "trainable_parameters": trainable, "all_parameters": total,
        "total_batch": run.total_batch, "world_size": batches.world_size, "accumulation": batches.accumulation,
        "steps": steps, "steps_per_epoch": per_epoch, "warmup_steps": warmup,
        "compute_dtype": str(dtype).removeprefix("torch."), "compute_dtype_reason": reason,
        "device": str(device()), "start": start_text,
    }  # fmt: skip
    bad = "".join(f"; {count} malformed ({why})" for why, count in sorted(records.bad.items()))
    cut_text = f"{cut} cut at {data.cutoff_len} tokens" + (" (they get no EOS)" if cut else "")
    if shortened:
        cut_text += f", {shortened} without their oldest turns"
    turns = ", every answer" if data.train_turns == "all" else ""
    how = "bitsandbytes, " if model.bits < 16 else ""
    lines = {
        "base": f"{base.path}  {type(base.config).__name__.removesuffix('Config')}  "
        f"{_millions(total - trainable or total)}  "
        f"{model.bits} bit ({how}{device().type.upper()})   compute {facts['compute_dtype']}: {reason}",
        "data": f"{_files(records)}: {len(train.lengths)} train, {held} eval, "
        f"{left_out} left out (no answer within the cut), {cut_text}{bad}",
        "tokens": f"{tokens:,} train, {train.supervised:,} trained on ({train.supervised / tokens:.0%}); longest "
        f"{lengths[-1]}, median {facts['median']}; prompt type {data.prompt_type}{turns}",
        "adapter": f"{_trained(lora, parameters)}: {trainable:,} trainable ({trainable / total:.2%})",
        "batch": f"{run.total_batch} a step, exactly: {run.micro_batch} a device x {batches.world_size} "
        f"{'device' if batches.world_size == 1 else 'devices'} x {batches.accumulation} accumulated",
        "steps": f"{_steps(batches, run)}; learning rate {run.learning_rate:g}, {run.lr_scheduler}, {warmup} warm-up "
        "steps",
        "memory": f"{_memory(lora.train, weights_gib, trained_gib)}{_shared_out(run, batches.world_size)}; activations "
        "on top",
        "saves": _saves(run, held),
        "example": _example(base, train),
        "start": start_text,
    }  # fmt: skip
    return Plan(steps, warmup, next_rate, facts, lines, _warnings(facts, data, run, base))


def _next_rate(start: StartingPoint, run: RunFlags, warmup: int, steps: int) -> tuple[float, str]:
    if start.schedule is None:
        if start.data_start and steps <= start.step:
            raise UserError(
                f"{start.resume} is at step {start.step}, and the run ends at step {steps}: raise --num_epoch above "
                f"{run.num_epoch:g} to train on the data once more."
            )
        return 0.0, start.text
    if steps <= start.step:
        raise UserError(
            f"the schedule of {start.schedule.folder} ends at step {steps}, and {start.step} are done: raise "
            f"--num_epoch above {run.num_epoch:g}, or start from its adapter with a new schedule."
        )
    rate = learning_rate_at(run, warmup, steps, start.schedule.scheduled)
    return rate, f"{start.text}; {describe_rates(start.schedule, rate)}"


def _steps(batches: StepBatchSampler, run: RunFlags) -> str:
    if not batches.data_start:
        return f"{batches.steps} = {run.num_epoch:g} epochs x {batches.steps_per_epoch}"
    epochs = batches.epochs(batches.steps)
    return (
        f"{batches.steps}, of which {batches.data_start} are done and the others pass {epochs:.1f} times over this data"
    )


def _trained(lora: LoraFlags, parameters: ParameterCounts) -> str:
    """What is trained, in words."""
    if lora.train == "full":
        return "none, every weight is trained in float32"
    matrices = f"r {lora.lora_r}, alpha {lora.lora_alpha} on {' '.join(lora.lora_target_modules)}"
    if lora.train == "lora":
        return matrices
    whole = f"{' '.join(parameters.whole_modules)} whole"
    return f"{matrices}, and {whole}" if lora.train == "lora+embeddings" else f"{whole}, no LoRA"


def _memory(train: str, weights_gib: float, trained_gib: float) -> str:
    if train == "full":
        return f"weights with gradients and optimizer {_size(trained_gib)}"
    return f"weights {_size(weights_gib)}, adapter with gradients and optimizer {_size(trained_gib)}"


def _shared_out(run: RunFlags, world_size: int) -> str:
    """How devices share the memory of the line before."""
    if world_size == 1 or not (run.fsdp or run.deepspeed):
        return ""
    return f", in parts on {world_size} devices"


def library_versions() -> dict[str, str]:
    """Versions that can change a result."""
    names = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "sentencepiece")
    return {"chinese-vicuna": __version__, **{name: version(name) for name in names}}


def _warnings(facts: dict[str, Any], data: DataFlags, run: RunFlags, base: Base) -> list[str]:
    found = []
    if facts["steps"] < FEW_STEPS:
        found.append(
            f"{facts['steps']} optimizer steps are few (under {FEW_STEPS}): lower --total_batch from "
            f"{run.total_batch}, or raise --num_epoch."
        )
    if facts["warmup_steps"] >= facts["steps"]:
        found.append(
            f"the {facts['warmup_steps']} warm-up steps are not over when the {facts['steps']} steps are: the "
            "learning rate never reaches "
            f"{run.learning_rate:g}. Lower --warmup_steps, or take --warmup_ratio 0.05."
        )
    if facts["rows_train"] < run.total_batch:
        found.append(f"a step takes all {facts['rows_train']} records, not {run.total_batch}: lower --total_batch.")
    if data.cutoff_len > base.context:
        found.append(f"--cutoff_len {data.cutoff_len} is above the base's context of {base.context} tokens: lower it.")
    if facts["tokens_unknown"] > MUCH_UNKNOWN * facts["tokens_train"]:
        share = facts["tokens_unknown"] / facts["tokens_train"]
        found.append(
            f"{share:.0%} of the tokens are unknown to this base's tokenizer: it does not know the language of the "
            "data."
        )
    return found


def _saves(run: RunFlags, held: int) -> str:
    steps = f"every {run.save_steps} steps and " if run.save_steps else ""
    best = "; best/ by evaluation loss" if held and run.eval_steps else ""
    return f"{steps}at the end, to {run.output_path}{best}"


def _example(base: Base, train: Examples) -> str:
    """The first example on one line, what is trained on in brackets."""
    row = train.rows[0]
    *prompt, answer = [ids for _, ids in label_spans(row["input_ids"], row["labels"])[:2]]
    end = "</s>" if answer[-1] == base.tokenizer.eos_id else " (cut)"
    text = base.tokenizer.decode_continuation
    before = _short(text(prompt[0]), -60) if prompt else ""
    return f"{before} [trained on: {_short(text(answer), 60)}{end}]".replace("\n", "⏎")


def _file(source: Source) -> dict[str, Any]:
    return {**vars(source), "path": str(source.path), "bad": dict(source.bad)}


def _files(records: Records) -> str:
    """The files with their weights, rows and encodings; of very many the first ones, and what the others hold."""
    shown = [
        f"{source.path}{f' x {source.weight:g}' if source.weight != 1 else ''}  {_rows([source])} ({source.encoding})"
        for source in records.sources[:SHOWN_FILES]
    ]
    if others := records.sources[SHOWN_FILES:]:
        shown.append(f"{len(others)} more files  {_rows(others)}")
    return " + ".join(shown)


def _rows(sources: Sequence[Source]) -> str:
    return f"{sum(source.rows + source.bad.total() for source in sources)} rows"


def _short(text: str, width: int) -> str:
    if len(text) <= abs(width):
        return text
    return f"{text[:width]}…" if width > 0 else f"…{text[width:]}"


def _size(gib: float) -> str:
    return f"{gib:.2f} GiB" if gib >= 0.1 else f"{gib * 1024:.1f} MiB"


def _millions(count: int) -> str:
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.2f} M"
