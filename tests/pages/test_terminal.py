"""The chat in the terminal: what is asked and answered, in which language, and what Ctrl-C does."""

import io
import re
import signal
import sys
import threading

import pytest

from tests.pages.driven import GREEDY
from vicuna.answer.decoding import generation_kwargs
from vicuna.answer.flags import ChatFlags, DecodingFlags
from vicuna.answer.history import trim
from vicuna.answer.stream import Beam, Streamer, Update
from vicuna.errors import UserError
from vicuna.pages import terminal
from vicuna.pages.terminal import _readable
from vicuna.pages.terminal_strings import STRINGS
from vicuna.prompt.templates import prompt_ids


def test_answers_go_to_standard_output_and_everything_else_does_not(typed, expected):
    out, err = typed("你好")
    assert out == expected("你好") + "\n"
    assert err.startswith("base tiny · adapter talks")
    assert ">" not in err


def test_earlier_turns_are_part_of_the_prompt(typed, expected):
    first = expected("你好")
    second = expected("你好", first, "再说")
    assert typed("你好", "再说")[0] == f"{first}\n{second}\n"
    assert second != expected("再说")


def test_an_adapter_of_single_questions_says_so_at_the_second(typed):
    said = "was trained on single questions: each does better alone, after /new"
    assert typed("/adapter obeys", "你好")[1].count(said) == 0
    assert typed("/adapter obeys", "你好", "再说", "再说")[1].count(f"[obeys {said}]") == 1
    assert typed("/adapter obeys", "你好", "/new", "再说")[1].count(said) == 0
    assert typed("你好", "再说")[1].count(said) == 0


def test_blank_lines_are_no_questions_and_the_last_line_needs_no_end(
    typed, expected, monkeypatch, capsys, terminal_assistant
):
    assert typed("", "   ", "你好")[0] == expected("你好") + "\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("\ufeff你好\r\n再见"))
    terminal.chat(terminal_assistant, ChatFlags(), GREEDY)
    first = expected("你好")
    assert capsys.readouterr().out == f"{first}\n{expected('你好', first, '再见')}\n"


def test_a_message_of_several_lines_and_one_that_begins_with_a_slash(typed, expected):
    assert typed('"""', "一", "", "/new", '"""')[0] == expected("一\n\n/new") + "\n"
    assert typed('"""', "一", "二")[0] == expected("一\n二") + "\n"  # the end of the input ends it too
    assert typed("//new")[0] == expected("/new") + "\n"


def test_a_line_that_ends_in_a_backslash_goes_on(typed, expected):
    assert typed("一\\", "二 \\", "三")[0] == expected("一\n二 \n三") + "\n"
    assert typed("一\\")[0] == expected("一\n") + "\n"  # the end of the input ends it too
    assert typed('"""', "一\\", "二", '"""')[0] == expected("一\\\n二") + "\n"


def test_history_is_fitted_as_on_the_page_and_said(typed, terminal_assistant):
    lines = [f"{i} " + "长城的历史" * 8 for i in range(12)]
    out, err = typed(*lines)
    answers = out.split("\n")[:-1]
    messages = [
        {"role": role, "content": text}
        for line, said in zip(lines, answers, strict=True)
        for role, text in (("user", line), ("assistant", said))
    ][:-1]
    fitted = trim(terminal_assistant.tokenizer, "chat", messages, terminal_assistant.engine.context, 8, 2048)
    assert fitted.forgotten > 0
    assert f"[{fitted.forgotten} earlier turns no longer fit and are left out]" in err
    chosen = {
        **generation_kwargs(GREEDY, terminal_assistant.engine.generation_config),
        "max_new_tokens": fitted.max_new_tokens,
    }
    *_, last = terminal_assistant.stream(fitted.ids, chosen, adapter="talks")
    assert answers[-1] == last.text


def test_max_memory_and_the_context_bound_the_prompt(typed):
    _, err = typed("你好" * 40, chat=ChatFlags(max_memory=60))
    assert "Max Memory 60 leaves it no room" in err
    _, err = typed("你好" * 150, decoding=DecodingFlags(temperature=0, max_new_tokens=400, min_new_tokens=100))
    assert re.search(r"\[the context leaves \d+ tokens for the answer\]", err)


def test_a_message_that_does_not_fit_is_forgotten_and_the_chat_goes_on(typed, expected):
    out, err = typed("问" * 2000, "你好")
    assert "the base's context is 512: shorten it." in err
    assert "Traceback" not in err
    assert out == expected("你好") + "\n"


def test_drawn_answers_are_those_of_the_seed(typed, expected):
    drawn = DecodingFlags(preset="balanced", temperature=0.9, seed=3, max_new_tokens=8)
    first = expected("你好", decoding=drawn)
    again = expected("你好", decoding=drawn, seed=4)
    assert typed("你好", "/regenerate", decoding=drawn)[0] == f"{first}\n{again}\n"
    assert first != again


def test_beams_come_when_they_are_decided_and_all_of_them_on_request(typed, expected):
    beams = DecodingFlags(preset="beam", num_beams=3, max_new_tokens=8)
    out, err = typed("你好", decoding=beams, chat=ChatFlags(show_beam=True))
    assert out == expected("你好", decoding=beams) + "\n"
    assert [f"beam {n} (" in err for n in range(1, 5)] == [True, True, True, False]


def test_an_answer_that_ends_early_says_why(typed):
    long = DecodingFlags(temperature=0, max_new_tokens=5, min_new_tokens=5)
    assert "[cut at 5 tokens; --max_new_tokens allows more]" in typed("你好", decoding=long)[1]


