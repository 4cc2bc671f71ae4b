"""Where a run begins: anew, from an adapter, or at a step of an earlier run, whose flags, data and base are compared.

What is resumed ends as if it had never stopped: what could make a difference is refused by name.
"""

import math
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vicuna.args import this_command
from vicuna.errors import UserError
from vicuna.foreign.paths import shortened
from vicuna.log import log
from vicuna.model.flags import BEFORE, SHORT
from vicuna.model.found import HUB_FILES, RUN_ARGS, local_folder, run_args
from vicuna.train.checkpoint import CHECKPOINT_NAME, list_checkpoints, torn_reason
from vicuna.train.earlier_runs import holds_result, unfinished_folders
from vicuna.train.flags import RunFlags, TrainFlags
from vicuna.train.run_files import BEST, MANIFEST, STATE, read_state
from vicuna.train.schedule import (
    OPTIMIZER,
    SCALER,
    SCHEDULER,
    Schedule,
    check_complete,
    read_schedule,
)
from vicuna.train.work_folder import work_folder

# Flags that say how this command is to be taken, and not what the run is.
NOT_KEPT = {
    *("output_path", "resume_from_checkpoint", "as_before", "lora_remote_checkpoint", "ignore_data_skip"),
    *("continue_schedule", "elastic", "plan_only", "local_rank", "int8", "overwrite"),
}
# Flags that change no result of a run, or not that of one already begun.
NO_EFFECT = {
    "context",  # only warned of
    *("model_path", "data_path", "log_steps", "save_steps", "save_total_limit", "eval_steps"),
    *("gradient_checkpointing", "wandb", "report_to", "skip_bad_rows", "encoding", "cache_path"),
    "deepspeed",  # what its file says is compared, not where it lies
    *NOT_KEPT,
}
# What --elastic lets change: dropout draws and rounding differ, the rows of a step do not.
ELASTIC = {"micro_batch", "world_size", "threads"}
# What --ignore_data_skip lets change, since the data begins anew.
DATA = {"data_sha256", "test_size"}
CHECKPOINT_FILES = (STATE, OPTIMIZER, SCHEDULER)
DIALOGUES = "dialogues_train"  # a fact of the plan since the rows of a dialogue are drawn together
AUTO = "auto"


@dataclass(frozen=True)
class StartingPoint:
    """How a run begins.

    Attributes:
        resume: checkpoint whose weights, optimizer, schedule, random state and data position go on, or None.
        adapter: folder whose adapter the run starts from with a new schedule, or None.
        text: the same in words, for the plan.
        step: optimizer steps already done.
        data_start: step at which the data began its first epoch.
        min_steps: optimizer steps of an earlier schedule that this run goes on with, 0 for none.
        inherited: flags whose values the run has from its adapter or schedule.
        schedule: place of a checkpoint whose weights, optimizer and learning rate go on, or None.
    """

    resume: Path | None = None
    adapter: Path | None = None
    text: str = "new run"
    step: int = 0
    data_start: int = 0
    min_steps: int = 0
    inherited: dict[str, Any] = field(default_factory=dict)
    schedule: Schedule | None = None

    def inherit(self, flags: Any) -> Any:
        """`flags` with the inherited values in place of its own."""
        mine = {name: value for name, value in self.inherited.items() if hasattr(flags, name)}
        for name, value in mine.items():
            if not _fits(value, getattr(flags, name)):
                raise UserError(
                    f"the {RUN_ARGS} of {self.resume or self.adapter} hands on {name} {shortened(value)}, and "
                    f"--{name} is not of that kind: take the checkpoint's own {RUN_ARGS}."
                )
        return replace(flags, **mine)


def _fits(value: Any, own: Any) -> bool:
    """Whether a value can stand in a flag's place."""
    numbers = [isinstance(one, int | float) and not isinstance(one, bool) for one in (value, own)]
    return None in (value, own) or all(numbers) or type(value) is type(own)


NEW_RUN = StartingPoint()


def starting_point(run: RunFlags, facts: dict[str, Any]) -> StartingPoint:
    """What --resume_from_checkpoint, --lora_remote_checkpoint or --continue_schedule mean.

    Args:
        facts: every flag of this run by name, and what else its result depends on.

    Raises:
        UserError: a folder that is neither a checkpoint nor an adapter, or a torn one; a checkpoint of a run with
            other flags, data, base or versions.
    """
    if run.continue_schedule:
        return _continue_schedule(run)
    name, flag = run.resume_from_checkpoint, "--resume_from_checkpoint"
    if run.lora_remote_checkpoint and not (name and Path(name).is_dir()):
        name, flag = run.lora_remote_checkpoint, "--lora_remote_checkpoint"
    if not name:
        return replace(NEW_RUN, text=NEW_RUN.text + _earlier_run(Path(run.output_path)))
    if name == AUTO:
        return _resume_latest(run, facts)
    folder = _whole_folder(name, flag)
    if (folder / MANIFEST).is_file():  # also one of DeepSpeed or FSDP, which keep the optimizer in folders of their own
        return _resume(folder, run, facts)
    if all((folder / file).is_file() for file in CHECKPOINT_FILES):
        return _resume_foreign(folder, run, flag)
    if any(folder.glob("global_step*")):
        raise UserError(
            f"{flag} {name} is a DeepSpeed checkpoint without a {MANIFEST}, which can not be resumed; start from an "
            "adapter folder."
        )
    return StartingPoint(None, folder, f"starts from the adapter in {folder}, with a new schedule")


