"""What earlier runs left in --output_path, and whether a run may go there; nothing here imports torch."""

import re
from pathlib import Path

from vicuna.errors import UserError
from vicuna.log import SESSION
from vicuna.model.found import ADAPTER_FILES
from vicuna.train.run_files import BEST

UNFINISHED = re.compile(r"unfinished-(\d+)")


def unfinished_folders(output: Path) -> list[Path]:
    """Folders of runs that did not come to their end, the latest first."""
    found = [(int(match[1]), path) for path in output.glob("*") if (match := UNFINISHED.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def holds_result(folder: Path) -> bool:
    """Whether an adapter or a whole model lies in `folder`."""
    whole = (*folder.glob("model*.safetensors*"), *folder.glob("pytorch_model*.bin"))  # an index among them
    return any((folder / name).is_file() for name in ADAPTER_FILES) or any(file.is_file() for file in whole)


def check_output(output: Path, base: Path, resume: Path | None, overwrite: bool) -> None:
    """Refuse a folder whose contents this run is not to touch.

    Args:
        base: its folder; resume: checkpoint of the run that goes on.

    Raises:
        UserError: the base's own; links for what is written; a finished adapter or model, but that of the run that goes
            on, or with --overwrite.
    """
    if same_folder(output, base):
        raise UserError(f"--output_path {output} is the base itself, which is not written to: name another folder.")
    for path in (output / SESSION, output / BEST, *unfinished_folders(output)):
        if path.is_symlink():
            raise UserError(
                f"{path} is a link, and nothing is written through one: remove it, or name another --output_path, "
                "which may itself be a link."
            )
    if overwrite or not holds_result(output) or (resume and is_of(resume.parent, output)):
        return
    raise UserError(
        f"--output_path {output} holds a finished adapter or model. Name another folder; pass --overwrite to have it "
        "replaced once this run's is complete; or go on with its run by --resume_from_checkpoint auto."
    )


def is_of(home: Path, output: Path) -> bool:
    """Whether a run that worked in `home` had this --output_path."""
    return same_folder(home, output) or bool(UNFINISHED.fullmatch(home.name) and same_folder(home.parent, output))


def same_folder(one: Path, other: Path) -> bool:
    return one.is_dir() and other.is_dir() and one.samefile(other)
