"""Folders that are written aside: complete under their name, or not there at all."""

import os
import signal
from pathlib import Path

import pytest

from vicuna.errors import Stopped, UserError
from vicuna.files.outputs import atomic_file, atomic_folder, kept_if_lost


def interrupted(output: Path) -> None:
    """Begin an output, and be told to end."""
    with atomic_folder(str(output), "--output_dir") as folder:
        (folder / "half").write_text("half", encoding="utf-8")
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL  # or the tests would end here
        signal.raise_signal(signal.SIGTERM)


def test_sigterm_in_the_middle_leaves_nothing(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="stopped by SIGTERM"):
        interrupted(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


def overtaken(output: Path) -> None:
    """Write an output, while somebody else makes a folder of that name."""
    with atomic_folder(str(output), "--output_dir") as folder:
        (folder / "weights").write_text("all of them", encoding="utf-8")
        output.mkdir()
        (output / "theirs").touch()


def stumbling(made: Path, wanted: Path) -> None:
    with kept_if_lost(made, wanted, "--out_path"):
        raise RuntimeError("the reader stumbled")


@pytest.mark.parametrize("taken", [False, True])
def test_what_is_complete_is_kept_under_another_name_where_it_can_not_get_its_own(tmp_path, taken):
    if taken:
        (tmp_path / "out-kept").touch()
    with pytest.raises(UserError, match=r"--output_dir .*out could not be finished \(Directory not empty\)") as caught:
        overtaken(tmp_path / "out")
    kept = tmp_path / ("out-kept1" if taken else "out-kept")

    assert f"is kept as {kept}: give it its name" in str(caught.value)
    assert (kept / "weights").read_text(encoding="utf-8") == "all of them"
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["theirs"]
    assert not [file for file in tmp_path.iterdir() if file.name[0] == "."]


def test_a_file_that_is_complete_is_kept_with_its_ending(tmp_path):
    made = tmp_path / "aside.gguf"
    made.write_text("model", encoding="utf-8")
    with pytest.raises(UserError, match=r"\(the reader stumbled\).*is kept as .*model-kept\.gguf"):
        stumbling(made, tmp_path / "model.gguf")
    assert (tmp_path / "model-kept.gguf").read_text(encoding="utf-8") == "model"


def making_twice(output: Path) -> None:
    with atomic_folder(str(output), "--out_path") as folder:
        (folder / "weights").touch()
        with pytest.raises(UserError, match=f"--out_path {output} is in use by process {os.getpid()}, which writes it"):
            atomic_folder(str(output), "--out_path").__enter__()
        with atomic_folder(str(output.with_name("other")), "--out_path") as other:
            (other / "weights").touch()


def test_a_second_run_with_the_same_output_is_refused_at_its_start_and_one_beside_it_is_not(tmp_path):
    making_twice(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


def test_a_file_is_put_over_the_one_that_stood_once_it_is_complete(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_text("old", encoding="utf-8")
    with atomic_file(file, "--out_path") as made:
        made.write_text("new", encoding="utf-8")
        (made.parent / "scratch").touch()
        assert file.read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
    assert file.read_text(encoding="utf-8") == "new"
