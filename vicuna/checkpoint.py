"""Where a run begins: new, from an adapter, or from a checkpoint of the same run."""

from dataclasses import dataclass
from pathlib import Path

from vicuna.adapter import HUB_FILES, WEIGHT_FILES
from vicuna.args import RunFlags
from vicuna.errors import UserError
from vicuna.model import local_folder

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


def starting_point(run: RunFlags) -> Start:
    """What --resume_from_checkpoint or --lora_remote_checkpoint mean.

    Raises:
        UserError: a folder that is neither a checkpoint of this program nor an adapter.
    """
    name, flag = run.resume_from_checkpoint, "--resume_from_checkpoint"
    if run.lora_remote_checkpoint and not (name and Path(name).is_dir()):
        name, flag = run.lora_remote_checkpoint, "--lora_remote_checkpoint"
    if not name:
        return Start(None, None, "new run")
    folder = local_folder(name, flag, [*HUB_FILES, *CHECKPOINT_FILES, "rng_state*.pth"])
    if all((folder / file).is_file() for file in CHECKPOINT_FILES):
        if not (folder / WEIGHT_FILES[0]).is_file():
            raise UserError(
                f"{flag} {name} was written by another program: it has an optimizer, but no {WEIGHT_FILES[0]}. To "
                "start from its "
                "weights with a new schedule, copy them without optimizer.pt into a folder of their own."
            )
        data = "the data starts at its beginning" if run.ignore_data_skip else "the data goes on where it stopped"
        return Start(folder, None, f"resumes {folder}: {data}")
    return Start(None, folder, f"starts from the adapter in {folder}, with a new schedule")
