"""The end of a server whatever runs in it, and what it does where no more files can be opened."""

import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.starting import Started
from vicuna.serving.server import MOST_S

ROOT = Path(__file__).resolve().parent.parent.parent
MANY = 100  # connections


@contextmanager
def small_server(tmp_path: Path, files: int = 0):
    """`tests.serving.serve_small`: where it listens, and its process, which writes its log to tmp_path/said."""
    with (tmp_path / "said").open("w") as said:
        argv = [sys.executable, "-m", "tests.serving.serve_small", files]
        process = Started(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=said, text=True)
    try:
        yield ("127.0.0.1", int(process.stdout.readline())), process
    finally:
        process.kill()
        process.wait(60)
        process.stdout.close()


def ask(connection: HTTPConnection, path: str) -> str:
    connection.request("GET", path)
    return connection.getresponse().read().decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_ends_whatever_its_threads_do(tmp_path, number):
    with small_server(tmp_path) as (address, process):
        assert ask(HTTPConnection(*address, timeout=60), "/work") == "at work"
        process.send_signal(number)
        assert process.wait(60) in (-number, 128 + number)  # its threads sleep longer
    assert MOST_S < 5


def test_with_more_connections_than_files_somebody_else_is_answered_and_the_log_stays_short(tmp_path):
    opened = []
    with small_server(tmp_path, files=120) as (address, _):
        opened += [socket.create_connection(address, 60) for _ in range(MANY)]
        asked = HTTPConnection(*address, timeout=60)
        assert ask(asked, "/hoard") == "Too many open files"
        opened += [socket.create_connection(address, 60) for _ in range(MANY)]
        assert ask(asked, "/release") == "released"
        assert ask(HTTPConnection(*address, timeout=60), "/release") == "released"
    for one in opened:
        one.close()
    said = (tmp_path / "said").read_text()
    assert "Traceback" not in said
    assert "a connection can not be let in (Too many open files)" in said
    assert len(said.splitlines()) < 10
