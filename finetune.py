"""Fine-tune a LoRA adapter, the embeddings, or the whole model on instructions.

    python finetune.py --data_path sample/instruct/data_sample.jsonl
    torchrun --standalone --nproc_per_node=2 finetune.py --bits 4 --output_path out

Reads --data_path, prints the plan, trains, and writes the adapter or the model, run_args.json, loss.png, steps.jsonl,
session.log and checkpoint-N/ to --output_path. `python finetune.py --help` lists every flag.
"""

import atexit
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vicuna import log
from vicuna.args import Fallback
from vicuna.errors import ended_by_signals, run
from vicuna.files.folder_lock import output_folder
from vicuna.train.command_line import parse_training
from vicuna.train.flags import TrainFlags
from vicuna.train.gpus import one_gpu_per_process
from vicuna.train.launched import end_with_launcher

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from transformers import TrainingArguments

    from vicuna.data.cache import TrainingData
    from vicuna.data.records import Source
    from vicuna.model.base import Base
    from vicuna.train.batches import StepBatchSampler
    from vicuna.train.plan import Plan
    from vicuna.train.resume import StartingPoint
    from vicuna.train.sharing import Operations
    from vicuna.train.trainer import AdapterTrainer


def main(flags: TrainFlags) -> None:
    """Train as the flags say. What a stage needs is imported in it: --help and a mistyped flag answer at once."""
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    end_with_launcher(os.environ)

    log.set_up(rank)
    folder = output_folder(flags.run.output_path, "--output_path", os.environ, looks_only=flags.run.plan_only)
    with ended_by_signals(), folder, log.session():
        # 1. data and paths, as far as they can be checked without torch
        sources = open_data(flags, one_gpu_per_process(os.environ))

        # 2. base and adapter, as far as they can be checked without loading weights
        setup = check_setup(flags, sources, world_size)
        if not flags.run.plan_only:
            check_output_path(setup)

        # 3. examples and the plan
        planned = plan_run(setup, sources, rank, world_size)
        if flags.run.plan_only:
            print(planned.plan)
            check_output_path(setup)
            return
        log.to_file(setup.output, rank)
        log.log.info("%s", planned.plan)

        # 4. settings: before the model, which ZeRO-3 cuts in parts while it is loaded
        arguments = training_arguments(setup, planned)
        facts = run_facts(setup, planned.plan)

        # 5. model: each process loads its own copy onto its own device, or its part
        model = load_model(setup)

        # 6. train
        trainer = make_trainer(setup, planned, arguments, model, facts)
        train(setup, planned, trainer, model)

        # 7. save
        save(setup, trainer, model, facts)


@dataclass(frozen=True)
class Setup:
    """What is known of a run before a weight is read.

    Attributes:
        flags: as given, but for what the run has from an earlier one.
        device: of this process; dtype: what it computes in.
        exact: what a resumed run is compared with, beside the flags; start: where the run begins.
        lora: config of the adapter, None where every weight is trained.
        operations: what is counted to lay rows into one another, None where each is computed whole.
    """

    flags: TrainFlags
    base: "Base"
    device: "torch.device"
    dtype: "torch.dtype"
    exact: dict[str, Any]
    start: "StartingPoint"
    lora: "LoraConfig | None"
    operations: "Operations | None"

    @property
    def output(self) -> Path:
        """Where everything is written."""
        return Path(self.flags.run.output_path)


@dataclass(frozen=True)
class Planned:
    """What a run is going to do: its examples, their order, and both in numbers."""

    data: "TrainingData"
    batches: "StepBatchSampler"
    plan: "Plan"


def open_data(flags: TrainFlags, gpus: int) -> "list[Source]":
    """Find and hash the data files, and tell what is wrong with them, or with a path, before torch is read."""
    from vicuna.train.first_look import look_first

    sources = look_first(flags, os.environ)
    if gpus > 1:
        command = f"torchrun --standalone --nproc_per_node={gpus} {Path(sys.argv[0]).name} …"
        log.log.info("%d GPUs are visible, this run uses the first; all of them: %s", gpus, command)
    return sources


