"""Ending a run whose evaluation loss no longer falls.

What counts is read from the run's own history, which every checkpoint holds: a resumed run ends where it would have.
"""

from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vicuna.log import log
from vicuna.train.signals import GracefulStopCallback


def is_over(history: Sequence[dict[str, Any]], patience: int) -> bool:
    """Whether the last `patience` evaluations were no better than the best before them; never for a patience of 0."""
    losses = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    return bool(patience and losses) and len(losses) - 1 - losses.index(min(losses)) >= patience


class EarlyStoppingCallback(TrainerCallback):
    """Ends a run after `patience` evaluations without a better loss, with a checkpoint of its last step.

    Args:
        stopper: which knows the last step that has a checkpoint.
    """

    def __init__(self, patience: int, stopper: GracefulStopCallback):
        self.patience, self.stopper = patience, stopper

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if is_over(state.log_history, self.patience) and state.global_step < state.max_steps:
            control.should_training_stop = True
            control.should_save |= state.global_step > self.stopper.saved
            best = min((entry for entry in state.log_history if "eval_loss" in entry), key=lambda one: one["eval_loss"])
            log.info(
                "step %d/%d  %d evaluations without a better loss than %.4f of step %d: the run ends here",
                state.global_step, state.max_steps, self.patience, best["eval_loss"], best["step"],
            )  # fmt: skip
