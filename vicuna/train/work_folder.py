"""Where a run writes until its adapter stands: to --output_path itself, or beside what an earlier run left in it.

What an earlier run left (an adapter, checkpoints, best/) is neither written over nor given another run_args.json before
there is something to put in its place: a new run works in unfinished-N/, whose contents move up at the end.
"""

import os
import re
import shutil
from pathlib import Path

from vicuna.errors import UserError
from vicuna.files.tensors import INDEX_FILE
from vicuna.log import SESSION
from vicuna.model.adapter_files import ADAPTER_FILES
from vicuna.model.model_card import CARD, is_ours
from vicuna.train.checkpoint import BEST, REMOVING, list_checkpoints, remove_partial_saves
from vicuna.train.process_group import from_all_ranks

UNFINISHED = re.compile(r"unfinished-(\d+)")


def unfinished_folders(output: Path) -> list[Path]:
    """Folders of runs that did not come to their end, the latest first."""
    found = [(int(match[1]), path) for path in output.glob("*") if (match := UNFINISHED.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def work_folder(output: Path, resume: Path | None = None) -> Path:
    """Where a run with this --output_path is going to write; nothing is made.

    Args:
        resume: checkpoint of the run that goes on.
    """
    home = resume.parent if resume else None
    if home and _same(home, output) and not holds_result(output):
        return output
    if home and not _same(home, output) and _is_of(home, output):
        return output / home.name
    if not holds_result(output) and not _holds_checkpoints(output):
        return output
    number = 1
    while _holds_checkpoints(output / f"unfinished-{number}"):
        number += 1
    return output / f"unfinished-{number}"


def holds_result(folder: Path) -> bool:
    """Whether an adapter or a whole model lies in `folder`."""
    whole = (*folder.glob("model*.safetensors"), *folder.glob("pytorch_model*.bin"), folder / INDEX_FILE)
    return any((folder / name).is_file() for name in ADAPTER_FILES) or any(file.is_file() for file in whole)


def check_output(output: Path, base: Path, resume: Path | None, overwrite: bool) -> None:
    """Refuse a folder whose contents this run is not to touch.

    Args:
        base: its folder; resume: checkpoint of the run that goes on.

    Raises:
        UserError: the base's own; links for what is written; a finished adapter or model, but that of the run that goes
            on, or with --overwrite.
    """
    if _same(output, base):
        raise UserError(f"--output_path {output} is the base itself, which is not written to: name another folder.")
    for path in (output / SESSION, output / BEST, *unfinished_folders(output)):
        if path.is_symlink():
            raise UserError(
                f"{path} is a link, and nothing is written through one: remove it, or name another --output_path, "
                "which may itself be a link."
            )
    if overwrite or not holds_result(output) or (resume and _is_of(resume.parent, output)):
        return
    raise UserError(
        f"--output_path {output} holds a finished adapter or model. Name another folder; pass --overwrite to have it "
        "replaced once this run's is complete; or go on with its run by --resume_from_checkpoint auto."
    )


def _is_of(home: Path, output: Path) -> bool:
    """Whether a run that worked in `home` had this --output_path."""
    return _same(home, output) or bool(UNFINISHED.fullmatch(home.name) and _same(home.parent, output))


def open_work_folder(output: Path, resume: Path | None, first_of_its_host: bool) -> Path:
    """Make the folder that this run writes to, the same one on all ranks; every rank must call it together."""
    work = output / from_all_ranks([work_folder(output, resume).relative_to(output)])[0]
    work.mkdir(parents=True, exist_ok=True)
    best = output / BEST
    if first_of_its_host and resume and work != output and _same(resume.parent, output) and best.is_dir():
        shutil.copytree(best, work / BEST, dirs_exist_ok=True)  # the best so far of the run that goes on
    from_all_ranks([True])  # before a rank looks into it
    return work


def move_up(work: Path, output: Path) -> None:
    """Put what a run has left in its work folder into the output folder, where an earlier run's of the name goes."""
    if work == output:
        return
    remove_partial_saves(output)
    for path in sorted(work.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        target, aside = output / path.name, output / f"{REMOVING}{path.name}"
        if path.name == CARD and not is_ours(target):
            path.unlink()
            continue
        if path.is_dir() and target.is_dir():
            os.replace(target, aside)
        os.replace(path, target)
        shutil.rmtree(aside, ignore_errors=True)
    work.rmdir()


def _holds_checkpoints(folder: Path) -> bool:
    return bool(list_checkpoints(folder)) or (folder / BEST).is_dir()


def _same(one: Path, other: Path) -> bool:
    return one.is_dir() and other.is_dir() and one.samefile(other)