def check_setup(flags: TrainFlags, sources: "list[Source]", world_size: int) -> Setup:
    """Check flags, base and adapter against each other and against the run that is gone on with, if any."""
    import torch

    from vicuna.data.records import Records
    from vicuna.model.adapter import with_named_modules
    from vicuna.model.base import check_base, compute_dtype, device, fingerprint
    from vicuna.model.stored import use_as_stored
    from vicuna.train.compiled import check_torch_compile
    from vicuna.train.own_template import declares_template, with_template_settings
    from vicuna.train.plan import library_versions
    from vicuna.train.reporting import check_reporter
    from vicuna.train.resume import starting_point
    from vicuna.train.sharding import check_sharding
    from vicuna.train.sharing import as_json, operations_to_share
    from vicuna.train.trainable import check_train_flag, plan_trainable

    flags = flags._replace(data=replace(flags.data, test_size=flags.data.test_size if flags.run.eval_steps else 0))
    check_reporter(flags.run)
    base = check_base(flags.model.model_path, flags.model.context)
    flags = flags._replace(
        data=flags.data.named(declares_template(base)),
        model=use_as_stored(base.path, base.config, flags.model, flags.lora.train),
        lora=with_named_modules(flags.lora, base.config),
    )
    dtype, where = compute_dtype(flags.model.bits)[0], device()
    check_train_flag(base.path, flags.lora.train, flags.model.bits, dtype, flags.run)
    check_torch_compile(flags.run, base.config, where)
    operations = operations_to_share(base.config, where.type, dtype, flags.data.cutoff_len, flags.run)
    exact = {
        "data_sha256": Records(sources=sources).sha256,
        "base_fingerprint": fingerprint(base.path),
        "versions": library_versions(),
        "compute_dtype": str(dtype),
        "threads": torch.get_num_threads(),
        "world_size": world_size,
        "operations": as_json(operations),
        **check_sharding(flags.run, flags.model.bits, where, world_size, flags.lora.train),
    }
    start = starting_point(flags.run, {**flags.by_name(), **exact})
    base.tokenizer = with_template_settings(base.tokenizer, flags.data, start.resume)
    lora, lora_flags, warning = plan_trainable(base, start.inherit(flags.lora), start.adapter, flags.model.bits)
    if warning:
        log.log.warning(warning)
    flags = flags._replace(lora=lora_flags, run=start.inherit(flags.run))
    return Setup(flags, base, where, dtype, exact, start, lora, operations)


def check_output_path(setup: Setup) -> None:
    """Refuse an --output_path with something that is not to be replaced; a plan says so once it is told."""
    from vicuna.train.earlier_runs import check_output

    check_output(setup.output, setup.base.path, setup.start.resume, setup.flags.run.overwrite)


def plan_run(setup: Setup, sources: "list[Source]", rank: int, world_size: int) -> Planned:
    """Tokenise the records, or find them tokenised, and work out what the run is going to do with them."""
    from vicuna.data.cache import load_or_tokenise
    from vicuna.model.base import meta_model
    from vicuna.model.parameters import count_parameters
    from vicuna.train.batches import StepBatchSampler
    from vicuna.train.plan import make_plan

    flags, base, start = setup.flags, setup.base, setup.start
    data = load_or_tokenise(flags.data, sources, base.tokenizer, writes=int(os.environ.get("LOCAL_RANK", 0)) == 0)
    shared = data.train.rows if setup.operations and not flags.data.pack else None  # packed rows are of one length
    train = data.train
    batches = StepBatchSampler(train.lengths, flags.run, world_size, rank, start, shared, train.dialogue_rows)
    parameters = count_parameters(meta_model(base.config), setup.lora)
    return Planned(data, batches, make_plan(base, data, batches, parameters, flags, start))


def training_arguments(setup: Setup, planned: Planned) -> "TrainingArguments":
    """Every setting of the Trainer. Making them initialises the process group, which is left however the run ends."""
    import torch
    from transformers import TrainingArguments

    from vicuna.model.base import checkpointing_kwargs, meta_model
    from vicuna.train.process_group import leave_process_group, prepare_process_group
    from vicuna.train.reporting import PROJECT
    from vicuna.train.sharding import fsdp_config
    from vicuna.train.work_folder import open_work_folder

    run_flags, batches = setup.flags.run, planned.batches
    prepare_process_group(run_flags, os.environ)
    atexit.register(leave_process_group)
    on_cpu = setup.device.type == "cpu"
    arguments = TrainingArguments(
        output_dir=setup.output,  # or beside an earlier run's adapter, below
        max_steps=batches.steps,
        per_device_train_batch_size=run_flags.micro_batch,
        per_device_eval_batch_size=run_flags.micro_batch,
        gradient_accumulation_steps=batches.accumulation,
        learning_rate=run_flags.learning_rate,
        lr_scheduler_type=run_flags.lr_scheduler,
        warmup_steps=planned.plan.facts["warmup_steps"],
        weight_decay=run_flags.weight_decay,
        max_grad_norm=run_flags.max_grad_norm,
        optim=run_flags.optim,
        seed=run_flags.seed,
        bf16=setup.dtype is torch.bfloat16 and not setup.operations,  # else by AdapterTrainer
        fp16=setup.dtype is torch.float16,
        activation_checkpointing=run_flags.gradient_checkpointing,
        activation_checkpointing_kwargs=checkpointing_kwargs(setup.flags.model.bits),
        average_tokens_across_devices=True,
        eval_strategy="steps" if planned.data.held_out else "no",
        eval_steps=run_flags.eval_steps or None,
        save_strategy="steps" if run_flags.save_steps else "no",
        save_steps=run_flags.save_steps or 1,
        logging_steps=1,  # ProgressBarCallback shows the mean of --log_steps of them
        logging_nan_inf_filter=False,
        report_to=[run_flags.report_to] if run_flags.report_to != "none" else [],
        run_name=setup.output.name,
        project=PROJECT,
        trackio_static_space_id=False,  # nothing is published that was not asked for
        ignore_data_skip=True,  # StepBatchSampler itself begins where the run goes on
        deepspeed=run_flags.deepspeed,
        fsdp=run_flags.fsdp,
        fsdp_config=fsdp_config(meta_model(setup.base.config), run_flags),
        remove_unused_columns=False,
        disable_tqdm=True,
        ddp_backend="gloo" if on_cpu and batches.world_size > 1 else None,
        ddp_find_unused_parameters=False,
        use_cpu=on_cpu,
    )
    first_of_its_host = int(os.environ.get("LOCAL_RANK", 0)) == 0
    arguments.output_dir = str(open_work_folder(setup.output, setup.start.resume, first_of_its_host))
    return arguments


