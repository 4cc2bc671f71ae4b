"""The commands of the chat in the terminal."""

import json

import pytest

from tests.pages.driven import GREEDY
from vicuna.answer.flags import ChatFlags
from vicuna.pages.terminal_commands import LEAVE, Commands
from vicuna.pages.terminal_session import TerminalSession


def test_new_forgets_the_conversation(typed, expected):
    out, err = typed("你好", "/new", "再见")
    assert out == f"{expected('你好')}\n{expected('再见')}\n"
    assert "[a new conversation]" in err


def test_undo_takes_back_question_and_answer(typed, expected):
    out, err = typed("/undo", "你好", "再说", "/undo", "再见")
    first = expected("你好")
    assert out.split("\n")[2] == expected("你好", first, "再见")
    assert "[there is nothing to /undo yet]" in err
    assert "[taken back: 再说]" in err


def test_regenerate_replaces_the_answer(typed, expected):
    out, err = typed("/regenerate", "你好", "/regenerate", "再见")
    first = expected("你好")
    assert out == f"{first}\n{first}\n{expected('你好', first, '再见')}\n"  # greedy: the same again
    assert "[there is nothing to /regenerate yet]" in err


def test_a_system_prompt_stays_until_it_is_taken_away(typed, expected):
    out, err = typed("/system 你是老师。", "你好", "/new", "你好", "/system", "/new", "你好")
    told = expected("你好", system="你是老师。")
    assert out == f"{told}\n{told}\n{expected('你好')}\n"
    assert told != expected("你好")
    assert "[the system prompt is set]" in err
    assert "[no system prompt of your own]" in err


def test_an_adapter_brings_its_template(typed, expected):
    first = expected("你好")
    second = expected("你好", first, "再说", adapter="obeys")
    third = expected("你好", first, "再说", second, "完", adapter="")
    out, err = typed("你好", "/adapter obeys", "再说", "/adapter tiny", "完")
    assert out == f"{first}\n{second}\n{third}\n"
    assert "adapter obeys (r 4) · 32 bit, float32 · CPU · prompt instruct" in err


def test_adapters_are_listed_and_others_named(typed):
    _, err = typed("/adapter", "/adapter obeys", "/adapter", "/adapter x")
    assert "* talks\n  obeys\n  tiny\n" in err
    assert "  talks\n* obeys\n  tiny\n" in err
    assert "[there is no adapter 'x'; there are: talks, obeys, tiny]" in err


def test_a_system_prompt_without_a_place_is_refused_or_left_out(typed, expected):
    out, err = typed("/system 老师", "/adapter obeys", "你好", "/system 老师", "/adapter talks", "/new", "你好")
    assert "[prompt type instruct has no place for a system prompt; it needs chat or chat_eos]" in err
    assert out == f"{expected('你好', adapter='obeys')}\n{expected('你好', system='老师')}\n"


def test_a_saved_chat_is_the_originals_and_can_be_loaded(typed, expected, tmp_path):
    file = tmp_path / "chat.jsonl"
    first = expected("你好", system="老师")
    out, err = typed("/save", f"/save {file}", "/system 老师", "你好", f"/save {file}", "/save")
    assert err.count("[there is nothing to /save yet]") == 2
    assert "[name a file: /save FILE]" in err
    (line,) = file.read_text(encoding="utf-8").splitlines()
    row = json.loads(line)
    assert row["history"] == [{"input": "你好", "output": first}]
    assert row["system"] == "老师"
    assert row["generation_parameter"]["max_new_tokens"] == 8
    assert row["info"]["adapter"] == "talks"
    assert str(tmp_path) not in line
    out, err = typed(f"/load {file}", "再说")
    assert out == expected("你好", first, "再说", system="老师") + "\n"
    assert "[1 turns loaded]" in err


def test_saving_again_adds_a_row(typed, tmp_path):
    file = tmp_path / "chat.jsonl"
    typed("你好", f"/save {file}", "再说", f"/save {file}")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [len(row["history"]) for row in rows] == [1, 2]


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "No such file or directory; name another file."), (b"\xff\xfe\x00", "is not UTF-8 text"),
     (b"{", "row 1 is not JSON"), (b"", "the file is empty"), (b" " * (2 << 20) + b"x", "is larger than 2 MB")],
    ids=str,
)  # fmt: skip
def test_a_file_that_is_no_saved_chat_is_refused(typed, expected, tmp_path, content, says):
    file = tmp_path / "chat.jsonl"
    if content is not None:
        file.write_bytes(content)
    out, err = typed("你好", f"/load {file}", "/load", "再说")
    assert says in err
    assert "Traceback" not in err
    first = expected("你好")
    assert out == f"{first}\n{expected('你好', first, '再说')}\n"


def test_a_file_that_can_not_be_written_is_named(typed, tmp_path):
    assert f"[{tmp_path}: Is a directory; name another file.]" in typed("你好", f"/save {tmp_path}")[1]


@pytest.mark.parametrize("leave", LEAVE)
def test_help_names_every_command_and_quit_ends(typed, terminal_assistant, leave):
    out, err = typed("/help", leave, "你好")
    assert out == ""
    assert ", ".join(LEAVE) in err
    known = Commands(TerminalSession(terminal_assistant, ChatFlags(), GREEDY)).by_name
    for command in known:
        assert f"\n{command} " in f"\n{err}"


def test_what_is_no_command_is_not_sent(typed):
    out, err = typed("/regenrate", "/etc/passwd")
    assert out == ""
    assert "[/regenrate is no command; /help lists them, and // sends a line that begins with /.]" in err
