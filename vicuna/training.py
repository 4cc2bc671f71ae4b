"""What the HF Trainer lacks: exact batches on any number of processes, loss and evaluation per supervised token,
and the files a run leaves behind.
"""

import json
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vicuna.adapter import RUN_ARGS, whole
from vicuna.checkpoint import keep_latest, seal
from vicuna.data import Examples, epoch_order, rank_batches
from vicuna.errors import UserError
from vicuna.log import log
from vicuna.prompt import IGNORE_INDEX
from vicuna.weights import copy_tokenizer, save

NO_ROW = -1  # a rank with no row in a slot takes one of ignored labels, so that all ranks step together


class StepBatches(Sampler[list[int]]):
    """Batch sampler of one rank: in every optimizer step all ranks together take exactly `total_batch` rows."""

    def __init__(self, lengths: list[int], seed: int, total_batch: int, micro_batch: int, world_size: int, rank: int):
        self.lengths, self.seed, self.total_batch = lengths, seed, total_batch
        self.micro_batch, self.world_size, self.rank = micro_batch, world_size, rank
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def slots(self, rows: int) -> int:
        """Micro batches per rank for a step of `rows` rows."""
        return math.ceil(rows / (self.micro_batch * self.world_size))

    @property
    def accumulation(self) -> int:
        """Micro batches per rank in a full step."""
        return self.slots(self.total_batch)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.lengths) / self.total_batch)

    def __len__(self) -> int:
        full, rest = divmod(len(self.lengths), self.total_batch)
        return full * self.accumulation + self.slots(rest)

    def __iter__(self) -> Iterator[list[int]]:
        for step in epoch_order(self.seed, self.epoch, self.lengths, self.total_batch):
            for batch in rank_batches(step, self.micro_batch, self.world_size, self.rank):
                yield batch or [NO_ROW]


class RowDataset(Dataset):
    """Rows by index; NO_ROW is a row of one token whose label is ignored."""

    def __init__(self, rows: Any):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": [0], "labels": [IGNORE_INDEX]} if index == NO_ROW else self.rows[index]


class StepLoader(DataLoader):
    """A DataLoader that tells its batch sampler the epoch, which the Trainer announces."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad rows on the right to the longest, (B, T) each.

    `logits_to_keep` is True at the positions whose next token is supervised: the head is computed there alone.
    """
    width = max(len(row["input_ids"]) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full_like(ids, IGNORE_INDEX)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        length = len(row["input_ids"])
        ids[i, :length] = torch.as_tensor(row["input_ids"])
        labels[i, :length] = torch.as_tensor(row["labels"])
        mask[i, :length] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "logits_to_keep": kept(labels)}


def kept(labels: torch.Tensor) -> torch.Tensor:
    """(B, T) bool: positions that predict a supervised token. Position t predicts token t + 1."""
    keep = torch.zeros_like(labels, dtype=torch.bool)
    keep[:, :-1] = labels[:, 1:] != IGNORE_INDEX
    return keep


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each supervised token, float32, (N,).

    Args:
        logits: (N, V), one row for each True of `kept(labels)`.
        labels: (B, T).
    """
    targets = labels[:, 1:]
    return cross_entropy(logits.float(), targets[targets != IGNORE_INDEX], reduction="none")


def step_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor) -> torch.Tensor:
    """A micro batch's part of the step's loss, which is a mean over the supervised tokens of the whole step."""
    return token_losses(outputs.logits, labels).sum() / num_items_in_batch


def mean_token_loss(prediction: EvalPrediction) -> dict[str, float]:
    """Evaluation loss per supervised token over the whole set, from (rows, 2) sums and counts."""
    total, count = prediction.predictions.astype("float64").sum(axis=0)
    return {"loss": float(total / count)}


class AdapterTrainer(Trainer):
    """The HF Trainer with our order of rows and an evaluation that does not depend on batch or world size."""

    def __init__(self, *, batches: StepBatches, train: Examples, held_out: Examples | None, **kwargs: Any):
        super().__init__(
            train_dataset=RowDataset(train.rows),
            eval_dataset=RowDataset(held_out.rows) if held_out else None,
            data_collator=collate,
            compute_loss_func=step_loss,
            compute_metrics=mean_token_loss,
            **kwargs,
        )
        self.batches = batches

    def get_train_dataloader(self) -> StepLoader:
        """Not sharded by accelerate, whose sharding repeats rows to fill the last batch of every rank."""
        return StepLoader(self.train_dataset, batch_sampler=self.batches, collate_fn=collate)

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,
        ignore_keys: Any = None,
    ) -> tuple[None, torch.Tensor, torch.Tensor]:
        """(None, (B, 2) sum and count of each row's token losses, (B,) zeros): no logits are gathered."""
        inputs = {name: value.to(self.args.device) for name, value in inputs.items()}
        labels = inputs.pop("labels")
        with torch.no_grad(), self.compute_loss_context_manager():
            losses = token_losses(model(**inputs).logits, labels)
        sums = torch.zeros(len(labels), 2, device=labels.device)
        row = inputs["logits_to_keep"].nonzero()[:, 0]
        sums.index_add_(0, row, torch.stack([losses, torch.ones_like(losses)], dim=1))
        return None, sums, torch.zeros(len(labels), device=labels.device)


class Progress(TrainerCallback):
    """A progress bar on a terminal, and log lines everywhere: loss, learning rate, tokens/s, time left."""

    def __init__(self, tokens_per_epoch: int):
        self.tokens_per_epoch = tokens_per_epoch
        self.bar: tqdm | None = None
        self.first_step, self.began = 0, 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.first_step, self.began = state.global_step, time.monotonic()
            self.bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                desc="Training",
                unit="step",
                disable=None,
                file=sys.stderr,
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(1)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict, **kwargs: Any
    ) -> None:
        value = logs.get("loss", logs.get("eval_loss", 0.0))
        if not math.isfinite(value):
            raise UserError(
                f"the loss is {value} at step {state.global_step}: the run has diverged. Lower --learning_rate, or "
                "look at the records; the last checkpoint stands."
            )
        if self.bar is None:
            return
        if "eval_loss" in logs:
            log.info("step %d/%d  evaluation loss %.4f", state.global_step, state.max_steps, logs["eval_loss"])
        elif "loss" in logs:
            elapsed, steps = time.monotonic() - self.began, state.global_step - self.first_step
            speed = self.tokens_per_epoch * state.epoch * steps / state.global_step / elapsed
            left = elapsed / steps * (state.max_steps - state.global_step)
            self.bar.set_postfix(loss=f"{logs['loss']:.3f}", tokens_per_s=f"{speed:.0f}")
            log.info(
                "step %d/%d  loss %.4f  learning rate %.3g  %.0f tokens/s  %.0f s left",
                state.global_step, state.max_steps, logs["loss"], logs["learning_rate"], speed, left,
            )  # fmt: skip

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.bar is not None:
            self.bar.close()