def load_model(setup: Setup) -> "torch.nn.Module":
    """The base with its weights, and what is trained of it or on top of it."""
    from peft import prepare_model_for_kbit_training
    from transformers import set_seed

    from vicuna.model.base import checkpointing_kwargs, load_base
    from vicuna.train.row_attention import attend_to_rows
    from vicuna.train.sharding import prepare_sharded_loading
    from vicuna.train.trainable import base_to_load, make_trainable, weight_bits

    flags, start, bits = setup.flags, setup.start, setup.flags.model.bits
    set_seed(flags.run.seed)  # before the adapter draws its first values
    model = load_base(
        base_to_load(setup.base, setup.lora, start.adapter),
        weight_bits(flags.lora.train, bits, flags.run.deepspeed),
        placed=not prepare_sharded_loading(flags.run, setup.exact["zero_stage"]),
    )
    model.config.use_cache = False
    if setup.operations:
        attend_to_rows(model)
    if getattr(model, "is_quantized", False):
        model = prepare_model_for_kbit_training(model, flags.run.gradient_checkpointing, checkpointing_kwargs(bits))
    return make_trainable(model, setup.lora, start.adapter, flags.model.model_path)


def run_facts(setup: Setup, plan: "Plan") -> dict[str, Any]:
    """What run_args.json says of the run, everywhere it stands; what the run is reported to is made ready with it."""
    from vicuna.train.facts import describe_run

    return describe_run(setup.flags, setup.start, setup.exact, setup.base, plan.facts)


def make_trainer(
    setup: Setup, planned: Planned, arguments: "TrainingArguments", model: "torch.nn.Module", facts: dict[str, Any]
) -> "AdapterTrainer":
    """The Trainer with all that the run shows and writes on its way."""
    from transformers import PrinterCallback

    from vicuna.train.callbacks import CheckpointCallback, ProgressBarCallback, StepLog
    from vicuna.train.early_stopping import EarlyStoppingCallback
    from vicuna.train.resume import best_loss
    from vicuna.train.signals import GracefulStopCallback
    from vicuna.train.trainer import AdapterTrainer

    work, start, run_flags = Path(arguments.output_dir), setup.start, setup.flags.run
    stopper = GracefulStopCallback(work, start.step, start.resume)
    trainer = AdapterTrainer(
        model=model,
        args=arguments,
        batches=planned.batches,
        data=planned.data,
        stopper=stopper,
        operations=setup.operations,
        dtype=setup.dtype,
        step_log=StepLog(work, start.resume, start.step) if planned.batches.rank == 0 else None,
        callbacks=[
            ProgressBarCallback(planned.plan.facts["tokens_train"], run_flags.log_steps),
            CheckpointCallback(work, facts, best_loss(work, start), run_flags.save_total_limit, setup.base.path),
            EarlyStoppingCallback(run_flags.early_stopping, stopper),
            stopper,
        ],
    )
    trainer.remove_callback(PrinterCallback)  # ProgressBarCallback speaks instead
    return trainer


def train(setup: Setup, planned: Planned, trainer: "AdapterTrainer", model: "torch.nn.Module") -> None:
    """Every step, from where the run begins, once all hosts are known to hold the same data and the same base."""
    from vicuna.train.schedule import resumable_checkpoint
    from vicuna.train.trainer import check_same_on_all_ranks, run_training

    start, rate, scaled = setup.start, planned.plan.next_rate, trainer.args.fp16
    check_same_on_all_ranks({"set of tokenised records": planned.data.sha256, "base": setup.exact["base_fingerprint"]})
    with resumable_checkpoint(start.schedule, start.resume, model, rate, setup.flags.run, scaled) as resume:
        run_training(trainer, resume)


def save(setup: Setup, trainer: "AdapterTrainer", model: "torch.nn.Module", facts: dict[str, Any]) -> None:
    """The adapter or the model, what is known of the run, and its losses, all written by the first process."""
    from vicuna.model.adapter import gather_tensors
    from vicuna.train.result import Result
    from vicuna.train.trainable import closing_message

    tensors = gather_tensors(model, keep=trainer.is_world_process_zero())
    if trainer.is_world_process_zero():
        result = Result(model, tensors, setup.base.path, facts, trainer.state, Path(trainer.args.output_dir))
        result.check()
        result.save(setup.output, trainer.stopper.go_on())
        log.log.info("%s", closing_message(model, setup.output, setup.base.place))


if __name__ == "__main__":
    run(lambda: main(parse_training(__doc__, prompt_type=Fallback("instruct"))))
