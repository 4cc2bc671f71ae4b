"""One run at a time in a folder: the lock, who holds it, and that it ends with its process."""

import errno
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.foreign.odd_values import odd_texts
from vicuna.errors import UserError
from vicuna.files import aside, folder_lock
from vicuna.files.folder_lock import BESIDE, LOCK, held_file, held_folder, holder

ROOT = Path(__file__).resolve().parent.parent.parent
HOLD_BESIDE = """
import sys
from pathlib import Path
from vicuna.files.folder_lock import BESIDE, held_file
lock = Path(sys.argv[1])
with held_file(lock.with_name(lock.name[1:].removesuffix(BESIDE)), "--out_path"):
    print("held", flush=True)
    sys.stdin.read()
"""
HOLD = """
import os, sys
from pathlib import Path
from vicuna.files.folder_lock import held_folder
with held_folder(Path(sys.argv[1]), "--output_path", os.environ):
    print("held", flush=True)
    sys.stdin.read()
"""


def held_elsewhere_beside(lock: Path):
    """The process that holds the file beside which `lock` lies, while the block runs."""
    return held_elsewhere(lock, HOLD_BESIDE)


@contextmanager
def held_elsewhere(folder: Path, program: str = HOLD, **environ: str):
    """The process that holds `folder` while the block runs; it ends when its input does."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    command = [sys.executable, "-c", program, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


def test_a_folder_that_is_held_is_refused_with_its_holder(tmp_path):
    folder = tmp_path / "new" / "out"
    with held_elsewhere(folder) as process:
        assert holder(folder) == f"process {process.pid}"
        with pytest.raises(UserError, match=f"--output_path .*out is in use by process {process.pid}, which writes"):
            held_folder(folder, "--output_path", {}).__enter__()
        assert folder.is_dir()
    assert not folder.parent.exists()  # made by the holder, and empty

    with held_folder(folder, "--output_path", {}):
        assert holder(folder) == f"process {os.getpid()}"
        (folder / "session.log").touch()
    assert [file.name for file in folder.iterdir()] == ["session.log"]
    assert holder(folder) == ""


def test_a_killed_holder_holds_nothing(tmp_path):
    with held_elsewhere(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert json.loads((tmp_path / LOCK).read_text(encoding="utf-8"))["pid"] == process.pid
        assert holder(tmp_path) == ""
        with held_folder(tmp_path, "--output_path", {}):
            assert holder(tmp_path) == f"process {os.getpid()}"


def test_hosts_of_one_run_share_a_folder_and_those_of_another_do_not(tmp_path):
    run = {"WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
    with held_elsewhere(tmp_path, **run, RANK="0") as process:
        with held_folder(tmp_path, "--output_path", {**run, "RANK": "1"}):
            assert holder(tmp_path) == f"process {process.pid}"
        assert holder(tmp_path) == f"process {process.pid}"  # who was let in takes nothing away
        for other in ({**run, "RANK": "1", "MASTER_PORT": "29501"}, {**run, "RANK": "0"}, {}):
            with pytest.raises(UserError, match="is in use by process"):
                held_folder(tmp_path, "--output_path", other).__enter__()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(aside.fcntl, "flock", no_locks)
    monkeypatch.setattr(folder_lock.log, "propagate", True)
    with held_folder(tmp_path, "--output_path", {}):
        assert "has no locks: nothing keeps a second run out of it" in caplog.text
        assert not list(tmp_path.iterdir())


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "theirs").write_text("not a lock", encoding="utf-8")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK).symlink_to(tmp_path / "theirs")
    with pytest.raises(UserError, match="can not be written to"):
        held_folder(tmp_path / "out", "--output_path", {}).__enter__()
    assert holder(tmp_path / "out") == ""
    assert (tmp_path / "theirs").read_text(encoding="utf-8") == "not a lock"


OTHERS = {"pid": 1, "host": "another.host", "run": "", "rank": 0}


def test_a_lock_file_of_somebody_elses_making_is_in_nobodys_way(tmp_path):
    """It comes along with a folder that is passed on."""
    (tmp_path / "out").mkdir()
    for _, text in odd_texts(OTHERS, depth=3000):
        for lock in (tmp_path / "out" / LOCK, tmp_path / f".old{BESIDE}"):
            lock.write_text(text, encoding="utf-8")
        assert holder(tmp_path / "out") == ""
        with held_folder(tmp_path / "out", "--output_path", {}), held_file(tmp_path / "new", "--out_path"):
            pass


def test_locks_beside_files_that_a_kill_left_are_removed_by_the_next_run_and_no_others(tmp_path):
    dead = tmp_path / f".killed{BESIDE}"
    with held_elsewhere_beside(dead) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    (tmp_path / f".begun{BESIDE}").touch()  # killed before it said whose it is
    (tmp_path / f".other{BESIDE}").write_text(json.dumps(OTHERS), encoding="utf-8")
    for name in (".theirs.lock", f"visible{BESIDE}"):
        (tmp_path / name).touch()
    (tmp_path / f".link{BESIDE}").symlink_to(tmp_path / ".theirs.lock")
    with held_elsewhere_beside(tmp_path / f".living{BESIDE}"), held_file(tmp_path / "new", "--out_path"):
        left = {file.name for file in tmp_path.iterdir()}
    kept = {".theirs.lock", f"visible{BESIDE}", f".link{BESIDE}", f".other{BESIDE}", f".living{BESIDE}"}
    assert left == {*kept, f".new{BESIDE}"}
