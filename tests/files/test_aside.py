"""Hidden names of what is not whole yet: whose they are, and that nothing else is removed."""

import os
import signal
import socket
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from vicuna.files import aside
from vicuna.files.aside import PREFIX, aside_folder, remove_left_behind, whole_file, write_text

ROOT = Path(__file__).resolve().parent.parent.parent
WRITE = """
import sys
from pathlib import Path
from vicuna.files.aside import aside_folder, whole_file
with aside_folder(Path(sys.argv[1])) as folder, whole_file(Path(sys.argv[1]) / "name") as file:
    (folder / "part").write_text("half", encoding="utf-8")
    file.write(b"half")
    print("there", flush=True)
    sys.stdin.read()
"""


@contextmanager
def writing(place: Path):
    """A process with a folder and a file aside, while the block runs."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WRITE, str(place)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout.readline() == "there\n"
        yield process
        process.stdin.close()


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_what_a_living_process_has_aside_stays_and_what_a_killed_one_had_goes(tmp_path):
    with writing(tmp_path) as process:
        theirs = names(tmp_path)
        assert len(theirs) == 2
        assert all(f"-{process.pid}-" in name and name.startswith(PREFIX) for name in theirs)
        remove_left_behind(tmp_path)
        write_text(tmp_path / "mine", "text")
        assert names(tmp_path) == [*theirs, "mine"]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert names(tmp_path) == [*theirs, "mine"]
    write_text(tmp_path / "mine", "text")
    assert names(tmp_path) == ["mine"]


def name_of(host: str, boot: str) -> str:
    return f"{PREFIX}{host}-{boot}-1-0123456789abcdef"


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file"])
@pytest.mark.parametrize(
    ("host", "boot", "goes"),
    [("mine", "now", True), ("mine", "before", True), ("another", "now", True), ("another", "before", False)],
    ids=["this machine", "before it was restarted", "another container of it", "another machine"],
)
def test_what_is_left_is_removed_on_the_machine_whose_it_is(tmp_path, kind, host, boot, goes):
    mine, now = aside._machine()
    left = tmp_path / name_of(mine if host == "mine" else "0" * 8, now if boot == "now" else "1" * 8)
    if kind == "file":
        left.write_text("half", encoding="utf-8")
    else:
        left.mkdir()
    if kind == "folder":
        (left / "inside").mkdir()
        (left / "inside" / "part").touch()
        (left / "lock").touch()
    with aside_folder(tmp_path):
        assert left.exists() != goes


def test_names_that_are_not_ours_and_what_has_no_lock_are_left_alone(tmp_path):
    mine, now = aside._machine()
    lockless = tmp_path / name_of(mine, now)
    (lockless / "inside").mkdir(parents=True)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "lock").touch()
    (tmp_path / name_of(mine, now).replace("0123", "4567")).symlink_to(tmp_path / "theirs")
    others = [".vicuna-aside-", f"{PREFIX}x", ".out-kept", f"x{name_of(mine, now)}", f"{name_of(mine, now)}.bak"]
    for name in others:
        (tmp_path / name).touch()
    before = names(tmp_path)
    remove_left_behind(tmp_path)
    assert names(tmp_path) == before
    assert (tmp_path / "theirs" / "lock").exists()


def test_a_file_keeps_the_rights_it_had_and_a_link_gives_way(tmp_path):
    file, elsewhere = tmp_path / "file", tmp_path / "elsewhere"
    with whole_file(file, mode=0o600) as opened:
        opened.write(b"1")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o640)
    write_text(file, "2")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    elsewhere.write_text("theirs", encoding="utf-8")
    (tmp_path / "link").symlink_to(elsewhere)
    write_text(tmp_path / "link", "mine")
    assert elsewhere.read_text(encoding="utf-8") == "theirs"
    assert not (tmp_path / "link").is_symlink()


def failing(file: Path) -> None:
    with whole_file(file) as opened:
        opened.write(b"half")
        raise RuntimeError("stumbled")


def test_a_block_that_fails_leaves_the_file_that_stood(tmp_path):
    write_text(tmp_path / "file", "whole")
    with pytest.raises(RuntimeError, match="stumbled"):
        failing(tmp_path / "file")
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text(encoding="utf-8") == "whole"


def test_where_there_are_no_locks_it_works_and_nothing_of_others_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(aside, "fcntl", None)
    left = tmp_path / name_of(*aside._machine())
    left.touch()
    with aside_folder(tmp_path) as folder:
        (folder / "part").touch()
    write_text(tmp_path / "file", "whole")
    assert names(tmp_path) == sorted([left.name, "file"])
    assert socket.gethostname() not in left.name
