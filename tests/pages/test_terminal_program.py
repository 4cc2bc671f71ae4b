"""chat.py --cli as it is started: through a pipe, and through a pseudo-terminal."""

import codecs
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.served import make_slow
from tests.starting import IN_TERMINAL, Started

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_program_answers_what_a_pipe_brings(tiny_base, terminal_adapters, expected):
    argv = ["chat.py", "--cli", "--model_path", tiny_base, "--bits", "32", "--lora_path", *terminal_adapters]
    flags = ["--temperature", "0", "--max_new_tokens", "8"]
    done = subprocess.run(
        [sys.executable, *map(str, argv), *flags],
        cwd=ROOT, input="你好\n再说\n/adapter obeys\n再见".encode() + b"\xff\n", capture_output=True, timeout=300,
        env={**os.environ, "LANG": "zh_CN.UTF-8", "LC_ALL": "C.UTF-8", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    first = expected("你好")
    second = expected("你好", first, "再说")
    third = expected("你好", first, "再说", second, "再见\ufffd", adapter="obeys")
    assert done.stdout.decode() == f"{first}\n{second}\n{third}\n"
    assert "Traceback" not in done.stderr.decode()


class Keyboard:
    """The program in a pseudo-terminal."""

    def __init__(self, *argv: object, **env: str):
        self.shown, self.decoder = "", codecs.getincrementaldecoder("utf-8")("replace")
        main, child = pty.openpty()
        self.process = Started(
            [sys.executable, "-c", IN_TERMINAL, *map(str, argv)], cwd=ROOT, stdin=child, stdout=child, stderr=child,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TERM": "dumb", **env}, start_new_session=True,
        )  # fmt: skip
        os.close(child)
        self.main = main

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.main)

    def type(self, text: str) -> None:
        os.write(self.main, text.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C while the program waits for a key.

        CPython's readline notices one that comes between a key and that wait only at the next key.
        """
        deadline, asleep = time.monotonic() + 60, 0
        while asleep < 5:
            assert time.monotonic() < deadline, "the program never waits"
            asleep = asleep + 1 if psutil.Process(self.process.pid).status() == psutil.STATUS_SLEEPING else 0
            time.sleep(0.1)
        self.type("\x03")

    def wait_for(self, pattern: str, seconds: float = 200) -> str:
        """What is shown up to where the pattern first matches behind what was waited for before."""
        deadline = time.monotonic() + seconds
        while not (match := re.search(pattern, self.shown)):
            assert time.monotonic() < deadline, self.shown
            if select.select([self.main], [], [], 0.2)[0]:
                try:
                    self.shown += self.decoder.decode(os.read(self.main, 65536))
                except OSError:  # the program has ended
                    assert re.search(pattern, self.shown), self.shown
        before, self.shown = self.shown[: match.end()], self.shown[match.end() :]
        return before


@pytest.fixture
def keyboard():
    """keyboard(*argv, **env): a program to type to."""
    opened = []

    def open_one(*argv: object, **env: str) -> Keyboard:
        opened.append(Keyboard(*argv, **env))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def test_a_person_types_changes_their_mind_stops_and_leaves(tiny_base, tmp_path, keyboard):
    slow = make_slow(tiny_base, tmp_path / "slow", max_position_embeddings=2048)
    long = ["--max_new_tokens", 1500, "--min_new_tokens", 1500]  # half a minute, in which Ctrl-C is pressed
    argv = ["chat.py", "--cli", "--model_path", slow, "--bits", 32, *long]
    person = keyboard(*argv, LC_ALL="", LC_CTYPE="C.UTF-8", LANG="zh_CN.UTF-8")
    person.wait_for(r"Ctrl-D 退出。\]")
    person.wait_for("> ")
    person.type("一半")
    person.wait_for("一半")
    person.interrupt()  # drops the line
    person.wait_for(r"\[再按一次 Ctrl-C 退出。\]\r\n> ")
    person.type("/new\n")
    person.wait_for(r"\[新的对话\]\r\n> ")
    person.type("你好\n")
    person.wait_for("你好\r\n[^\n]{3}")
    person.type("\x03")  # stops the answer
    person.wait_for(r"\[已停止\]\r\n(\[最后一个字不完整，未显示\]\r\n)?> ")
    person.type("\x1b[A")  # the arrow up: what was typed before
    person.wait_for("你好")
    person.interrupt()  # behind one that stopped an answer: leaves
    assert person.process.wait(60) == 130
    person.wait_for("stopped by Ctrl-C")