def flags_as_before(run: RunFlags) -> dict[str, Any]:
    """What the flags were of the run that --resume_from_checkpoint or --lora_remote_checkpoint mean.

    Raises:
        UserError: they mean no folder, or there is no whole checkpoint to resume.
    """
    name = run.resume_from_checkpoint or run.lora_remote_checkpoint
    if name == AUTO:
        folder = next((folder for folder, problem in _found(Path(run.output_path)) if not problem), None)
        if folder is None:
            raise UserError(
                f"--as_before takes the flags of a run's checkpoint, and --output_path {run.output_path} has no whole "
                "one: name the folder of the run, or start it with finetune.sh."
            )
    else:
        folder = _whole_folder(name, "--resume_from_checkpoint")
    if not (folder / MANIFEST).is_file():  # an adapter, or a checkpoint of another program: no run of ours
        return {}
    known = TrainFlags.names() - NOT_KEPT
    return {name: value for name, value in run_args(folder).get("flags", {}).items() if name in known}


def _whole_folder(name: str, flag: str) -> Path:
    """The folder that `name` means, unless it is a torn checkpoint of this program."""
    folder = local_folder(name, flag, [*HUB_FILES, *CHECKPOINT_FILES, MANIFEST, SCALER, "rng_state*.pth"])
    ours = (folder / MANIFEST).is_file() or (folder.parent / RUN_ARGS).is_file()
    if CHECKPOINT_NAME.fullmatch(folder.name) and ours and (problem := torn_reason(folder)):
        raise UserError(
            f"{flag} {name} is torn: {problem}. Take the checkpoint before it, or --resume_from_checkpoint auto."
        )
    return folder


def _continue_schedule(run: RunFlags) -> StartingPoint:
    """Weights, optimizer and learning rate go on; the data is other data, and starts at its beginning."""
    flag = "--continue_schedule"
    schedule = read_schedule(_whole_folder(run.continue_schedule, flag), flag)
    log.info("%s %s: %s", flag, schedule.folder, schedule)
    return _from_schedule(
        schedule, run, flag, schedule.step, "continues the schedule of", "the new data from its beginning"
    )


def _resume_foreign(folder: Path, run: RunFlags, flag: str) -> StartingPoint:
    """A checkpoint of another program: all goes on but what can not be read safely."""
    if run.sharding_flag:
        raise UserError(
            f"{flag} {folder} is a checkpoint of another program, which can not be resumed with {run.sharding_flag}: "
            "drop it, or start from its adapter with a new schedule."
        )
    schedule = read_schedule(folder, flag)
    data = "from its beginning" if run.ignore_data_skip else "where its steps would be in this program's order"
    start = schedule.step if run.ignore_data_skip else 0
    return _from_schedule(schedule, run, flag, start, "goes on from the foreign checkpoint", f"the data {data}")


def _from_schedule(schedule: Schedule, run: RunFlags, flag: str, data_start: int, how: str, data: str) -> StartingPoint:
    check_complete(schedule, flag)
    old = run_args(schedule.folder)
    inherited: dict[str, Any] = {"learning_rate": schedule.peak}
    inherited["lr_scheduler"] = old.get("flags", {}).get("lr_scheduler", run.lr_scheduler)
    inferred = schedule.warmup if inherited["lr_scheduler"] == "linear" else None
    warmup = old.get("plan", {}).get("warmup_steps", inferred)
    if warmup is not None:
        inherited |= {"warmup_steps": warmup, "warmup_ratio": None}
    unread = ", ".join(schedule.unreadable)
    note = f"; not read, because only a pickle could: {unread}, so it will not be bit by bit" if unread else ""
    text = f"{how} {schedule.folder} at step {schedule.step} of {schedule.max_steps}; {data}{note}"
    return StartingPoint(
        None, schedule.folder, text, schedule.step, data_start, schedule.max_steps, inherited, schedule
    )


def _resume_latest(run: RunFlags, facts: dict[str, Any]) -> StartingPoint:
    """The latest whole checkpoint in the output folder, or a new run where there is none."""
    skipped, refusal = "", None
    output = Path(run.output_path)
    other = None
    for folder, problem in _found(output):
        if folder.parent == other:
            continue
        if problem:
            skipped += f"; {folder.name} is passed over, {problem}"
            continue
        try:
            start = _resume(folder, run, facts)
        except UserError as error:  # of another run; one of this run may lie beside it
            refusal, other = refusal or error, folder.parent
            continue
        return replace(start, text=start.text + skipped)
    if refusal:
        raise refusal
    return replace(NEW_RUN, text=f"{NEW_RUN.text}: {run.output_path} has no whole checkpoint to resume{skipped}")


