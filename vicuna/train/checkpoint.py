"""Checkpoints on disk: sealing one when it is whole, telling a torn one, and removing the oldest.

A checkpoint counts once its manifest stands, which is written last, flushed, and renamed into place: whatever a
kill leaves behind without a manifest is torn and never used.
"""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from vicuna.errors import UserError
from vicuna.files.aside import flush, remove_left_behind, write_text
from vicuna.foreign.typed import is_absent, read_typed
from vicuna.model.base import Base, fingerprint
from vicuna.model.found import RUN_ARGS, run_args
from vicuna.train.run_files import BEST, MANIFEST, Manifest

REMOVING, SAVING = ".removing-", ".saving-"  # the second of earlier versions
CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")


def write_run_args(folder: Path, facts: dict[str, Any], **more: Any) -> None:
    """Write run_args.json: flags, plan and versions."""
    write_text(folder / RUN_ARGS, json.dumps({**facts, **more}, ensure_ascii=False, indent=2) + "\n")


def seal_checkpoint(folder: Path) -> None:
    """Flush a checkpoint's files and write its manifest: name, size and SHA-256 of each."""
    files = {}
    remove_left_behind(folder)  # a kill in an earlier save of this step
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST):
        flush(file)
        files[file.relative_to(folder).as_posix()] = {"size": file.stat().st_size, "sha256": _sha256(file)}
    flush(folder)  # the new names, too, are on the disk
    write_text(folder / MANIFEST, json.dumps({"files": files}, indent=2))
    flush(folder.parent)


def torn_reason(folder: Path) -> str:
    """What is wrong with a checkpoint of this program; "" for a whole one."""
    if is_absent(folder / MANIFEST):
        return f"{MANIFEST} is missing: the save did not end"
    try:
        files = read_typed(folder / MANIFEST, Manifest).files
    except UserError as error:
        return f"{MANIFEST} can not be read ({error})"
    for name, expected in files.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != expected.size or _sha256(file) != expected.sha256:
            return f"{name} is not what was saved"
    return ""


def check_adapter_folder(folder: Path, base: Base, ignore_fingerprint: bool) -> None:
    """Refuse to make something of an adapter that is a torn checkpoint, or that says it was trained on another base.

    Raises:
        UserError: see above.
    """
    ours = CHECKPOINT_NAME.fullmatch(folder.name) and (folder.parent / RUN_ARGS).is_file()
    if (ours or (folder / MANIFEST).is_file()) and (problem := torn_reason(folder)):
        raise UserError(f"--lora_path {folder} is torn: {problem}. Take another checkpoint of the run.")
    trained_on = run_args(folder).get("exact", {}).get("base_fingerprint")
    if trained_on and not ignore_fingerprint and trained_on != (found := fingerprint(base.path)):
        raise UserError(
            f"the adapter in {folder} was trained on another base than {base.place}: run_args.json has the fingerprint "
            f"{trained_on[:12]}…, this base has {found[:12]}…. Pass the base it was trained on; or "
            "--ignore_fingerprint True if this one has the same weights, or gets them from the adapters before it."
        )


def list_checkpoints(output: Path) -> list[Path]:
    """The checkpoint folders in `output`, latest step first, whole or torn."""
    found = [
        (int(match[1]), path) for path in output.glob("checkpoint-*") if (match := CHECKPOINT_NAME.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found, reverse=True)]


def rotate_checkpoints(output: Path, run_id: str, limit: int) -> None:
    """Remove the oldest sealed checkpoints of this run beyond `limit`; those of other runs are not touched."""
    own = [
        path
        for path in list_checkpoints(output)
        if (path / MANIFEST).is_file() and run_args(path).get("run_id") == run_id
    ]
    for old in own[limit:]:
        aside = output / f"{REMOVING}{old.name}"
        os.replace(old, aside)  # from here on it is no checkpoint, however far the removal comes
        shutil.rmtree(aside)


def remove_partial_saves(output: Path) -> None:
    """Remove what a killed run left aside: adapters not yet in place, and checkpoints not yet quite removed."""
    for pattern in (f"{REMOVING}*", f"{SAVING}*", f"{BEST}/{SAVING}*"):
        for aside in output.glob(pattern):
            shutil.rmtree(aside)
    for folder in (output, output / BEST):
        remove_left_behind(folder)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
