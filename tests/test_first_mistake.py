"""What costs nothing to find is told before torch is imported: paths, rows, ports, folders that can not be made."""

import json
import socket

import pytest

from benchmarks.first_mistake import mistakes

# Runs programs one after the other in an interpreter that has read none of their libraries, and says of each what it
# printed and which libraries were there when it ended.
ONE_AFTER_THE_OTHER = """
import contextlib, io, json, runpy, sys
for words in json.loads(sys.argv[1]):
    sys.argv, said, status = words, io.StringIO(), 0
    with contextlib.redirect_stderr(said):
        try:
            runpy.run_path(words[0], run_name="__main__")
        except SystemExit as end:
            status = end.code
    heavy = [name for name in ("torch", "peft", "gradio", "datasets") if name in sys.modules]
    print(json.dumps([status, said.getvalue(), heavy]))
    if heavy:
        break
"""


@pytest.fixture(scope="module")
def told(program, tiny_base, tmp_path_factory):
    """What is wrong -> exit status, what was printed, heavy libraries that were imported, and what was expected."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wrong = mistakes(tmp_path_factory.mktemp("wrong"), str(tiny_base), taken.getsockname()[1])
        done = program("-c", ONE_AFTER_THE_OTHER, json.dumps([words for words, _ in wrong.values()]))
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(lines) == len(wrong), (list(wrong)[len(lines) - 1], lines[-1:], done.stderr)
    return {what: (*one, said) for (what, (_, said)), one in zip(wrong.items(), lines, strict=True)}


def test_a_mistake_is_told_before_torch_is_imported(told):
    for what, (status, printed, heavy, said) in told.items():
        assert (status, heavy) == (1, []), (what, printed)
        assert said in printed, (what, printed)
        assert len(printed.strip().splitlines()) <= 3, (what, printed)
