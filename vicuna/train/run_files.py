"""JSON files of a run and its checkpoints, typed: the Trainer's state, the manifest, the lines of the steps.

Checkpoints are passed on and downloaded too; the Trainer reads its state again, and takes every field of it as it is.
"""

from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from vicuna.foreign.typed import Count, Foreign, Name, opens, read_typed

STATE, MANIFEST = "trainer_state.json", "manifest.json"
BEST = "best"  # the folder of the best adapter so far
MOST_BYTES = 256 << 20  # of a state, which has 150 bytes for each step that was logged
MOST_ENTRIES = 2_000_000


def _log_entry(values: dict[str, Any]) -> dict[str, Any]:
    """What a step logged: numbers, not finite ones too, and its step among them."""
    if type(values.get("step")) is not int or not all(
        one is None or isinstance(one, bool | int | float | str) for one in values.values()
    ):
        raise ValueError("an object of numbers, its step among them")
    if not all(isinstance(values.get(name, 0.0), int | float) for name in ("loss", "eval_loss")):
        raise ValueError("an object whose losses are numbers")
    return values


def _inside_the_folder(name: str) -> str:
    """The name of a file in a checkpoint, or in a folder of it."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or any(sign in name for sign in "\\:\0"):
        raise ValueError("names of files inside the checkpoint")
    return name


LogEntry = Annotated[dict[Name, Any], AfterValidator(_log_entry)]


@opens(
    {
        **{"global_step": 100, "max_steps": 200, "epoch": 2.5, "num_train_epochs": 5, "total_flos": 9.1e11},
        **{"log_history": [{"step": 20, "loss": 4.6, "epoch": 0.5}], "stateful_callbacks": {"A": {"args": {}}}},
        **{"logging_steps": 20, "eval_steps": 500, "save_steps": 100, "train_batch_size": 32},
        **{"num_input_tokens_seen": 0, "best_metric": 1.5, "best_global_step": 100, "best_model_checkpoint": "a"},
    }
)
class RunState(Foreign):
    """A trainer_state.json. Only the first two and the history are used here, the others by the Trainer."""

    global_step: Count
    max_steps: Count
    epoch: Annotated[float, Field(ge=0, le=1e9)] | None = None
    num_train_epochs: Count | None = None
    total_flos: float | None = None
    log_history: Annotated[list[LogEntry], Field(max_length=MOST_ENTRIES)] = Field(default_factory=list)
    stateful_callbacks: dict[Name, dict[Name, Any]] | None = None
    logging_steps: Annotated[float, Field(ge=0, le=1e12)] | None = None
    eval_steps: Annotated[float, Field(ge=0, le=1e12)] | None = None
    save_steps: Annotated[float, Field(ge=0, le=1e12)] | None = None
    train_batch_size: Count | None = None
    num_input_tokens_seen: Count | None = None
    best_metric: float | None = None
    best_global_step: Count | None = None
    best_model_checkpoint: Name | None = None


class SealedFile(Foreign):
    """What a file of a checkpoint was when it was sealed."""

    size: Count
    sha256: Annotated[str, Field(min_length=64, max_length=64)]


@opens({"files": {"adapter_model.safetensors": {"size": 5, "sha256": 64 * "a"}}})
class Manifest(Foreign):
    """What seals a checkpoint."""

    files: Annotated[
        dict[Annotated[Name, AfterValidator(_inside_the_folder)], SealedFile], Field(max_length=MOST_ENTRIES)
    ]


@opens({"step": 5})
class StepLine(Foreign):
    """What is used of a line of steps.jsonl; it goes on as it is."""

    step: Count


def read_state(folder: Path) -> RunState:
    """The Trainer's state in a checkpoint.

    Raises:
        UserError: it can not be read, or a value is none of its kind.
    """
    return read_typed(folder / STATE, RunState, limit=MOST_BYTES)
