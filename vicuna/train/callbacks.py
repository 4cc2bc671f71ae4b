"""What a run shows and leaves behind: progress, checkpoints, the best adapter, a record of steps, the loss curve."""

import json
import time
from itertools import takewhile
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vicuna.files.aside import whole_file, write_text
from vicuna.foreign.typed import parse, typed
from vicuna.log import log
from vicuna.model.adapter import gather_tensors, name_base_file
from vicuna.model.model_card import CARD, training_card
from vicuna.model.openable import copy_tokenizer, make_openable
from vicuna.train.checkpoint import (
    BEST,
    remove_partial_saves,
    rotate_checkpoints,
    seal_checkpoint,
    write_run_args,
)
from vicuna.train.run_files import StepLine
from vicuna.train.trainable import save_trained

STEPS = "steps.jsonl"
RECORDED = ("loss", "grad_norm", "learning_rate", "skipped", "eval_loss")


class ProgressBarCallback(TrainerCallback):
    """A progress bar on a terminal, and log lines everywhere: loss, learning rate, tokens/s, time left.

    Every step is in the Trainer's log history; a line of every `log_steps` steps shows the mean loss since the last.
    """

    def __init__(self, tokens_per_epoch: int, log_steps: int):
        self.tokens_per_epoch, self.log_steps = tokens_per_epoch, log_steps
        self.bar: tqdm | None = None
        self.first_step, self.first_epoch, self.began = 0, 0.0, 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.first_step, self.first_epoch, self.began = state.global_step, state.epoch or 0.0, time.monotonic()
            self.bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                desc="Training",
                unit="step",
                disable=None,
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(1)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict, **kwargs: Any
    ) -> None:
        if self.bar is None:
            return
        step, last = state.global_step, state.global_step >= state.max_steps
        if "eval_loss" in logs:
            log.info("step %d/%d  evaluation loss %.4f", step, state.max_steps, logs["eval_loss"])
        elif "loss" in logs and (step == 1 or step % self.log_steps == 0 or last):
            self._line(state, logs)

    def _line(self, state: TrainerState, logs: dict) -> None:
        step = state.global_step
        window = step % self.log_steps or self.log_steps
        steps = [entry for entry in state.log_history if "loss" in entry]
        loss = mean(entry["loss"] for entry in steps[-window:])
        elapsed, done = time.monotonic() - self.began, step - self.first_step
        speed = self.tokens_per_epoch * (state.epoch - self.first_epoch) / elapsed
        left = elapsed / done * (state.max_steps - step)
        skipped = sum(entry.get("skipped", 0) for entry in steps)
        note = f"  {skipped} steps skipped by the loss scaler" if skipped else ""
        self.bar.set_postfix(loss=f"{loss:.3f}", tokens_per_s=f"{speed:.0f}")
        log.info(
            "step %d/%d  loss %.4f  learning rate %.3g  %.0f tokens/s  %.0f s left%s",
            step, state.max_steps, loss, logs["learning_rate"], speed, left, note,
        )  # fmt: skip

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.bar is not None:
            self.bar.close()


class CheckpointCallback(TrainerCallback):
    """Seals every checkpoint with run_args.json and a manifest, and keeps the best adapter or model in `best/`.

    Best is the lowest evaluation loss. At most `limit` checkpoints stay.
    """

    def __init__(self, output: Path, facts: dict[str, Any], best_loss: float, limit: int, base_path: Path):
        self.output, self.facts, self.best_loss, self.limit = output, facts, best_loss, limit
        self.base_path = base_path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # A checkpoint's state brings the old run's intervals with it.
        state.logging_steps, state.eval_steps, state.save_steps = args.logging_steps, args.eval_steps, args.save_steps
        if state.is_world_process_zero:
            remove_partial_saves(self.output)
            write_run_args(self.output, self.facts, step=state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # every rank has written its random state
        if state.is_world_process_zero:
            folder = self.output / f"checkpoint-{state.global_step}"
            write_run_args(folder, self.facts, step=state.global_step)
            self._write_card(folder, state)  # in place of PEFT's, which names the base by its path
            if self.facts["flags"]["train"] == "full":
                copy_tokenizer(self.base_path, folder)
                make_openable(folder)
            name_base_file(folder)
            seal_checkpoint(folder)
            rotate_checkpoints(self.output, self.facts["run_id"], self.limit)

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
            weights = gather_tensors(model, keep=state.is_world_process_zero)
            if state.is_world_process_zero:
                save_trained(model, self.output / BEST, weights, self.base_path)
                write_run_args(self.output / BEST, self.facts, step=state.global_step, eval_loss=loss)
                self._write_card(self.output / BEST, state)

    def _write_card(self, folder: Path, state: TrainerState) -> None:
        write_text(folder / CARD, training_card(self.facts, self.base_path, state.log_history, state.global_step))


class StepLog:
    """steps.jsonl in the output folder: the loss, gradient norm, learning rate and records of every step, and the loss
    of every evaluation. It holds no times: a run that was resumed leaves the same file as one that never stopped.

    Args:
        resume: checkpoint that the run goes on from, whose run's lines are taken over; step: its step.
    """

    def __init__(self, output: Path, resume: Path | None = None, step: int = 0):
        self.file = output / STEPS
        earlier = resume.parent / STEPS if resume else None
        lines = earlier.read_text(encoding="utf-8").splitlines(keepends=True) if earlier and earlier.is_file() else []
        # What follows was written after the checkpoint, or half written when the run was killed.
        done = takewhile(lambda line: line.endswith("\n") and _step_of(line, earlier) <= step, lines)
        write_text(self.file, "".join(done))

    def add(self, step: int, logs: dict[str, Any], records: list[int]) -> None:
        entry = {"step": step, **{key: logs[key] for key in RECORDED if key in logs}}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**entry, "records": records} if records else entry) + "\n")


def _step_of(line: str, file: Path | None) -> int:
    """The step of a line of steps.jsonl.

    Raises:
        UserError: it was changed since it was written.
    """
    return typed(parse(line.encode(), f"{file}, a line of it,"), StepLine, f"{file}, a line of it").step


def plot_losses(history: list[dict[str, Any]], file: Path) -> None:
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
    with whole_file(file) as opened:
        figure.savefig(opened, dpi=120, format="png")
