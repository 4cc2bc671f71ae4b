"""The HF Trainer with exact batches, an evaluation per supervised token, and an end to a run that has diverged.

Whatever ends or refuses a run does so on every rank at the same step, so that none waits for the others.
"""

import contextlib
import math
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft.helpers import disable_input_dtype_casting
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vicuna.data.cache import TrainingData
from vicuna.errors import UserError
from vicuna.log import log
from vicuna.train.batches import NO_SLOT, RowDataset, StepBatchSampler, collate
from vicuna.train.callbacks import StepLog
from vicuna.train.compiled import compiled_blocks
from vicuna.train.early_stopping import is_over
from vicuna.train.full_disk import failed_for_room
from vicuna.train.heap import keep_freed_memory
from vicuna.train.last_block import LastBlock
from vicuna.train.loss import mean_token_loss, step_loss, supervised_positions, token_losses
from vicuna.train.process_group import from_all_ranks
from vicuna.train.run_files import MANIFEST
from vicuna.train.sharing import Operations
from vicuna.train.signals import GracefulStopCallback

SHOWN_RECORDS = 10
MOST_SKIPS = 20  # from 65536 the scaler is down at 1/16 by then
DIVERGED = "The run has diverged: lower --learning_rate, or look at the records; the last checkpoint stands."


