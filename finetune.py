"""Fine-tune a LoRA adapter, the embeddings, or the whole model on instructions.

    python finetune.py --data_path sample/instruct/data_sample.jsonl
    torchrun --standalone --nproc_per_node=2 finetune.py --bits 4 --output_path out

Reads --data_path, prints the plan, trains, and writes the adapter or the model, run_args.json, loss.png, steps.jsonl,
session.log and checkpoint-N/ to --output_path. `python finetune.py --help` lists every flag.
"""

import atexit
import os
import sys
from dataclasses import replace
from pathlib import Path

from vicuna import log
from vicuna.args import parse
from vicuna.data.flags import DataFlags
from vicuna.errors import UserError, run
from vicuna.model.flags import LoraFlags, ModelFlags
from vicuna.train.flags import RunFlags


def main(model_flags: ModelFlags, data_flags: DataFlags, lora_flags: LoraFlags, run_flags: RunFlags) -> None:
    """Train as the flags say."""
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    gpus = one_gpu_per_process(os.environ)
    output = Path(run_flags.output_path)
    if output.is_file():
        raise UserError(f"--output_path {output} is a file; expected a folder, new or old.")

    say = log.set_up(rank)
    # Imported here so that --help and a mistyped flag answer at once.
    from vicuna.data.records import open_sources

    # 1. data, as far as it can be checked without the base's tokenizer
    sources = open_sources(data_flags.data_path)
    data_flags = replace(data_flags, test_size=data_flags.test_size if run_flags.eval_steps else 0)

    import torch
    from peft import prepare_model_for_kbit_training
    from transformers import PrinterCallback, TrainingArguments, set_seed

    from vicuna.data.cache import load_or_tokenise
    from vicuna.data.records import Records
    from vicuna.model import base as model
    from vicuna.model.adapter import gather_tensors
    from vicuna.model.parameters import count_parameters
    from vicuna.train import callbacks, sharding
    from vicuna.train import trainable as weights
    from vicuna.train import trainer as training
    from vicuna.train.checkpoint import best_loss, run_id, starting_point, write_run_args
    from vicuna.train.plan import library_versions, make_plan
    from vicuna.train.process_group import leave_process_group, prepare_process_group
    from vicuna.train.schedule import resumable_checkpoint
    from vicuna.train.signals import GracefulStopCallback

    if gpus > 1:
        say.info(
            "%d GPUs are visible, this run uses the first; all of them: torchrun --standalone --nproc_per_node=%d %s …",
            gpus,
            gpus,
            Path(sys.argv[0]).name,
        )

    # 2. base and adapter, as far as they can be checked without loading weights
    base = model.check_base(model_flags.model_path)
    dtype, _ = model.compute_dtype(model_flags.bits)
    where = model.device()
    weights.check_train_flag(base.path, lora_flags.train, model_flags.bits, dtype, run_flags)
    sharded = sharding.check_sharding(run_flags, model_flags.bits, where, world_size)
    all_flags = {**vars(model_flags), **vars(data_flags), **vars(lora_flags), **vars(run_flags)}
    exact = {
        "data_sha256": Records(sources=sources).sha256,
        "base_fingerprint": model.fingerprint(base.path),
        "versions": library_versions(),
        "compute_dtype": str(dtype),
        "threads": torch.get_num_threads(),
        "world_size": world_size,
        **sharded,
    }
    start = starting_point(run_flags, {**all_flags, **exact})
    lora_flags, run_flags = start.inherit(lora_flags), start.inherit(run_flags)
    lora, lora_flags, warning = weights.plan_trainable(base, lora_flags, start.adapter)
    if warning:
        say.warning(warning)

    # 3. examples and the plan
    first_of_its_host = int(os.environ.get("LOCAL_RANK", 0)) == 0
    examples = load_or_tokenise(data_flags, sources, base.tokenizer, first_of_its_host)
    train, held_out = examples.train, examples.held_out
    batches = training.StepBatchSampler(train.lengths, run_flags, world_size, rank)
    batches.first, batches.data_start, batches.steps = start.step, start.data_start, max(batches.steps, start.min_steps)
    parameters = count_parameters(model.meta_model(base.config), lora)
    flags = (model_flags, data_flags, lora_flags, run_flags)
    plan = make_plan(base, examples.records, train, held_out, batches, parameters, flags, start)
    if run_flags.plan_only:
        print(plan)
        return
    log.to_file(output, rank)
    say.info("%s", plan)

    # 4. settings: before the model, which ZeRO-3 cuts in parts while it is loaded
    prepare_process_group(run_flags, os.environ)
    atexit.register(leave_process_group)
    on_cpu = where.type == "cpu"
    checkpointing = model.checkpointing_kwargs(model_flags.bits)
    arguments = TrainingArguments(
        output_dir=output,
        max_steps=plan.steps,
        per_device_train_batch_size=run_flags.micro_batch,
        per_device_eval_batch_size=run_flags.micro_batch,
        gradient_accumulation_steps=batches.accumulation,
        learning_rate=run_flags.learning_rate,
        lr_scheduler_type=run_flags.lr_scheduler,
        warmup_steps=plan.warmup,
        weight_decay=run_flags.weight_decay,
        max_grad_norm=run_flags.max_grad_norm,
        optim=run_flags.optim,
        seed=run_flags.seed,
        bf16=dtype is torch.bfloat16,
        fp16=dtype is torch.float16,
        activation_checkpointing=run_flags.gradient_checkpointing,
        activation_checkpointing_kwargs=checkpointing,
        average_tokens_across_devices=True,
        eval_strategy="steps" if held_out else "no",
        eval_steps=run_flags.eval_steps or None,
        save_strategy="steps" if run_flags.save_steps else "no",
        save_steps=run_flags.save_steps or 1,
        logging_steps=1,  # ProgressBarCallback shows the mean of --log_steps of them
        logging_nan_inf_filter=False,
        report_to=["wandb"] if run_flags.wandb else [],
        ignore_data_skip=True,  # StepBatchSampler itself begins where the run goes on
        deepspeed=run_flags.deepspeed,
        fsdp=run_flags.fsdp,
        fsdp_config=sharding.fsdp_config(model.meta_model(base.config), run_flags),
        remove_unused_columns=False,
        disable_tqdm=True,
        ddp_backend="gloo" if on_cpu and world_size > 1 else None,
        ddp_find_unused_parameters=False,
        use_cpu=on_cpu,
    )

    # 5. model: each process loads its own copy onto its own device, or its part
    training.start_wandb(output, run_flags.wandb and rank == 0)
    set_seed(run_flags.seed)  # before the adapter draws its first values
    loaded = model.load_base(
        weights.base_to_load(base, lora, start.adapter),
        weights.weight_bits(lora_flags.train, model_flags.bits, run_flags.deepspeed),
        placed=not sharding.prepare_sharded_loading(run_flags, sharded["zero_stage"]),
    )
    loaded.config.use_cache = False
    if getattr(loaded, "is_quantized", False):
        loaded = prepare_model_for_kbit_training(loaded, run_flags.gradient_checkpointing, checkpointing)
    trained = weights.make_trainable(loaded, lora, start.adapter, model_flags.model_path)

    # 6. train
    facts = {
        "run_id": run_id(start),
        "flags": {**all_flags, **vars(lora_flags), **vars(run_flags)},
        "prompt_type": data_flags.prompt_type,
        "plan": plan.facts,
        "exact": exact,  # what a resumed run is compared with, beside the flags
        # what this run has from elsewhere, and a resumed one has to take over
        "data_start": start.data_start,
        "at_least": start.min_steps,
        "inherited": {**start.inherited, **(vars(lora_flags) if start.adapter else {})},
    }
    stopper = GracefulStopCallback(output, start.step, start.resume)
    trainer = training.AdapterTrainer(
        model=trained,
        args=arguments,
        batches=batches,
        train=train,
        held_out=held_out,
        location=examples.location,
        stopper=stopper,
        step_log=callbacks.StepLog(output, start.resume, start.step) if rank == 0 else None,
        callbacks=[
            callbacks.ProgressBarCallback(plan.facts["tokens_train"], run_flags.log_steps),
            callbacks.CheckpointCallback(
                output, facts, best_loss(output, start), run_flags.save_total_limit, base.path
            ),
            stopper,
        ],
    )
    trainer.remove_callback(PrinterCallback)  # ProgressBarCallback speaks instead
    training.check_same_on_all_ranks({"set of tokenised records": examples.sha256, "base": exact["base_fingerprint"]})
    with resumable_checkpoint(
        start.schedule, start.resume, trained, plan.next_rate, run_flags, arguments.fp16
    ) as resume:
        training.run_training(trainer, resume)

    # 7. save
    tensors = gather_tensors(trained, keep=trainer.is_world_process_zero())
    if trainer.is_world_process_zero():
        weights.save_trained(trained, output, tensors, base.path)
        write_run_args(output, facts, step=trainer.state.global_step)
        trainer.save_state()  # trainer_state.json: every logged loss
        callbacks.plot_losses(trainer.state.log_history, output / "loss.png")
        say.info("%s", weights.closing_message(trained, output, base.path))


def one_gpu_per_process(environ) -> int:
    """Let a plain `python finetune.py` see the first GPU only, before torch counts them; how many there were.

    The Trainer would otherwise spread every batch with DataParallel, which is slow and breaks quantised bases.
    """
    if "LOCAL_RANK" in environ:
        return 1
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    here = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    names = [str(i) for i in range(here)] if chosen is None else chosen.split(",")
    if len(names) > 1:
        environ["CUDA_VISIBLE_DEVICES"] = names[0]
    return len(names)


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, ModelFlags, DataFlags, LoraFlags, RunFlags)))
