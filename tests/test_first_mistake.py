"""What costs nothing to find is told before torch is imported: paths, rows, ports, folders that can not be made."""

import json
import socket

import pytest

from benchmarks.first_mistake import mistakes
from tests.program_flags import PROGRAMS

# Runs programs one after the other in an interpreter that has read none of their libraries, and says of each what it
# printed and which libraries were there when it ended.
ONE_AFTER_THE_OTHER = """
import contextlib, io, json, runpy, sys
for words in json.loads(sys.argv[1]):
    sys.argv, said, status = words, io.StringIO(), 0
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            runpy.run_path(words[0], run_name="__main__")
        except SystemExit as end:
            status = end.code
    heavy = [name for name in ("torch", "peft", "gradio", "datasets") if name in sys.modules]
    print(json.dumps([status, said.getvalue(), heavy]))
    if heavy:
        break
"""


def run_each(program, commands: list[list[str]]) -> list[list]:
    """Exit status of each, what it printed, and the heavy libraries that had been imported when it ended."""
    done = program("-c", ONE_AFTER_THE_OTHER, json.dumps(commands))
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(lines) == len(commands), (commands[len(lines) - 1], lines[-1:], done.stderr)
    return lines


@pytest.fixture(scope="module")
def told(program, tiny_base, tmp_path_factory):
    """What is wrong -> exit status, what was printed, heavy libraries that were imported, and what was expected."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wrong = mistakes(tmp_path_factory.mktemp("wrong"), str(tiny_base), taken.getsockname()[1])
        lines = run_each(program, [words for words, _ in wrong.values()])
    return {what: (*one, said) for (what, (_, said)), one in zip(wrong.items(), lines, strict=True)}


def test_a_mistake_is_told_before_torch_is_imported(told):
    for what, (status, printed, heavy, said) in told.items():
        assert (status, heavy) == (1, []), (what, printed)
        assert said in printed, (what, printed)
        assert len(printed.strip().splitlines()) <= 3, (what, printed)


def test_help_and_a_mistyped_flag_import_nothing_heavy(program):
    named = [name.split() for name in [*PROGRAMS, "finetune_chat.py"]]
    helped = run_each(program, [[*words, "--help"] for words in named])
    assert [(status, heavy) for status, _, heavy in helped] == [(0, [])] * len(named)
    mistyped = run_each(program, [[*words, "--modl_path", "x"] for words in named])
    assert [(status, heavy) for status, _, heavy in mistyped] == [(2, [])] * len(named)
    for words, (_, said, _) in zip(named, mistyped, strict=True):
        assert "'--modl_path' is not a flag of" in said, (words, said)
