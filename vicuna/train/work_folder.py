"""Where a run writes until its adapter stands: to --output_path itself, or beside what an earlier run left in it.

What an earlier run left (an adapter, checkpoints, best/) is neither written over nor given another run_args.json before
there is something to put in its place: a new run works in unfinished-N/, whose contents move up at the end.
"""

import shutil
from pathlib import Path

from vicuna.train.checkpoint import list_checkpoints
from vicuna.train.earlier_runs import holds_result, is_of, same_folder
from vicuna.train.process_group import from_all_ranks
from vicuna.train.run_files import BEST


def work_folder(output: Path, resume: Path | None = None) -> Path:
    """Where a run with this --output_path is going to write; nothing is made.

    Args:
        resume: checkpoint of the run that goes on.
    """
    home = resume.parent if resume else None
    if home and same_folder(home, output) and not holds_result(output):
        return output
    if home and not same_folder(home, output) and is_of(home, output):
        return output / home.name
    if not holds_result(output) and not _holds_checkpoints(output):
        return output
    number = 1
    while _holds_checkpoints(output / f"unfinished-{number}"):
        number += 1
    return output / f"unfinished-{number}"


def open_work_folder(output: Path, resume: Path | None, first_of_its_host: bool) -> Path:
    """Make the folder that this run writes to, the same one on all ranks; every rank must call it together."""
    work = output / from_all_ranks([work_folder(output, resume).relative_to(output)])[0]
    work.mkdir(parents=True, exist_ok=True)
    best = output / BEST
    if first_of_its_host and resume and work != output and same_folder(resume.parent, output) and best.is_dir():
        shutil.copytree(best, work / BEST, dirs_exist_ok=True)  # the best so far of the run that goes on
    from_all_ranks([True])  # before a rank looks into it
    return work


def _holds_checkpoints(folder: Path) -> bool:
    return bool(list_checkpoints(folder)) or (folder / BEST).is_dir()