def _found(output: Path) -> Iterator[tuple[Path, str]]:
    """Checkpoints in an output folder, those of the latest run first and the latest first, and what is torn of each."""
    for home in (*unfinished_folders(output), output):
        for folder in list_checkpoints(home):
            yield folder, torn_reason(folder)


def _resume(folder: Path, run: RunFlags, facts: dict[str, Any]) -> StartingPoint:
    old = run_args(folder)
    _check_same_run(old, facts, run, folder)
    step = read_state(folder).global_step
    data = "the data starts at its beginning" if run.ignore_data_skip else "the data goes on where it stopped"
    data_start = step if run.ignore_data_skip else old.get("data_start", 0)
    # On other data the schedule is still that of the run, and is not over before it would have been.
    planned = old.get("plan", {}).get("steps")
    if run.ignore_data_skip and planned is None:
        raise UserError(f"the {RUN_ARGS} of {folder} has no plan.steps: take the checkpoint's own {RUN_ARGS}.")
    min_steps = planned if run.ignore_data_skip else old.get("at_least", 0)
    text = f"resumes {folder} at step {step}: {data}"
    return StartingPoint(folder, None, text, step, data_start, min_steps, old.get("inherited", {}))


def _earlier_run(output: Path) -> str:
    """What a new run finds in its output folder."""
    if (work := work_folder(output)) == output:
        return ""
    what = "a result" if holds_result(output) else "checkpoints"
    return f"; {output} holds {what} of an earlier one, which stays as it is until this one ends: it works in {work}"


def check_order(start: StartingPoint) -> None:
    """Refuse to resume a run that drew the rows of a dialogue apart, on data with dialogues of several rows: what is
    left of its epoch would be other rows.

    Raises:
        UserError: it did, and the data does not begin anew.
    """
    if start.resume and start.data_start < start.step and DIALOGUES not in run_args(start.resume).get("plan", {}):
        raise UserError(
            f"{start.resume} was begun with the answers of a dialogue drawn apart, this version keeps them together: "
            "resume it with the version that began it, or pass --ignore_data_skip to begin the data anew. To begin a "
            "new schedule from its weights, pass the folder of its adapter instead."
        )


def run_id(start: StartingPoint) -> str:
    """Names a run: a new one for a new run, that of the checkpoint for a resumed one."""
    return (run_args(start.resume).get("run_id") if start.resume else None) or uuid.uuid4().hex


def best_loss(work: Path, start: StartingPoint) -> float:
    """The evaluation loss that `best/` in the work folder stands for when a run is resumed, else infinity."""
    known = run_args(work / BEST) if start.resume and (work / BEST).is_dir() else {}
    return math.inf if known.get("eval_loss") is None else known["eval_loss"]


def _check_same_run(old: dict[str, Any], facts: dict[str, Any], run: RunFlags, folder: Path) -> None:
    """Refuse to resume what was begun with other flags, data, base or versions: the result would be neither run's."""
    before = {**old.get("flags", {}), **old.get("exact", {})}
    before = {"max_steps": None, "share_prefix": False, "torch_compile": False} | before  # there were no such flags
    for values, stands_for in ((facts := dict(facts), SHORT), (before, SHORT if "trains" in old else BEFORE)):
        if "train" in values:
            values["train"] = stands_for.get(values["train"], values["train"])
    allowed = NO_EFFECT | set(old.get("inherited", {}))
    allowed -= {"eval_steps"} if run.early_stopping else set()  # which then says when the run ends
    allowed |= ELASTIC if run.elastic else set()
    allowed |= DATA if run.ignore_data_skip else set()
    others = [name for name in facts if name not in allowed and name in before and before[name] != facts[name]]
    if not others:
        return
    exact, said = old.get("exact", {}), {}
    for name in others:
        spelt = name if name in exact else f"--{name}"
        said.setdefault(_way_out(name), []).append(f"with {spelt} {before[name]}, this run has {facts[name]}")
    text = "; ".join(
        f"{'; '.join(ones)}: {way.format('them' if len(ones) > 1 else 'it')}" for way, ones in said.items()
    )
    flags = {name: before[name] for name in others if name not in exact}
    command = f" With the flags that it had: {this_command(flags)}." if flags else ""
    raise UserError(
        f"{folder} was begun {text}.{command} To begin a new schedule from its weights, pass the folder of its adapter "
        "instead."
    )


def _way_out(name: str) -> str:
    way = "pass --elastic to go on with another one" if name in ELASTIC else "a resumed run must keep {}"
    return f"{way}, or pass --ignore_data_skip to begin the data anew" if name in DATA else way