class AdapterTrainer(Trainer):
    """The HF Trainer with our order of rows, an evaluation that does not depend on batch or world size, a record of
    every step, and an end to a run that has diverged.

    Args:
        stopper: what can end the run early.
        step_log: where the steps are written, on one rank only.
        operations: what is counted to lay rows into one another, None where each is computed whole.
        dtype: what is computed in.
    """

    def __init__(
        self,
        *,
        batches: StepBatchSampler,
        data: TrainingData,
        stopper: GracefulStopCallback,
        step_log: StepLog | None,
        operations: Operations | None = None,
        dtype: torch.dtype = torch.float32,
        **kwargs: Any,
    ):
        super().__init__(
            train_dataset=RowDataset(data.train.rows),
            eval_dataset=RowDataset(data.held_out.rows) if data.held_out else None,
            data_collator=partial(collate, operations=operations),
            compute_loss_func=self._step_loss,
            compute_metrics=mean_token_loss,
            **kwargs,
        )
        self.batches, self.data, self.stopper, self.step_log = batches, data, stopper, step_log
        self.fed: list[tuple[list[int], torch.Tensor]] = []  # records and loss of this step's micro batches
        self.skips_in_a_row = 0
        self.operations = operations
        self._narrow = operations is not None and dtype is torch.bfloat16
        self._predicted_by: torch.Tensor | None = None

    def get_train_dataloader(self) -> DataLoader:
        """Not sharded by accelerate, whose sharding repeats rows to fill the last batch of every rank.

        It has a generator of its own: beginning to read must not move the random state of a run.
        """
        return DataLoader(
            self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator, generator=torch.Generator()
        )

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Gradients of one micro batch; notes which records it held."""
        records = list(dict.fromkeys(inputs.pop("record").tolist()))
        if records == [NO_SLOT]:
            return torch.zeros((), device=self.args.device)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.fed.append(([record for record in records if record >= 0], loss))
        return loss

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The loss of a micro batch; the model does not take what says by which logits a label is predicted."""
        self._predicted_by = inputs.pop("predicted_by", None)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> contextlib.AbstractContextManager:
        """bfloat16 where rows are laid into one another: accelerate's own way there makes float32 of all logits."""
        if not self._narrow:
            return super().autocast_smart_context_manager(cache_enabled)
        return torch.autocast(self.args.device.type, torch.bfloat16, cache_enabled=cache_enabled)

    def _step_loss(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor) -> torch.Tensor:
        return step_loss(outputs, labels, num_items_in_batch, self._predicted_by)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a step with its records, all ranks', or an evaluation.

        Raises:
            UserError: the run has diverged; on every rank, before anything of this step is saved.
        """
        records: list[int] = []
        if "loss" in logs:
            self._check_step(logs)
            records = sorted(from_all_ranks([record for part, _ in self.fed for record in part]))
            self.fed = []
        if "eval_loss" in logs and not math.isfinite(logs["eval_loss"]):
            if self.stopper.stopping:
                return  # an evaluation that was not ended; it is made up for on resume
            raise UserError(f"the evaluation loss is {logs['eval_loss']} at step {self.state.global_step}. {DIVERGED}")
        if self.step_log and ("loss" in logs or "eval_loss" in logs):
            self.step_log.add(self.state.global_step, logs, records)
        super().log(logs, start_time)

    def _check_step(self, logs: dict[str, float]) -> None:
        skipped = self.accelerator.optimizer_step_was_skipped
        self.skips_in_a_row = self.skips_in_a_row + 1 if skipped else 0
        if skipped:
            logs["skipped"] = 1
        if math.isfinite(logs["loss"]) and (skipped or math.isfinite(logs.get("grad_norm", 0.0))):
            if self.skips_in_a_row < MOST_SKIPS:
                return
            raise UserError(
                f"the loss scaler skipped {MOST_SKIPS} steps in a row, up to step {self.state.global_step}: the "
                f"gradients overflow float16 at any scale. {DIVERGED}"
            )
        fed = from_all_ranks([(records, bool(loss.isfinite())) for records, loss in self.fed])
        broken = [records for records, finite in fed if not finite] or [records for records, _ in fed]
        places = [self.data.location(record) for records in broken for record in records]
        more = f" and {len(places) - SHOWN_RECORDS} more" if len(places) > SHOWN_RECORDS else ""
        raise UserError(
            f"the loss is {logs['loss']} and the gradient's norm {logs.get('grad_norm')} at step "
            f"{self.state.global_step}, on {', '.join(places[:SHOWN_RECORDS])}{more}. {DIVERGED}"
        )

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate without moving the random state, so that --eval_steps changes no result."""
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            return super().evaluate(*args, **kwargs)

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,
        ignore_keys: Any = None,
    ) -> tuple[None, torch.Tensor, torch.Tensor]:
        """(None, (B, 2) sum and count of each row's token losses, (B,) zeros): no logits are gathered.

        Once the run is to stop, the rest of the evaluation is passed over, and its loss is not a number.
        """
        inputs = {
            name: value.to(self.args.device) if isinstance(value, torch.Tensor) else value
            for name, value in inputs.items()
            if name != "record"
        }
        labels, predicted_by = inputs.pop("labels"), inputs.pop("predicted_by", None)
        sums = torch.zeros(len(labels), 2, device=labels.device)
        if self.stopper.stop_requested(self.args.device):
            return None, sums.fill_(math.nan), sums[:, 0]
        compute_as_trained(model)
        with torch.no_grad(), self.compute_loss_context_manager():
            losses = token_losses(model(**inputs).logits, labels, predicted_by)
        row = supervised_positions(labels).nonzero()[:, 0]
        sums.index_add_(0, row, torch.stack([losses, torch.ones_like(losses)], dim=1))
        return None, sums, torch.zeros(len(labels), device=labels.device)


def compute_as_trained(model: torch.nn.Module) -> None:
    """Let 8-bit layers on a CPU compute in an evaluation what they compute in training, until the model's next mode.

    bitsandbytes 0.50 trains with the dequantised weight there, and evaluates by LLM.int8, which rounds a row's
    activations too, and keeps those columns whole that are large in any row of the batch.
    """
    from bitsandbytes.nn import Linear8bitLt

    for module in model.modules():
        if isinstance(module, Linear8bitLt) and module.weight.device.type == "cpu":
            module.train()


class DataPositionCallback(TrainerCallback):
    """Tells the Trainer where in the data a run is, and makes up for an evaluation that a stopped run left out."""

    def __init__(self, trainer: AdapterTrainer):
        self.trainer, self.batches = trainer, trainer.batches

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        step = state.global_step
        state.epoch = self.batches.epochs(step)
        due = args.eval_strategy != "no" and (step % args.eval_steps == 0 or step >= state.max_steps)
        done = any(entry["step"] == step and "eval_loss" in entry for entry in state.log_history)
        if due and not done and step > self.batches.data_start:
            self.trainer.evaluate()
        if is_over(state.log_history, self.batches.run.early_stopping):
            self.batches.end()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        state.epoch = self.batches.epochs(state.global_step)


