"""How programs end on a signal, wherever it finds them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import os, signal, sys
from pathlib import Path
from vicuna.errors import ended_by_signals, run
from vicuna.files.folder_lock import held_folder

def program():
    with ended_by_signals(), held_folder(Path(sys.argv[1]), "--output_path", {}):
        import read_in
        print("went on")

run(program)
"""
# What a library does that no exception can pass through: here it would be swallowed, in C++ it aborts the process.
READ_IN = """
import os, signal
class Closed:
    def __del__(self):
        os.kill(os.getpid(), int(os.environ["NUMBER"]))
Closed()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("library", [READ_IN, READ_IN.replace("def __del__", "def __init__")], ids=["deep", "plain"])
def test_a_signal_while_a_library_is_read_ends_the_program_with_its_status(tmp_path, number, library):
    (tmp_path / "read_in.py").write_text(library, encoding="utf-8")
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBER": str(int(number))}
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "out")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 128 + number
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    assert done.stderr == f"program.py: stopped by {name}\n"
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


def test_a_terminal_that_is_gone_hides_no_status(tmp_path):
    program = "from vicuna.errors import Stopped, run\ndef p(): raise Stopped('x', 129)\nrun(p)"
    with open("/dev/full", "wb") as full:  # every write to it fails
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        done = subprocess.run([sys.executable, "-c", program], env=env, stderr=full, check=False)
    assert done.returncode == 129


PRINTING = {
    "while it goes on": "[print(i) for i in range(100000)]",
    "at once": "[print(i, flush=True) for i in range(100000)]",
    "at its end": "sys.stdin.read(); print('late')",
    "as it ends itself": "sys.stdin.read(); print('late'); sys.exit(0)",
}


@pytest.mark.parametrize("act", PRINTING.values(), ids=list(PRINTING))
def test_a_closed_pipe_ends_a_program_without_a_word(act):
    program = f"import sys\nfrom vicuna.errors import run\ndef p(): {act}\nrun(p)"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", program], env=env, **pipes) as process:
        process.stdout.close()  # before its input, so before it prints
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + 13


def test_another_broken_pipe_is_told():
    program = "import os\nfrom vicuna.errors import run\ndef p(): raise BrokenPipeError\nrun(p)"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert done.stderr.endswith("BrokenPipeError\n")


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("zh_CN.UTF-8", "提示词有 9 个词元，而基座模型的上下文只有 8 个：请缩短。"),
        ("C", "the prompt has 9 tokens, the base's context is 8: shorten it."),
    ],
)
def test_an_error_is_told_in_the_language_of_the_environment(language, said):
    program = (
        "from vicuna.errors import UserError, run\nfrom vicuna.sentences import Sentence\n"
        "def p(): raise UserError(Sentence('prompt_beyond_context', tokens=9, context=8))\nrun(p)"
    )
    env = {**os.environ, "LC_ALL": language, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (1, f"-c: error: {said}\n")
