"""Where a run begins: new, from an adapter, or from a checkpoint of the same run."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vicuna.adapter import HUB_FILES, WEIGHT_FILES, run_args
from vicuna.args import RunFlags
from vicuna.errors import UserError
from vicuna.model import local_folder

# Flags that change no result of a run, or not that of one already begun.
NO_EFFECT = {
    *("model_path", "data_path", "output_path", "resume_from_checkpoint", "lora_remote_checkpoint", "ignore_data_skip"),
    *("log_steps", "save_steps", "save_total_limit", "eval_steps", "micro_batch", "gradient_checkpointing", "int8"),
    *("wandb", "plan_only", "local_rank", "skip_bad_rows", "encoding"),
}
CHECKPOINT_FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt")


@dataclass(frozen=True)
class Start:
    """How a run begins.

    Attributes:
        resume: checkpoint whose weights, optimizer, schedule, random state and data position go on, or None.
        adapter: folder whose adapter the run starts from with a new schedule, or None.
    """

    resume: Path | None
    adapter: Path | None
    text: str


def starting_point(run: RunFlags, flags: dict[str, Any]) -> Start:
    """What --resume_from_checkpoint or --lora_remote_checkpoint mean.

    Args:
        flags: every flag of this run by name.

    Raises:
        UserError: a folder that is neither a checkpoint of this program nor an adapter; a checkpoint of a run
            with other flags.
    """
    name, flag = run.resume_from_checkpoint, "--resume_from_checkpoint"
    if run.lora_remote_checkpoint and not (name and Path(name).is_dir()):
        name, flag = run.lora_remote_checkpoint, "--lora_remote_checkpoint"
    if not name:
        return Start(None, None, f"new run{_earlier(Path(run.output_path))}")
    folder = local_folder(name, flag, [*HUB_FILES, *CHECKPOINT_FILES, "rng_state*.pth"])
    if all((folder / file).is_file() for file in CHECKPOINT_FILES) and any(folder.glob("rng_state*.pth")):
        if not (folder / WEIGHT_FILES[0]).is_file():
            raise UserError(
                f"{flag} {name} was written by another program: it has an optimizer, but no {WEIGHT_FILES[0]}. To "
                "start from its weights with a new schedule, copy them without optimizer.pt into a folder of their own."
            )
        data = "the data starts at its beginning" if run.ignore_data_skip else "the data goes on where it stopped"
        _compare(run_args(folder), flags, folder)
        return Start(folder, None, f"resumes {folder}: {data}")
    if any(folder.glob("global_step*")):
        raise UserError(
            f"{flag} {name} is a DeepSpeed checkpoint, which can not be resumed; start from an adapter folder."
        )
    return Start(None, folder, f"starts from the adapter in {folder}, with a new schedule")


def _earlier(output: Path) -> str:
    """What a new run finds in its output folder."""
    if (output / WEIGHT_FILES[0]).is_file():
        return f"; {output} holds an earlier one, whose adapter is replaced at the end"
    return f"; {output} holds checkpoints of an earlier one" if any(output.glob("checkpoint-*")) else ""


def best_loss(output: Path, start: Start) -> float:
    """The evaluation loss that `best/` in the output folder stands for when a run is resumed, else infinity."""
    known = run_args(output / "best") if start.resume and (output / "best").is_dir() else {}
    return known.get("eval_loss", math.inf)


def _compare(old: dict[str, Any], flags: dict[str, Any], folder: Path) -> None:
    """Refuse to resume what was begun with other flags: the result would be neither run's."""
    before = old.get("flags", {})
    for name, value in flags.items():
        if name not in NO_EFFECT and name in before and before[name] != value:
            raise UserError(
                f"{folder} was begun with --{name} {before[name]}, this run has {value}: a resumed run must keep it. "
                "To begin a new schedule from its weights, pass the folder of its adapter instead."
            )
