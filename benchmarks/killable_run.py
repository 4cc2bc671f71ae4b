"""A training run that is watched through its files, and killed with all its processes at a given point."""

import contextlib
import os
import shlex
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from vicuna.errors import UserError
from vicuna.files.aside import PREFIX

ROOT = Path(__file__).resolve().parent.parent
START_S = 300  # a run that has made no step by then never will


@dataclass
class Point:
    """Where a run is killed, and what it left.

    Attributes:
        lines, after_s: lines of steps.jsonl that are there by then, and seconds since the last of them.
        step, file: inside a save: its step, and the file that triggers the kill.
        state: the newest checkpoint when the run was dead: torn, whole or none, of so many files.
        words: what the resumed run has to say about it, and whether it did.
    """

    lines: int
    after_s: float = 0.0
    step: int = 0
    file: str = ""
    tries: int = 0
    state: str = ""
    files: int = 0
    words: str = ""
    recognised: bool = False


class KillableRun:
    """finetune.py in processes of its own; killed where it is left before its end."""

    def __init__(self, command: list[str], output: Path):
        self.output, self.steps, self.session = output, output / "steps.jsonl", output / "session.log"
        self._earlier = self.steps.stat().st_ino if self.steps.exists() else None
        self._said = self.session.stat().st_size if self.session.exists() else 0
        self._errors, self._began = output.with_suffix(".err"), time.time()
        env = {"OMP_NUM_THREADS": "1", **os.environ, "CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(output.parent)}
        with self._errors.open("w", encoding="utf-8") as errors:
            self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=errors)

    def __enter__(self) -> "KillableRun":
        return self

    def __exit__(self, *error: object) -> None:
        if not self.ended:
            self.kill(self.members())

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def lines(self) -> int:
        """Lines of steps.jsonl; 0 until this run has put its own in place of the one before it."""
        if not self.steps.exists() or self.steps.stat().st_ino == self._earlier:
            return 0
        return self.steps.read_bytes().count(b"\n")

    def members(self) -> list[psutil.Process]:
        """All its processes; those that a launcher starts have process groups of their own."""
        started = psutil.Process(self.process.pid)
        return [*started.children(recursive=True), started]

    def kill(self, members: list[psutil.Process]) -> None:
        """SIGKILL, and wait until all are gone."""
        for member in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        self.process.wait()
        for member in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                while member.status() != psutil.STATUS_ZOMBIE:
                    time.sleep(0.001)

    def words(self) -> str:
        """What this run, not one before it, wrote to session.log."""
        return self.session.read_bytes()[self._said :].decode("utf-8") if self.session.exists() else ""

    def wait(self) -> None:
        """Let it come to its end."""
        if status := self.process.wait():
            last = self._errors.read_text(encoding="utf-8").strip().splitlines()[-1:]
            raise UserError(f"{shlex.join(self.process.args)} ended with {status}: {''.join(last)}")

    def reach(self, point: Point) -> list[psutil.Process]:
        """Wait for `point`: the processes to kill there, none if the run ended before."""
        deadline = time.monotonic() + START_S
        while not self.lines() and not self.ended and time.monotonic() < deadline:
            time.sleep(0.002)
        members = [] if self.ended else self.members()  # now: the search takes longer than a file of a save
        folder = self.output / f"checkpoint-{point.step}"
        while not self.ended:
            if point.file and (self._made(folder / point.file.lstrip(".")) or self._is_aside(folder, point.file)):
                return members
            if not point.file and self.lines() >= point.lines:
                time.sleep(point.after_s)
                return [] if self.ended else members
            time.sleep(0 if folder.exists() else 0.0002)
        return []

    def _is_aside(self, folder: Path, name: str) -> bool:
        """Whether something is on its way to its name in a folder, for a name with a dot in front."""
        return name[0] == "." and any(map(self._made, folder.glob(f"{PREFIX}*")))

    def _made(self, file: Path) -> bool:
        """Whether this run, not one before it, wrote a file."""
        try:
            return file.stat().st_mtime > self._began
        except FileNotFoundError:
            return False
