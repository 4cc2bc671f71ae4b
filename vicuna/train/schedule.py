"""A checkpoint's place in its schedule, read from folders of any age, and handed to the Trainer in today's form.

The folders of 2023 hold weights without a config, pickled random states and a loss scaler that today's Trainer trips
over. They are read as plain tensors and never changed: what can go on goes into a checkpoint of our own.
"""

import math
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerControl, TrainerState, get_scheduler

from vicuna.errors import UserError
from vicuna.files.aside import aside_folder
from vicuna.foreign.paths import regular_files
from vicuna.model.adapter import save_adapter
from vicuna.model.adapter_files import read_adapter_tensors
from vicuna.model.found import ADAPTER_FILES, adapter_file
from vicuna.train.flags import RunFlags
from vicuna.train.run_files import STATE, read_state

OPTIMIZER, SCHEDULER, SCALER = "optimizer.pt", "scheduler.pt", "scaler.pt"


@dataclass(frozen=True)
class Schedule:
    """Where a checkpoint stands.

    Attributes:
        step: optimizer steps done; max_steps: where its schedule ends.
        learning_rate: of the next step; peak: the highest of its schedule.
        scheduled: steps the schedule counted, fewer than `step` where the loss scaler skipped some.
        unreadable: files that can not be read without executing a pickle.
    """

    folder: Path
    step: int
    max_steps: int
    learning_rate: float
    peak: float
    scheduled: int
    unreadable: list[str]

    def __str__(self) -> str:
        return f"step {self.step}, max_steps {self.max_steps}, learning rate {_rate(self.learning_rate)}"

    @property
    def warmup(self) -> int | None:
        """Warm-up steps of a linear schedule, from lr = peak * (max_steps - s) / (max_steps - warmup); None while it
        still rises."""
        if not 0 < self.learning_rate < self.peak:
            return None
        steps = self.max_steps - self.peak * (self.max_steps - self.scheduled) / self.learning_rate
        return round(steps) if -0.5 <= steps <= self.scheduled else None