def test_bytes_that_are_no_text_and_control_texts_are_ordinary_input(typed, expected):
    assert typed("</s><s>")[0] == expected("</s><s>") + "\n"


@pytest.mark.parametrize(
    ("variables", "language"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "en_US.UTF-8"}, "en"),
        ({"LANG": "C"}, "en"),
        ({}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "zh_TW"}, "zh"),
        ({"LANG": "zh_CN", "LC_MESSAGES": "en_GB"}, "en"),
        ({"LANG": "zh_CN", "LC_ALL": ""}, "zh"),
    ],
    ids=str,
)
def test_the_language_is_the_environments(typed, monkeypatch, variables, language):
    for name in ("LANG", "LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert f"[{STRINGS[language]['new']}]" in typed("/new")[1]


def test_lang_names_the_language_of_errors_too(typed):
    err = typed("/load nowhere.jsonl", chat=ChatFlags(cli=True, lang="zh"))[1]
    assert "[nowhere.jsonl：没有这个文件或文件夹；请换一个文件。]" in err
    assert err.startswith("基座模型 ")
    with pytest.raises(UserError, match="--lang is for the terminal"):
        ChatFlags(lang="zh")


def test_both_languages_say_the_same():
    assert STRINGS["en"].keys() == STRINGS["zh"].keys()
    for key, english in STRINGS["en"].items():
        if key != "help":
            assert sorted(re.findall(r"\{\w+", english)) == sorted(re.findall(r"\{\w+", STRINGS["zh"][key])), key
    first_words = [[line.split()[0] for line in STRINGS[one]["help"].splitlines()] for one in ("en", "zh")]
    assert first_words[0] == first_words[1]


def test_a_terminal_is_shown_no_control_characters(terminal_assistant, monkeypatch, capsys):
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    def stream(*args, **kwargs):
        yield Update([Beam([1], "a\x1b]0;x\x07b\x9bc\n\td")], 1, 0, 0, "eos")

    screen = Screen()
    monkeypatch.setattr(terminal_assistant.engine, "stream", stream)
    monkeypatch.setattr(sys, "stdin", io.StringIO("你好\n"))
    monkeypatch.setattr(sys, "stdout", screen)
    terminal.chat(terminal_assistant, ChatFlags(), GREEDY)
    assert screen.getvalue() == "a\ufffd]0;x\ufffdb\ufffdc\n\td\n"


def test_ctrl_c_ends_the_answer_and_what_there_is_of_it_stays(terminal_assistant, monkeypatch, capsys):
    monkeypatch.setenv("LC_ALL", "C")
    prompts, real, put, pressed = [], terminal_assistant.engine.stream, Streamer.put, threading.Event()

    def watched(asked, *args, **kwargs):
        prompts.append(asked.prompt_ids)
        for update in real(asked, *args, **kwargs):
            if update.tokens == 4 and not pressed.is_set():
                signal.raise_signal(signal.SIGINT)
                pressed.set()
            yield update

    def held(streamer, ids, scores):
        put(streamer, ids, scores)
        if len(ids[0]) == 20:
            pressed.wait()

    monkeypatch.setattr(terminal_assistant.engine, "stream", watched)
    monkeypatch.setattr(Streamer, "put", held)
    monkeypatch.setattr(sys, "stdin", io.StringIO("讲故事\n再说\n"))
    before = signal.getsignal(signal.SIGINT)
    terminal.chat(terminal_assistant, ChatFlags(), DecodingFlags(temperature=0, max_new_tokens=200, min_new_tokens=200))
    out, err = capsys.readouterr()
    assert signal.getsignal(signal.SIGINT) is before
    assert "[stopped]" in err
    said = out.split("\n")[0]
    assert 0 < len(terminal_assistant.tokenizer.encode_continuation(said)) < 25
    texts = {"讲故事": "user", said: "assistant", "再说": "user"}
    history = [{"role": role, "content": text} for text, role in texts.items()]
    assert prompts[1] == prompt_ids(terminal_assistant.tokenizer, "chat", history)


def test_a_second_ctrl_c_leaves_the_answer_and_the_chat(terminal_assistant, monkeypatch, capsys):
    real = terminal_assistant.engine.stream

    def watched(*args, **kwargs):
        for update in real(*args, **kwargs):
            yield update
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(terminal_assistant.engine, "stream", watched)
    monkeypatch.setattr(sys, "stdin", io.StringIO("讲故事\n再说\n"))
    with pytest.raises(KeyboardInterrupt):
        terminal.chat(
            terminal_assistant, ChatFlags(), DecodingFlags(temperature=0, max_new_tokens=200, min_new_tokens=200)
        )
    done = threading.Event()
    terminal_assistant.worker.submit(done.set)
    assert done.wait(10)  # the worker is free again


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        ("讲故事".encode("gb18030"), "讲故事"),
        ("讲故事".encode(), "讲故事"),
        (b"abc", "abc"),
        ("再见".encode() + b"\xff", "再见\ufffd"),  # of its own encoding, but for a byte
        (b"\xff\xff", "\ufffd\ufffd"),
    ],
)
def test_a_line_in_gbk_is_decoded_in_a_pipe_that_is_read_as_utf_8(monkeypatch, raw, read):
    piped = io.TextIOWrapper(io.BytesIO(raw + b"\n"), encoding="utf-8", errors="surrogateescape")
    monkeypatch.setattr(sys, "stdin", piped)

    assert _readable(piped.readline().rstrip("\n")) == read
