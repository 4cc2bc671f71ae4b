"""Names of files, texts of data and answers of models may hold what a terminal obeys: none of it gets there."""

import ast
import io
import logging
import sys
from pathlib import Path

import pytest

from vicuna import log
from vicuna.errors import PlainOutput, UserError, print_answer, printable, run

ROOT = Path(__file__).resolve().parent.parent
ODD = "a\x1b]0;title\x07\x9b2J\r\x7f\u202eb\tc\nd"
SHOWN = r"a\x1b]0;title\x07\x9b2J\x0d\x7f\u202eb" + "\tc\nd"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_controls_are_written_as_codes_and_nothing_else_changes():
    assert printable(ODD) == SHOWN
    text = "中文\tüber\nمرحبا 🐑👩\u200d🌾 \u00a0"
    assert printable(text) == text


def test_errors_and_tables_reach_a_terminal_without_controls(capsys):
    def program():
        print(f"a table of {ODD}")
        sys.stdout.writelines([ODD])
        raise UserError(f"{ODD} is no file.")

    with pytest.raises(SystemExit):
        run(program)
    out, err = capsys.readouterr()
    assert out == f"a table of {SHOWN}\n{SHOWN}"
    assert SHOWN in err
    assert not isinstance(sys.stdout, PlainOutput)


def test_an_answer_is_exact_in_a_pipe_and_harmless_on_a_terminal(monkeypatch, capsys):
    run(lambda: print_answer(ODD))
    assert capsys.readouterr().out == f"{ODD}\n"
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    run(lambda: print_answer("\x1b[2Jb\u202e"))
    assert terminal.getvalue() == "\\x1b[2Jb\u202e\n"


@pytest.fixture
def restored_log(monkeypatch):
    before = log.log.handlers[:], log.log.propagate, log.log.level
    yield
    for handler in log.log.handlers:
        handler.close()
    log.log.handlers[:], log.log.propagate = before[:2]
    log.log.setLevel(before[2])


def test_logs_hold_no_controls_and_a_message_is_one_entry(tmp_path, capsys, restored_log):
    log.set_up()
    log.to_file(tmp_path, 0)
    log.log.warning("%s is odd", f"{ODD}\n2026-01-01 00:00:00,000 | ERROR forged")
    assert capsys.readouterr().err.startswith(SHOWN)
    lines = (tmp_path / "session.log").read_text(encoding="utf-8").splitlines()
    assert lines[0].endswith(SHOWN.split("\n")[0])
    assert lines[1:] == ["    d", "    2026-01-01 00:00:00,000 | ERROR forged is odd"]


def test_tracebacks_that_are_logged_hold_no_controls():
    try:
        raise ValueError(ODD)
    except ValueError:
        record = logging.LogRecord("vicuna", logging.ERROR, "", 0, "failed", (), sys.exc_info())
    said = log.PlainFormatter("%(message)s").format(record)
    assert SHOWN.split("\n")[0] in said
    assert "\x1b" not in said


# What prints to stderr itself: notices of our own, and texts that were made printable before.
OWN = {"vicuna/errors.py", "vicuna/pages/terminal.py", "vicuna/pages/terminal_session.py", "vicuna/train/launch.py"}


def calls(name: str):
    for file in [*ROOT.glob("*.py"), *ROOT.glob("tools/*.py"), *ROOT.glob("vicuna/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and name == getattr(node.func, "id", getattr(node.func, "attr", "")):
                yield str(file.relative_to(ROOT)), node


def holds_values(node: ast.AST) -> bool:
    """Whether an expression is more than a text of ours, and was not made printable."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "printable":
        return False
    if isinstance(node, ast.FormattedValue) and node.conversion == ord("r"):
        return False
    if isinstance(node, ast.Name) and node.id.isupper():
        return False
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Constant):
        return False
    return isinstance(node, ast.Name | ast.Attribute) or any(map(holds_values, ast.iter_child_nodes(node)))


def test_every_progress_bar_and_every_line_to_stderr_is_made_printable():
    titles = [(file, key.value) for file, node in calls("tqdm") for key in node.keywords if key.arg == "desc"]
    printed = [
        (file, value)
        for file, node in calls("print")
        if file not in OWN and any(key.arg == "file" and "stderr" in ast.unparse(key.value) for key in node.keywords)
        for value in node.args
    ]
    assert len(titles) > 10
    assert len(printed) > 2
    assert {f"{file}: {ast.unparse(value)}" for file, value in [*titles, *printed] if holds_values(value)} == set()