def read_schedule(folder: Path, flag: str) -> Schedule:
    """Where the checkpoint in `folder` stands.

    Raises:
        UserError: trainer_state.json or scheduler.pt is missing or can not be read.
    """
    missing = [name for name in (STATE, SCHEDULER) if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{flag} {folder} has no {' and no '.join(missing)}; expected a checkpoint of a training run.")
    state = read_state(folder)
    scheduler = read_without_pickle(folder / SCHEDULER)
    try:
        rate, peak = float(scheduler["_last_lr"][0]), float(scheduler["base_lrs"][0])
        scheduled = int(scheduler["last_epoch"])
        if not (math.isfinite(rate) and math.isfinite(peak)):
            raise ValueError("a rate that is not finite")
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise UserError(f"{folder / SCHEDULER} holds no learning rate; expected a scheduler of PyTorch.") from error
    others = [file for one in ("rng_state*.pth", "training_args.bin") for file in regular_files(folder, one)]
    unreadable = [file.name for file in others if not _plain(file)]
    return Schedule(folder, state.global_step, state.max_steps, rate, peak, scheduled, unreadable)


def check_complete(schedule: Schedule, flag: str) -> None:
    """Refuse to go on from a checkpoint without weights or optimizer, or at the end of its schedule.

    Raises:
        UserError: what is missing.
    """
    missing = [] if any((schedule.folder / name).is_file() for name in ADAPTER_FILES) else [ADAPTER_FILES[-1]]
    missing += [] if (schedule.folder / OPTIMIZER).is_file() else [OPTIMIZER]
    if missing:
        raise UserError(
            f"{flag} {schedule.folder} ({schedule}) can not go on: {' and '.join(missing)} "
            f"{'are' if len(missing) > 1 else 'is'} missing. Copy the whole checkpoint."
        )


def read_without_pickle(file: Path) -> dict[str, Any]:
    """A PyTorch file of tensors, numbers and text; no pickle is executed.

    Raises:
        UserError: it is broken, or holds program objects.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the broken archive makes it stumble over
        raise UserError(
            f"{file} can not be read as plain tensors. It is broken, or a pickle of program objects, which is never "
            "opened."
        ) from error


def _plain(file: Path) -> bool:
    try:
        torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError):
        return False
    return True


def learning_rate_at(run: RunFlags, warmup: int, steps: int, step: int) -> float:
    """The learning rate this run's own schedule has at a step."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=run.learning_rate)
    scheduler = get_scheduler(run.lr_scheduler, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    return run.learning_rate * scheduler.lr_lambdas[0](step)


def describe_rates(schedule: Schedule, rate: float) -> str:
    """What the plan says of the learning rate: one value, or that before and after."""
    before, after = _rate(schedule.learning_rate), _rate(rate)
    return f"learning rate {before}" if before == after else f"learning rate {before} before the seam, {after} after it"


def _rate(value: float) -> str:
    mantissa, exponent = f"{value:.4e}".split("e")
    return f"{mantissa}e{int(exponent)}"


@contextmanager
def resumable_checkpoint(
    schedule: Schedule | None, resume: Path | None, model: Any, rate: float, run: RunFlags, scaled: bool
) -> Iterator[Path | None]:
    """What the Trainer resumes from, while the block runs: `resume`, or the schedule's state in today's form.

    Args:
        model: the PEFT model with the checkpoint's adapter attached.
        rate: learning rate of the next step.
        scaled: whether this run scales its loss.

    Raises:
        UserError: an optimizer state that is not that of this adapter.
    """
    if schedule is None:
        yield resume
        return
    with aside_folder() as folder:
        save_adapter(model, folder)
        _write_states(schedule, model, rate, run, folder)
        if scaled and (schedule.folder / SCALER).is_file():
            torch.save(read_without_pickle(schedule.folder / SCALER), folder / SCALER)
        yield folder


def _write_states(schedule: Schedule, model: Any, rate: float, run: RunFlags, target: Path) -> None:
    trainable = [(name, value.shape) for name, value in model.named_parameters() if value.requires_grad]
    state = read_without_pickle(schedule.folder / OPTIMIZER)
    order = _order(schedule.folder, [name.replace(".default.", ".") for name, _ in trainable])
    old = state.get("state", {})
    kind = "AdamW" if any("exp_avg" in values for values in old.values()) else "an 8-bit optimizer's"
    if (kind == "AdamW") != run.optim.startswith("adamw_torch"):
        raise UserError(
            f"{schedule.folder / OPTIMIZER} is of the kind {kind}, which --optim {run.optim} can not go on with; pass "
            "the --optim of the earlier run."
        )
    if len(old) != len(trainable) or any(
        value.dim() and value.shape != trainable[i][1]
        for i, at in enumerate(order)
        for key, value in old[at].items()
        if key.startswith("exp_avg")
    ):
        raise UserError(
            f"{schedule.folder / OPTIMIZER} holds the state of {len(old)} tensors, not that of this adapter's "
            f"{len(trainable)}: it belongs to another run."
        )
    group = {**state["param_groups"][0], "lr": rate, "initial_lr": schedule.peak}
    groups = [{**group, "params": list(range(len(order)))}, {**group, "params": []}]
    torch.save({"state": {i: old[at] for i, at in enumerate(order)}, "param_groups": groups}, target / OPTIMIZER)
    scheduler = {
        "base_lrs": [schedule.peak] * 2, "last_epoch": schedule.scheduled, "_step_count": schedule.scheduled + 1,
        "_last_lr": [rate] * 2, "lr_lambdas": [None] * 2,
    }  # fmt: skip
    torch.save(scheduler, target / SCHEDULER)
    own = TrainerState(
        global_step=schedule.step,
        train_batch_size=run.micro_batch,
        logging_steps=1,
        eval_steps=run.eval_steps,
        save_steps=run.save_steps,
        stateful_callbacks=[TrainerControl()],
    )
    own.save_to_json(str(target / STATE))


def _order(folder: Path, names: list[str]) -> list[int]:
    """Where each of `names` stands in the checkpoint's optimizer.

    An optimizer knows its tensors by number, in the order of the model's. A .bin file keeps that order, which is not
    today's: the LLaMA of 2023 had down_proj before up_proj. A .safetensors file is of today's order.
    """
    file = adapter_file(folder)
    if file.suffix == ".safetensors":
        return list(range(len(names)))
    places = {name: i for i, name in enumerate(name for name in read_adapter_tensors(file) if "lora_" in name)}
    return [places[name] for name in names] if set(names) <= set(places) else list(range(len(names)))
