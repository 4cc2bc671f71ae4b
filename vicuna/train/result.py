"""The end of a run: what was trained, with all that is known of it, in place of what lay there before."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerState

from vicuna.errors import UserError
from vicuna.model.model_card import training_card, write_card
from vicuna.train.callbacks import plot_losses
from vicuna.train.checkpoint import remove_partial_saves, rotate_checkpoints, write_run_args
from vicuna.train.full_disk import save_somewhere
from vicuna.train.replacing import finish_replacing, replace_result
from vicuna.train.run_files import STATE
from vicuna.train.trainable import save_trained


@dataclass(frozen=True)
class Result:
    """What a run has come to.

    Attributes:
        tensors: what was trained, from `vicuna.model.adapter.gather_tensors`.
        facts: for run_args.json; work: where the run has written so far.
    """

    model: nn.Module
    tensors: dict[str, torch.Tensor]
    base_path: Path
    facts: dict[str, Any]
    state: TrainerState
    work: Path

    def check(self) -> None:
        """Refuse a result that is none.

        Raises:
            UserError: no step has changed anything.
        """
        learnt = [tensor.any() for name, tensor in self.tensors.items() if ".lora_B." in name]
        if learnt and not any(learnt):
            steps = [entry for entry in self.state.log_history if "loss" in entry]
            skipped = sum(entry.get("skipped", 0) for entry in steps)
            note = f", of which the loss scaler skipped {skipped}" if skipped else ""
            raise UserError(
                f"nothing was learnt in {self.state.global_step} steps{note}: every lora_B is still zero, and no "
                "adapter is written. Train for more steps, or raise --learning_rate from "
                f"{self.facts['flags']['learning_rate']:g}."
            )

    def save(self, output: Path, go_on: str) -> None:
        """Write it all to `output`; see `vicuna.train.full_disk.save_somewhere`."""
        size = sum(tensor.nbytes for tensor in self.tensors.values())
        what = "model" if self.facts["flags"]["train"] == "full" else "adapter"
        save_somewhere(lambda folder: self._write(folder, output), output, size, what, go_on)
        rotate_checkpoints(output, self.facts["run_id"], self.facts["flags"]["save_total_limit"])

    def _write(self, folder: Path, output: Path) -> None:
        if folder == output and finish_replacing(output):  # where a full disk came in between
            return
        work = self.work if folder == output else folder
        write_run_args(work, self.facts, step=self.state.global_step)
        self.state.save_to_json(str(work / STATE))  # every logged loss
        write_card(work, training_card(self.facts, self.base_path, self.state.log_history, self.state.global_step))
        plot_losses(self.state.log_history, work / "loss.png")
        save_trained(self.model, work, self.tensors, self.base_path)
        if folder == output != work:
            remove_partial_saves(output)
            replace_result(work, output)