class Outputs(TrainerCallback):
    """Seals every checkpoint with run_args.json and a manifest, and keeps the best adapter or model in `best/`.

    Best is the lowest evaluation loss. At most `limit` checkpoints stay.
    """

    def __init__(self, output: Path, facts: dict[str, Any], best_loss: float, limit: int, base_path: Path):
        self.output, self.facts, self.best_loss, self.limit = output, facts, best_loss, limit
        self.base_path = base_path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            write_run_args(self.output, self.facts, step=state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.eval_strategy != "no" and state.global_step >= state.max_steps:
            control.should_evaluate = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # every rank has written its random state
        if state.is_world_process_zero:
            folder = self.output / f"checkpoint-{state.global_step}"
            write_run_args(folder, self.facts, step=state.global_step)
            if self.facts["flags"]["train"] == "full":
                copy_tokenizer(self.base_path, folder)
            seal(folder)
            keep_latest(self.output, self.facts["run_id"], self.limit)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict,
        model: Any,
        **kwargs: Any,
    ) -> None:
        loss = metrics["eval_loss"]
        if loss < self.best_loss:
            self.best_loss = loss
            weights = whole(model, keep=state.is_world_process_zero)
            if state.is_world_process_zero:
                save(model, self.output / "best", weights, self.base_path)
                write_run_args(self.output / "best", self.facts, step=state.global_step, eval_loss=loss)


def write_run_args(folder: Path, facts: dict[str, Any], **more: Any) -> None:
    """Write run_args.json: flags, plan and versions, whole or not at all."""
    aside = folder / f".{RUN_ARGS}"
    aside.write_text(json.dumps({**facts, **more}, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    os.replace(aside, folder / RUN_ARGS)


def draw_losses(history: list[dict[str, Any]], file: Path) -> None:
    """The loss curve of a run as a picture, from the Trainer's log history."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for key, name in (("loss", "training"), ("eval_loss", "evaluation")):
        points = [(entry["step"], entry[key]) for entry in history if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    axes.set(xlabel="optimizer step", ylabel="loss per supervised token")
    axes.grid(alpha=0.3)
    if axes.has_data():
        axes.legend()
    figure.savefig(file, dpi=120)


def start_wandb(output: Path, wanted: bool) -> None:
    """Begin the Weights & Biases run, if one is wanted, before any time is spent; the Trainer goes on with it.

    Raises:
        UserError: no login, or no way to reach the service.
    """
    if not wanted:
        return
    import wandb

    try:
        wandb.init(project=os.environ.get("WANDB_PROJECT", "chinese-vicuna"), name=output.name, dir=output)
    except wandb.Error as error:
        raise UserError(
            f"--wandb: {str(error).strip().splitlines()[0]}. Log in with `wandb login`, or record without network: "
            "WANDB_MODE=offline."
        ) from error


def train(trainer: Trainer, resume: Path | None) -> None:
    """Run the training loop.

    Raises:
        UserError: out of memory, with the flag to lower.
    """
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except torch.OutOfMemoryError as error:
        remedy = "--cutoff_len, or take fewer --bits or a smaller base"
        if trainer.args.per_device_train_batch_size > 1:
            remedy = "--micro_batch, which changes no result"
        raise UserError(f"out of memory at step {trainer.state.global_step}. Lower {remedy}.") from error
