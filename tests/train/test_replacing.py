"""A finished run's files take the place of an earlier run's: killed at any change, neither is opened in part."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.foreign.odd_values import refusal
from tests.killed_at import watch
from vicuna.model.found import FORMER, REPLACING, existing_folder
from vicuna.model.model_card import MARK
from vicuna.train.replacing import finish_replacing, replace_result

OLD = {
    **{"adapter_config.json": "old", "adapter_model.bin": "old", "run_args.json": "old", "README.md": f"{MARK} old"},
    **{"best/a": "old", "checkpoint-2/a": "old", "checkpoint-4/a": "old", "session.log": "old"},
}
NEW = {
    **{"adapter_config.json": "new", "adapter_model.safetensors": "new", "run_args.json": "new"},
    **{"README.md": f"{MARK} new", "best/b": "new", "checkpoint-2/b": "new", "checkpoint-6/b": "new"},
}
AFTER = {**NEW, "checkpoint-4/a": "old", "session.log": "old"}
WORK = "unfinished-1"


def fill(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def contents(folder: Path) -> dict[str, str]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file.relative_to(folder).as_posix(): file.read_text(encoding="utf-8") for file in files}


@pytest.fixture
def output(tmp_path) -> Path:
    """A folder with a result, and with one that is finished in its work folder."""
    fill(tmp_path / "out" / WORK, NEW)
    return fill(tmp_path / "out", OLD)


def test_what_is_replaced_is_the_new_alone_with_what_belongs_to_neither(output):
    replace_result(output / WORK, output)

    assert contents(output) == AFTER
    assert sorted(path.name for path in output.iterdir()) == sorted({name.split("/")[0] for name in AFTER})


def killed_at(nth: int, place: Path, counts: Path) -> int:
    """The status of a process that replaces a result, and is killed before the `nth` change to a file; 0 is none."""
    if not (child := os.fork()):
        try:
            watch(place, nth, signal.SIGKILL, counts)
            replace_result(place / WORK, place)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_killed_at_any_change_the_old_stands_or_nothing_is_opened_until_the_new_does(output, tmp_path):
    counts, seen = tmp_path / "counts", []
    assert killed_at(0, shutil.copytree(output, tmp_path / "0"), counts) == 0
    changes = len(counts.read_text(encoding="utf-8").splitlines())
    for nth in range(1, changes + 1):
        place = shutil.copytree(output, tmp_path / str(nth))
        assert killed_at(nth, place, counts) == -signal.SIGKILL
        if (place / WORK).exists():
            assert contents(place).items() >= OLD.items()
            assert existing_folder(str(place), "--lora_path") == place
            seen.append("old")
            continue
        said = refusal(lambda place=place: existing_folder(str(place), "--lora_path"))
        assert said == "" or f"{place} is half replaced: {place}/{REPLACING} holds the rest of a fin" in said
        seen.append("between" if said else "new")
        finish_replacing(place)
        finish_replacing(place)  # as every run does: what was left aside goes, too
        assert contents(place) == AFTER
        assert not [path.name for path in place.iterdir() if path.name[0] == "." or path.name == REPLACING]

    assert changes > 12
    assert seen == sorted(seen, key=["old", "between", "new"].index)
    assert set(seen) == {"old", "between", "new"}


def test_a_former_model_of_several_parts_goes_with_its_index(tmp_path):
    output = fill(tmp_path / "out", {"model-00001-of-00002.safetensors": "old", "model.safetensors.index.json": "old"})
    replace_result(fill(output / WORK, {"model.safetensors": "new", "config.json": "new"}), output)

    assert contents(output) == {"model.safetensors": "new", "config.json": "new"}


def test_a_card_that_somebody_wrote_stays(output):
    (output / "README.md").write_text("my own", encoding="utf-8")
    replace_result(output / WORK, output)

    assert contents(output) == {**AFTER, "README.md": "my own"}


def test_a_folder_of_somebody_elses_under_the_name_is_left(tmp_path):
    fill(tmp_path / REPLACING, {"a": "mine"})

    assert not finish_replacing(tmp_path)
    assert existing_folder(str(tmp_path), "--lora_path") == tmp_path
    assert contents(tmp_path) == {f"{REPLACING}/a": "mine"}
    assert FORMER not in contents(tmp_path)


def test_a_list_of_former_files_that_came_from_elsewhere_names_nothing_but_results(output):
    fill(output.parent, {"mine.txt": "kept"})
    fill(output, {"notes.txt": "kept", f"{REPLACING}/{FORMER}": "../mine.txt notes.txt adapter_model.bin"})

    assert finish_replacing(output)
    assert (output.parent / "mine.txt").is_file()
    assert (output / "notes.txt").is_file()
    assert not (output / "adapter_model.bin").exists()
