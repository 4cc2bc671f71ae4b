"""finetune.py, told to stop at an exact place: python tests/train/stop_at.py PLACE STEP [flags of finetune.py].

PLACE is substep, step_end, evaluation or save: the signal is raised there, in step STEP; SIGTERM, or with a colon
behind the place another, ignored one too: step_end:SIGHUP. Or slow: every micro batch
from step STEP on takes 4.5 seconds longer, and the signal comes from outside. Or fail: process 1 fails after STEP.
Or fill: the disk of the output folder is full from there on; fill:SIGINT raises the signal as well.
"""

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from transformers import TrainerCallback

import finetune
from vicuna.errors import UserError, run
from vicuna.train import full_disk, trainer
from vicuna.train.command_line import parse_training


def fill(file: Path) -> None:
    """Leave no room on the disk of `file`."""
    with file.open("wb", buffering=0) as opened, suppress(OSError):
        while True:
            opened.write(bytes(4096))


class At(TrainerCallback):
    def __init__(self, place: str, step: int):
        self.place, _, name = place.partition(":")
        self.signal, self.step = signal.Signals[name or "SIGTERM"], step

    def _reached(self, place: str, state) -> None:
        if place == self.place and state.global_step + (place == "substep") == self.step:
            os.kill(os.getpid(), self.signal)

    def on_substep_end(self, args, state, control, **kwargs):
        if self.place == "slow" and state.global_step + 1 >= self.step:
            time.sleep(4.5)
        self._reached("substep", state)

    def on_step_end(self, args, state, control, **kwargs):
        if self.place == "fill" and state.global_step == self.step:
            fill(Path(args.output_dir) / "filler")
            if self.signal != signal.SIGTERM:
                os.kill(os.getpid(), self.signal)
        self._reached("step_end", state)
        if self.place == "fail" and state.global_step == self.step and os.environ.get("RANK") == "1":
            raise UserError("planted")

    def on_prediction_step(self, args, state, control, **kwargs):
        self._reached("evaluation", state)

    def on_save(self, args, state, control, **kwargs):
        self._reached("save", state)


def main() -> None:
    place, step, *argv = sys.argv[1:]
    full_disk.WAIT_S = float(os.environ.get("WAIT_S", full_disk.WAIT_S))
    run_training = trainer.run_training

    def watched(adapter_trainer, resume):
        adapter_trainer.callback_handler.callbacks.insert(0, At(place, int(step)))
        run_training(adapter_trainer, resume)

    trainer.run_training = watched
    finetune.main(parse_training("", argv=argv))


if __name__ == "__main__":
    run(main)
