"""SIGTERM, a closed terminal (SIGHUP) and Ctrl-C while training: save, and end with the command that resumes.

A signal is only noted. At the next micro batch all ranks agree to stop; unfinished accumulation is dropped, and the
random state is put back to what it was at the beginning of the step, so that the resumed run goes on bit by bit.
"""

import os
import random
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vicuna.errors import ENDING_SIGNALS, Stopped
from vicuna.log import log

# What --resume_from_checkpoint stands in place of in the command that goes on with a stopped run.
REPLACED_FLAGS = ("--resume_from_checkpoint", "--lora_remote_checkpoint", "--continue_schedule", "--ignore_data_skip")


class GracefulStopCallback(TrainerCallback):
    """Ends a run early and resumably. A second Ctrl-C ends it at once, but not under torchrun, which repeats signals.

    Args:
        output: where checkpoints are written.
        saved: latest step that has a checkpoint, 0 for none; resume: that checkpoint.
    """

    def __init__(self, output: Path, saved: int = 0, resume: Path | None = None):
        self.output, self.saved, self.checkpoint = output, saved, resume
        self.signal = 0
        self.stopping = False
        self._random: list[Any] = []

    @contextmanager
    def catch_signals(self) -> Iterator[None]:
        """Note signals instead of dying by them; `nohup`, which has SIGHUP ignored, is respected."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        numbers += [one for one in ENDING_SIGNALS if signal.getsignal(one) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._note) for number in dict.fromkeys(numbers)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT and self.signal and "LOCAL_RANK" not in os.environ:
            raise KeyboardInterrupt
        if not self.signal:
            log.info("%s: saving at the next micro batch, then ending", signal.Signals(number).name)
        self.signal = number

    def stop_requested(self, device: torch.device) -> bool:
        """Whether any rank was told to stop; every rank must ask at the same place."""
        if self.stopping:
            return True
        agreed = self.signal
        if torch.distributed.is_initialized():
            told = torch.tensor(self.signal, device=device)
            torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
            agreed = int(told)
        if agreed:  # else what came meanwhile is told the next time
            self.signal, self.stopping = agreed, True
        return self.stopping

    def raise_if_stopped(self, step: int, steps: int) -> None:
        """End the program, if it was to stop.

        Raises:
            Stopped: with the command that resumes.
        """
        if not self.stopping:
            return
        text = f"stopped by {signal.Signals(self.signal).name} after step {step} of {steps}"
        if self.checkpoint is None:
            raise Stopped(f"{text}, before there was anything to save", 128 + self.signal)
        raise Stopped(f"{text}; go on with:\n  {self._command()}", 128 + self.signal)

    def go_on(self) -> str:
        """Which checkpoint stands, and the command that goes on from it."""
        if self.checkpoint is None:
            return "There is no checkpoint yet to go on from."
        return f"{self.checkpoint} stands; go on with:\n  {self._command()}"

    def _command(self) -> str:
        return resume_command(sys.argv, os.environ, self.checkpoint)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.gradient_accumulation_steps > 1:
            cuda = torch.cuda.get_rng_state_all()  # empty without a GPU
            self._random = [random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda]

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.stop_requested(args.device):
            python, numpy, cpu, cuda = self._random
            random.setstate(python)
            np.random.set_state(numpy)
            torch.set_rng_state(cpu)
            torch.cuda.set_rng_state_all(cuda)
            self._leave(state, control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.stop_requested(args.device):
            control.should_evaluate = False  # made up for on resume
            self._leave(state, control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.stopping:
            self._leave(state, control)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.saved, self.checkpoint = state.global_step, self.output / f"checkpoint-{state.global_step}"

    def _leave(self, state: TrainerState, control: TrainerControl) -> None:
        control.should_training_stop = True
        # The latest checkpoint, if it is of this step, is whole and is not written over.
        control.should_save = state.global_step > self.saved


def resume_command(argv: Sequence[str], environ: Mapping[str, str], checkpoint: Path) -> str:
    """The command line of this run with `checkpoint` to resume from, as the user started it."""
    words, kept = list(argv), []
    while words:
        word = words.pop(0)
        name = word.split("=")[0]
        if name not in REPLACED_FLAGS:
            kept.append(word)
        elif name == word and words and not words[0].startswith("--"):
            words.pop(0)
    processes = int(environ.get("LOCAL_WORLD_SIZE", 1))
    launcher = ["python"]
    if "LOCAL_RANK" in environ:
        hosts = int(environ.get("GROUP_WORLD_SIZE", 1))
        where = ["--standalone"] if hosts == 1 else [f"--nnodes={hosts}", "…"]
        launcher = ["torchrun", *where, f"--nproc_per_node={processes}"]
    return shlex.join([*launcher, *kept, "--resume_from_checkpoint", str(checkpoint)]).replace("'…'", "…")