def check_same_on_all_ranks(facts: dict[str, str]) -> None:
    """Refuse to train on hosts that hold different files, by hash.

    Raises:
        UserError: what differs, on every rank.
    """
    everywhere = from_all_ranks([facts])
    for name, value in everywhere[0].items():
        others = [rank for rank, found in enumerate(everywhere) if found[name] != value]
        if others:
            raise UserError(
                f"rank {others[0]} has another {name} than rank 0 ({everywhere[others[0]][name][:12]}…, "
                f"{value[:12]}…): copy the same files and versions to every host."
            )


@contextlib.contextmanager
def _room_for_checkpoints(trainer: AdapterTrainer) -> Iterator[None]:
    """End in a sentence where the disk has no room for a checkpoint. After the last step there is still a result to
    save: then only warn, unless that takes all ranks together.

    Raises:
        UserError: which checkpoint stands, and the command that goes on from it.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not failed_for_room(error):
            raise
        state, output = trainer.state, Path(trainer.args.output_dir)
        torn = output / f"checkpoint-{state.global_step}"
        if trainer.is_world_process_zero() and not (torn / MANIFEST).is_file():
            shutil.rmtree(torn, ignore_errors=True)  # it is in the way of what is still to be written
        text = f"the disk of {output} is full, at step {state.global_step} of {state.max_steps}"
        together = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
        early = is_over(state.log_history, trainer.batches.run.early_stopping)
        at_the_end = (state.global_step >= state.max_steps or early) and not trainer.stopper.stopping
        if not at_the_end or together:
            raise UserError(f"{text}. Make room. {trainer.stopper.go_on()}") from error
        log.warning("%s: its checkpoint is left out.", text)


def _inputs_as_they_come(trainer: AdapterTrainer) -> contextlib.AbstractContextManager:
    """Have LoRA's layers take their input as it is: in 16 bits autocast takes back at once what PEFT widens, for the
    same bits. PEFT 0.21 can not say so of trained rows of a table, which stay as they are with all others."""
    layers = [module for module in trainer.model.modules() if isinstance(module, BaseTunerLayer)]
    known = all(hasattr(layer, "cast_input_dtype_enabled") for layer in layers)
    return disable_input_dtype_casting(trainer.model, trainer.operations is not None and known)


def run_training(trainer: AdapterTrainer, resume: Path | None) -> None:
    """Run the training loop.

    Raises:
        UserError: out of memory, with the flag to lower.
        Stopped: SIGTERM or Ctrl-C; the checkpoint is saved.
    """
    trainer.add_callback(DataPositionCallback(trainer))
    if trainer.args.device.type == "cpu":
        keep_freed_memory()
    try:
        with contextlib.ExitStack() as around:
            around.enter_context(trainer.stopper.catch_signals())
            around.enter_context(_room_for_checkpoints(trainer))
            around.enter_context(_inputs_as_they_come(trainer))
            if trainer.operations:
                around.enter_context(contextlib.closing(LastBlock(trainer.model)))
            if trainer.batches.run.torch_compile:
                laid_out = trainer.operations is not None
                around.enter_context(compiled_blocks(trainer.model, laid_out, trainer.stopper))
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except torch.OutOfMemoryError as error:
        remedy = "--cutoff_len, or take fewer --bits or a smaller base"
        if trainer.args.per_device_train_batch_size > 1:
            remedy = "--micro_batch, which changes no result"
        raise UserError(f"out of memory at step {trainer.state.global_step}. Lower {remedy}.") from error
    except RuntimeError as error:
        if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
            raise
        raise UserError("lost the connection to another process, which has ended; its error stands above") from error
    trainer.stopper.raise_if_stopped(trainer.state.global_step, trainer.state.max_steps)
