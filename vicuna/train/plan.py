"""The plan: what a run is going to do, in numbers, before the first step; the same facts go into run_args.json."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vicuna import __version__
from vicuna.data.cache import TrainingData
from vicuna.data.examples import Examples, label_spans
from vicuna.data.records import Records, Source
from vicuna.errors import UserError
from vicuna.model.base import Base, compute_dtype, device
from vicuna.model.cpu_rounding import four_bit_warning
from vicuna.model.flags import SHORT, LoraFlags
from vicuna.model.parameters import ParameterCounts
from vicuna.model.stored import BITSANDBYTES, loaded_precision, stored_method, stored_precision
from vicuna.prompt.templates import BASE
from vicuna.train.batches import StepBatchSampler
from vicuna.train.checkpoint import list_checkpoints
from vicuna.train.faster import what_is_faster
from vicuna.train.flags import OPTIMIZER_BYTES, RunFlags, TrainFlags
from vicuna.train.full_disk import free_bytes, in_words
from vicuna.train.reporting import where_reported
from vicuna.train.resume import DIALOGUES, StartingPoint
from vicuna.train.schedule import describe_rates, learning_rate_at

FEW_STEPS = 50  # fewer optimizer steps than this rarely change a model visibly
MUCH_UNKNOWN = 0.05
CHECKPOINT_EXTRA = 64 << 10  # bytes of a checkpoint's random states, configs and manifest
SHOWN_FILES = 5  # run_args.json has all of them


@dataclass
class Plan:
    """Facts by subject, printed in this order.

    Attributes:
        next_rate: learning rate of the first step of a run that goes on with a schedule.
        facts: the numbers, as run_args.json keeps them.
        lines: subject -> one line of text.
        warnings: what is probably a mistake, with the way out.
    """

    next_rate: float
    facts: dict[str, Any]
    lines: dict[str, str]
    warnings: list[str]

    def __str__(self) -> str:
        lines = [*self.lines.items(), *(("WARNING", text) for text in self.warnings)]
        return "\n".join(f"{subject:<9} {text}" for subject, text in lines)


def make_plan(
    base: Base,
    data: TrainingData,
    batches: StepBatchSampler,
    parameters: ParameterCounts,
    flags: TrainFlags,
    start: StartingPoint,
) -> Plan:
    """Work the plan out.

    Args:
        parameters: counted on the model without weights.

    Raises:
        UserError: the schedule to go on with is over, or nothing is held out for --early_stopping.
    """
    if flags.run.early_stopping and not data.held_out:
        raise UserError("--early_stopping needs records to evaluate on: raise --test_size above 0.")
    warmup = _warmup_steps(flags.run, batches.steps)
    next_rate, start_text = _next_rate(start, flags.run, warmup, batches.steps)
    dtype, reason = compute_dtype(flags.model.bits)
    facts = {
        **_data_facts(data),
        "trainable_parameters": parameters.trainable, "all_parameters": parameters.total,
        "total_batch": flags.run.total_batch, "world_size": batches.world_size, "accumulation": batches.accumulation,
        "steps": batches.steps, "steps_per_epoch": batches.steps_per_epoch, "warmup_steps": warmup,
        "compute_dtype": str(dtype).removeprefix("torch."), "compute_dtype_reason": reason,
        "weights": loaded_precision(base.config, flags.model.bits, dtype),
        "weights_stored": stored_precision(base.path, base.config),
        "device": str(device()), "start": start_text, "sharing": batches.sharing(),
        **_disk_facts(flags, parameters, batches, bool(data.held_out), start),
    }  # fmt: skip
    lines = _lines(facts, base, data, batches, parameters, flags)
    return Plan(next_rate, facts, lines, _warnings(facts, flags, base))


def _warmup_steps(run: RunFlags, steps: int) -> int:
    """As the flags say; a warm-up begins with a step of rate 0, which a run of one step has no room for."""
    if steps == 1:
        return 0
    if run.warmup_ratio is not None:
        return math.ceil(run.warmup_ratio * steps)
    return 100 if run.warmup_steps is None else run.warmup_steps


def _data_facts(data: TrainingData) -> dict[str, Any]:
    """What the files hold, and what became of it in records and in tokens."""
    records, train = data.records, data.train
    parts = [part for part in (train, data.held_out) if part]
    lengths = sorted(train.lengths)
    return {
        "rows": sum(source.rows for source in records.sources) + records.bad.total(),
        "rows_train": len(lengths), "documents_train": train.documents,
        "rows_eval": len(data.held_out.lengths) if data.held_out else 0,
        "rows_left_out": sum(part.left_out for part in parts), "rows_bad": dict(records.bad),
        "rows_suspicious": dict(records.suspicious),
        "rows_cut": sum(part.cut for part in parts), "rows_shortened": sum(part.shortened for part in parts),
        "rows_thinking": sum(part.thoughts for part in parts), DIALOGUES: sum(n > 1 for n in train.dialogue_rows),
        "encoding": records.encoding, "files": [source.as_json() for source in records.sources],
        "tokens_train": sum(lengths), "tokens_supervised": train.supervised, "longest": lengths[-1],
        "median": lengths[len(lengths) // 2], "tokens_unknown": train.unknown,
    }  # fmt: skip


def _lines(
    facts: dict[str, Any],
    base: Base,
    data: TrainingData,
    batches: StepBatchSampler,
    parameters: ParameterCounts,
    flags: TrainFlags,
) -> dict[str, str]:
    """The facts in words, by subject."""
    trainable, total = parameters.trainable, parameters.total
    bad = "".join(f"; {count} malformed ({why})" for why, count in sorted(facts["rows_bad"].items()))
    cut = f"{facts['rows_cut']} cut at {flags.data.cutoff_len} tokens{' (they get no EOS)' * bool(facts['rows_cut'])}"
    cut += f", {facts['rows_shortened']} without their oldest turns" if facts["rows_shortened"] else ""
    tokens, supervised = facts["tokens_train"], facts["tokens_supervised"]
    several = f" ({facts[DIALOGUES]} dialogues in several rows)" if facts[DIALOGUES] else ""
    turns = f", every answer{several}" if flags.data.train_turns == "all" else ""
    return {
        "base": f"{base.place}  {type(base.config).__name__.removesuffix('Config')}  "
        f"{_millions(parameters.frozen or total)}  "
        f"{_precision(facts, base.config, flags.model.bits)}   compute {facts['compute_dtype']}: "
        f"{facts['compute_dtype_reason']}",
        "data": f"{_files(data.records)}: {facts['rows_train']} train, {facts['rows_eval']} eval, "
        f"{facts['rows_left_out']} left out (no answer within the cut), {cut}{bad}",
        "tokens": f"{tokens:,} train, {supervised:,} trained on ({supervised / tokens:.0%}); longest "
        f"{facts['longest']}, median {facts['median']}; prompt type {flags.data.prompt_type}{turns}",
        **({"packing": _packing(data.train, flags.data.cutoff_len)} if flags.data.pack else {}),
        "adapter": f"{_trained(flags.lora, parameters)}: {trainable:,} trainable ({trainable / total:.2%})",
        "batch": f"{flags.run.total_batch} a step, exactly: {flags.run.micro_batch} a device x {batches.world_size} "
        f"{'device' if batches.world_size == 1 else 'devices'} x {batches.accumulation} accumulated",
        **({"sharing": _sharing(facts["sharing"])} if facts["sharing"] else {}),
        "steps": f"{_steps(batches, flags.run)}; learning rate {flags.run.learning_rate:g}, {flags.run.lr_scheduler}, "
        f"{facts['warmup_steps']} warm-up steps{' in a run of one step' * (batches.steps == 1)}",
        "memory": describe_memory(flags, parameters, batches.world_size),
        "saves": _saves(flags.run, facts),
        "example": _example(base, data.train, flags.data.prompt_type),
        "start": facts["start"],
        **({"reports": where_reported(flags.run, os.environ)} if flags.run.report_to != "none" else {}),
        **({"faster": faster} if (faster := what_is_faster(base.config, flags.run, facts["longest"])) else {}),
    }


def _next_rate(start: StartingPoint, run: RunFlags, warmup: int, steps: int) -> tuple[float, str]:
    if start.schedule is None:
        if start.data_start and steps <= start.step:
            raise UserError(
                f"{start.resume} is at step {start.step}, and the run ends at step {steps}: raise "
                f"{run.length_flag} to train on the data once more."
            )
        return 0.0, start.text
    if steps <= start.step:
        raise UserError(
            f"the schedule of {start.schedule.folder} ends at step {steps}, and {start.step} are done: raise "
            f"{run.length_flag}, or start from its adapter with a new schedule."
        )
    rate = learning_rate_at(run, warmup, steps, start.schedule.scheduled)
    return rate, f"{start.text}; {describe_rates(start.schedule, rate)}"


def _steps(batches: StepBatchSampler, run: RunFlags) -> str:
    early = f", or up to {run.early_stopping} evaluations without a better loss" if run.early_stopping else ""
    if not batches.data_start and batches.steps == run.max_steps:
        return f"{batches.steps}, which pass {batches.epochs(batches.steps):.1f} times over the data{early}"
    if not batches.data_start:
        return f"{batches.steps} = {run.num_epoch:g} epochs x {batches.steps_per_epoch}{early}"
    epochs = batches.epochs(batches.steps)
    return (
        f"{batches.steps}, of which {batches.data_start} are done and the others pass {epochs:.1f} times over this "
        f"data{early}"
    )


def _trained(lora: LoraFlags, parameters: ParameterCounts) -> str:
    """What is trained, in words."""
    if lora.train == "full":
        return "none, every weight is trained in float32"
    if parameters.rows:
        whole = f"{parameters.rows:,} new rows of {' and '.join(parameters.row_modules)}"
    else:
        whole = f"{' '.join(parameters.whole_modules)} whole"
    matrices = f"r {lora.lora_r}, alpha {lora.lora_alpha} on {' '.join(lora.lora_target_modules)}"
    if lora.train == "lora":
        return matrices
    if lora.train in SHORT:
        whole = f"{whole} (--train {lora.train} is short for {SHORT[lora.train]})"
    return f"{matrices}, and {whole}" if "lora" in lora.trains else f"{whole}, no LoRA"


def describe_memory(flags: TrainFlags, parameters: ParameterCounts, world_size: int) -> str:
    """What weights, gradients and optimizer take, by arithmetic."""
    model, lora, run = flags.model, flags.lora, flags.run
    # float32 weights, their gradients, and the optimizer's state
    trained = parameters.trainable * (8 + OPTIMIZER_BYTES[run.optim])
    weights = parameters.weight_bytes(model.bits, compute_dtype(model.bits)[0])
    what = "weights" if lora.train == "full" else f"weights {in_words(weights)}, adapter"
    parts = f", in parts on {world_size} devices" if run.sharding_flag and world_size > 1 else ""
    return f"{what} with gradients and optimizer {in_words(trained)}{parts}; activations on top"


def library_versions() -> dict[str, str]:
    """Versions that can change a result."""
    names = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "sentencepiece")
    return {"chinese-vicuna": __version__, **{name: version(name) for name in names}}


def _warnings(facts: dict[str, Any], flags: TrainFlags, base: Base) -> list[str]:
    data, run, found = flags.data, flags.run, []
    if facts["bytes_written"] > facts["bytes_free"]:
        found.append(
            f"what is kept of this run takes {in_words(facts['bytes_written'])}, but the disk of {run.output_path} has "
            f"{in_words(facts['bytes_free'])} free: make room, name a folder on another disk, or lower "
            f"--save_total_limit from {run.save_total_limit}."
        )
    if facts["steps"] < FEW_STEPS:
        found.append(
            f"{facts['steps']} optimizer steps are few (under {FEW_STEPS}): lower --total_batch from "
            f"{run.total_batch}, or raise {run.length_flag.split()[0]}."
        )
    if facts["warmup_steps"] >= facts["steps"]:
        found.append(
            f"the {facts['warmup_steps']} warm-up steps are not over when the {facts['steps']} steps are: the learning "
            f"rate never reaches {run.learning_rate:g}. Lower --warmup_steps, or take --warmup_ratio 0.05."
        )
    if facts["rows_train"] < run.total_batch:
        found.append(f"a step takes all {facts['rows_train']} records, not {run.total_batch}: lower --total_batch.")
    if data.cutoff_len > base.context:
        found.append(
            f"--cutoff_len {data.cutoff_len} is above the base's context of {base.context} tokens: lower it, or say by "
            "--context that the base takes more."
        )
    if facts["tokens_unknown"] > MUCH_UNKNOWN * facts["tokens_train"]:
        share = facts["tokens_unknown"] / facts["tokens_train"]
        found.append(
            f"{share:.0%} of the tokens are unknown to this base's tokenizer: it does not know the language of the "
            "data."
        )
    if worse := four_bit_warning(base.config, flags.model.bits, device()):
        found.append(worse)
    if facts["rows_suspicious"]:
        kinds = ", ".join(f"{count} hold {kind}" for kind, count in sorted(facts["rows_suspicious"].items()))
        found.append(f"of the records, {kinds}: all of it is learnt as it stands; tools/check_data.py shows where.")
    return found


def _saves(run: RunFlags, facts: dict[str, Any]) -> str:
    steps = f"every {run.save_steps} steps and " if run.save_steps else ""
    best = "; best/ by evaluation loss" if facts["rows_eval"] and run.eval_steps else ""
    sizes = f"{in_words(facts['bytes_checkpoint'])} a checkpoint, {in_words(facts['bytes_written'])} in all"
    return f"{steps}at the end, to {run.output_path}{best}; {sizes}, {in_words(facts['bytes_free'])} free"


def _disk_facts(
    flags: TrainFlags, parameters: ParameterCounts, batches: StepBatchSampler, held: bool, start: StartingPoint
) -> dict[str, int]:
    """What a checkpoint takes, what all that is kept takes at most beside what is there, and what the disk has free."""
    run, output = flags.run, Path(flags.run.output_path)
    weights = parameters.saved * 4
    state = OPTIMIZER_BYTES[run.optim] + (4 if run.deepspeed else 0)  # DeepSpeed keeps its float32 copy there
    checkpoint = weights + parameters.trainable * state + CHECKPOINT_EXTRA
    left = batches.steps - start.step
    made = math.ceil(left / run.save_steps) if run.save_steps else 0
    there = len(list_checkpoints(start.resume.parent)) if start.resume else 0
    # The oldest goes once the newest is whole.
    kept = min(made, max(1, run.save_total_limit + 1 - there))
    results = 1 + bool(held and run.eval_steps)
    written = kept * checkpoint + results * weights
    return {"bytes_checkpoint": checkpoint, "bytes_written": written, "bytes_free": free_bytes(output)}


def _example(base: Base, train: Examples, prompt_type: str) -> str:
    """The first example on one line, what is trained on in brackets."""
    row = train.rows[0]
    first = slice(0, [*row.get("starts", []), None, None][1])  # of packed documents
    begins = len(base.tokenizer.beginning)
    *prompt, answer = [ids for _, ids in label_spans(row["input_ids"][first], row["labels"][first], begins)[:2]]
    is_end = answer[-1] in base.tokenizer.controls
    end = base.tokenizer.token_name(answer[-1]) if is_end else " (cut)"
    # A template of the base's own is mostly control tokens, and it is they that tell whether it is the right one.
    text = base.tokenizer.decode_continuation
    asked = base.tokenizer.show if prompt_type == BASE else text
    before = _short(asked(prompt[0]), -60) if prompt else ""
    return f"{before} [trained on: {_short(text(answer), 60)}{end}]".replace("\n", "⏎")


def _packing(train: Examples, length: int) -> str:
    rows, full = len(train.lengths), sum(train.lengths) / (len(train.lengths) * length)
    return (
        f"{train.documents} documents in {rows} rows of {length} tokens, {full:.1%} full, no token lost; attention "
        "stays within a document"
    )


def _sharing(found: dict[str, int]) -> str:
    return (
        f"of the first {found['steps']} steps {found['computed']:,} of {found['tokens']:,} tokens are computed, in "
        f"{found['micro_batches']} micro batches: what rows begin with alike is computed once"
    )


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


def _precision(facts: dict[str, Any], config: Any, bits: int) -> str:
    """What the base's weights are in memory; and what they were before, where that is less than float32."""
    how = [stored_method(config) or BITSANDBYTES] if bits < 16 else []
    lossless = facts["weights_stored"] == "float32" or stored_method(config)
    before = [] if lossless else [f"from {facts['weights_stored']}"]
    return f"{facts['weights']} ({', '.join([*how, device().type.upper(), *before])})"


def _millions(count: int) -> str:
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.2f} M"
