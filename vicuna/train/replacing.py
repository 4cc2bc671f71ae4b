"""A finished run's files in the place of an earlier run's: one name says that they count, and from then on nobody opens
what stands there until all of them are in their places. Where the process is killed before that, the next run in the
folder goes on with it. Nothing here imports torch.
"""

import os
from contextlib import suppress
from pathlib import Path

from vicuna.files.aside import aside_folder, flush, flush_all, remove_left_behind, write_text
from vicuna.foreign.paths import read_text
from vicuna.model.found import ADAPTER_CONFIG, ADAPTER_FILES, FORMER, REPLACING
from vicuna.model.model_card import CARD, is_ours

_RESULTS = (*ADAPTER_FILES, ADAPTER_CONFIG, "model*.safetensors*", "pytorch_model*.bin*")


def replace_result(work: Path, output: Path) -> None:
    """Put what a finished run has left in its work folder, all of it, in the place of an earlier run's."""
    new = {path.name for path in work.iterdir()}
    write_text(work / FORMER, "\n".join(sorted(_results(output) - new)))
    flush_all(work)
    os.replace(work, output / REPLACING)
    flush(output)
    finish_replacing(output)


def finish_replacing(output: Path) -> bool:
    """Go on with what `replace_result` has begun there; whether it has."""
    new = output / REPLACING
    if new.is_symlink() or not (new / FORMER).is_file():
        with suppress(OSError):  # it is not there, or somebody else's
            new.rmdir()
        remove_left_behind(output)
        return False
    with aside_folder(output) as aside:
        for path in sorted(new.iterdir(), key=lambda path: (path.is_dir(), path.name)):
            target = output / path.name
            if path.name == FORMER:
                continue
            if path.name == CARD and not is_ours(target):
                path.unlink()
                continue
            if path.is_dir() and target.is_dir():  # a folder does not go over another
                os.replace(target, aside / path.name)
            os.replace(path, target)
        for name in _results(output).intersection(read_text(new / FORMER).split()):  # nothing else, whoever wrote it
            (output / name).unlink()
        flush(output)
        (new / FORMER).unlink()
        new.rmdir()
    return True


def _results(folder: Path) -> set[str]:
    return {file.name for pattern in _RESULTS for file in folder.glob(pattern)}
