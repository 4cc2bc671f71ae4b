"""The chat in the terminal: through a pipe, through a pseudo-terminal, and command by command."""

import codecs
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.served import assistant_of, make_adapter, make_slow
from vicuna.answer.flags import ChatFlags, DecodingFlags
from vicuna.answer.history import trim
from vicuna.answer.stream import Beam, Run, Update, generation_kwargs
from vicuna.pages import terminal
from vicuna.pages.terminal_strings import STRINGS
from vicuna.prompt.templates import prompt_ids

ROOT = Path(__file__).resolve().parent.parent.parent
GREEDY = DecodingFlags(preset="balanced", temperature=0, max_new_tokens=8)


@pytest.fixture(scope="module")
def adapters(tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return (
        make_adapter(tiny_base, folder / "talks", "chat", 1),
        make_adapter(tiny_base, folder / "obeys", "instruct", 2),
    )


@pytest.fixture(scope="module")
def assistant(tiny_base, adapters):
    return assistant_of(tiny_base, *adapters)


@pytest.fixture
def talk(assistant, monkeypatch, capsys):
    """talk("你好", "/undo", …): what a chat of these lines writes to standard output, and to standard error."""
    monkeypatch.setenv("LC_ALL", "en_GB.UTF-8")

    def run(*lines: str, chat: ChatFlags | None = None, decoding: DecodingFlags = GREEDY) -> tuple[str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        capsys.readouterr()
        terminal.chat(assistant, chat or ChatFlags(), decoding)
        return capsys.readouterr()

    return run


@pytest.fixture
def answer(assistant):
    """answer("你好", "a", "再见"): the text that the assistant itself gives to the last of these messages."""

    def stream(*texts, adapter="talks", system="", decoding=GREEDY, seed=None):
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
        messages = ([{"role": "system", "content": system}] if system else []) + messages
        chosen = generation_kwargs(decoding, assistant.engine.generation_config)
        ids = prompt_ids(assistant.tokenizer, assistant.choices[adapter].prompt_type, messages)
        *_, last = assistant.stream(ids, chosen, decoding.seed if seed is None else seed, adapter=adapter)
        return last.text

    return stream


# --- conversations ------------------------------------------------------------------------------------------------


def test_answers_go_to_standard_output_and_everything_else_does_not(talk, answer):
    out, err = talk("你好")
    assert out == answer("你好") + "\n"
    assert err.startswith("base tiny · adapter talks")
    assert ">" not in err


def test_earlier_turns_are_part_of_the_prompt(talk, answer):
    first = answer("你好")
    second = answer("你好", first, "再说")
    assert talk("你好", "再说")[0] == f"{first}\n{second}\n"
    assert second != answer("再说")


def test_blank_lines_are_no_questions_and_the_last_line_needs_no_end(talk, answer, monkeypatch, capsys, assistant):
    assert talk("", "   ", "你好")[0] == answer("你好") + "\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("\ufeff你好\r\n再见"))
    terminal.chat(assistant, ChatFlags(), GREEDY)
    first = answer("你好")
    assert capsys.readouterr().out == f"{first}\n{answer('你好', first, '再见')}\n"


def test_a_message_of_several_lines_and_one_that_begins_with_a_slash(talk, answer):
    assert talk('"""', "一", "", "/new", '"""')[0] == answer("一\n\n/new") + "\n"
    assert talk('"""', "一", "二")[0] == answer("一\n二") + "\n"  # the end of the input ends it too
    assert talk("//new")[0] == answer("/new") + "\n"


def test_history_is_fitted_as_on_the_page_and_said(talk, assistant):
    lines = [f"{i} " + "长城的历史" * 8 for i in range(12)]
    out, err = talk(*lines)
    answers = out.split("\n")[:-1]
    messages = [
        {"role": role, "content": text}
        for line, said in zip(lines, answers, strict=True)
        for role, text in (("user", line), ("assistant", said))
    ][:-1]
    fitted = trim(assistant.tokenizer, "chat", messages, assistant.engine.context, 8, 2048)
    assert fitted.forgotten > 0
    assert f"[{fitted.forgotten} earlier turns no longer fit and are left out]" in err
    chosen = {**generation_kwargs(GREEDY, assistant.engine.generation_config), "max_new_tokens": fitted.max_new_tokens}
    *_, last = assistant.stream(fitted.ids, chosen, adapter="talks")
    assert answers[-1] == last.text


def test_max_memory_and_the_context_bound_the_prompt(talk):
    _, err = talk("你好" * 40, chat=ChatFlags(max_memory=60))
    assert "Max Memory 60 leaves it no room" in err
    _, err = talk("你好" * 150, decoding=DecodingFlags(temperature=0, max_new_tokens=400, min_new_tokens=100))
    assert re.search(r"\[the context leaves \d+ tokens for the answer\]", err)


def test_a_message_that_does_not_fit_is_forgotten_and_the_chat_goes_on(talk, answer):
    out, err = talk("问" * 2000, "你好")
    assert "the base's context is 512: shorten it." in err
    assert "Traceback" not in err
    assert out == answer("你好") + "\n"


def test_drawn_answers_are_those_of_the_seed(talk, answer):
    drawn = DecodingFlags(preset="balanced", temperature=0.9, seed=3, max_new_tokens=8)
    first = answer("你好", decoding=drawn)
    again = answer("你好", decoding=drawn, seed=4)
    assert talk("你好", "/regenerate", decoding=drawn)[0] == f"{first}\n{again}\n"
    assert first != again


def test_beams_come_when_they_are_decided_and_all_of_them_on_request(talk, answer):
    beams = DecodingFlags(preset="beam", num_beams=3, max_new_tokens=8)
    out, err = talk("你好", decoding=beams, chat=ChatFlags(show_beam=True))
    assert out == answer("你好", decoding=beams) + "\n"
    assert [f"beam {n} (" in err for n in range(1, 5)] == [True, True, True, False]


def test_an_answer_that_ends_early_says_why(talk):
    long = DecodingFlags(temperature=0, max_new_tokens=5, min_new_tokens=5)
    assert "[cut at 5 tokens; --max_new_tokens allows more]" in talk("你好", decoding=long)[1]


def test_bytes_that_are_no_text_and_control_texts_are_ordinary_input(talk, answer):
    assert talk("</s><s>")[0] == answer("</s><s>") + "\n"


# --- commands -----------------------------------------------------------------------------------------------------


def test_new_forgets_the_conversation(talk, answer):
    out, err = talk("你好", "/new", "再见")
    assert out == f"{answer('你好')}\n{answer('再见')}\n"
    assert "[a new conversation]" in err


def test_undo_takes_back_question_and_answer(talk, answer):
    out, err = talk("/undo", "你好", "再说", "/undo", "再见")
    first = answer("你好")
    assert out.split("\n")[2] == answer("你好", first, "再见")
    assert "[there is nothing to /undo yet]" in err
    assert "[taken back: 再说]" in err


def test_regenerate_replaces_the_answer(talk, answer):
    out, err = talk("/regenerate", "你好", "/regenerate", "再见")
    first = answer("你好")
    assert out == f"{first}\n{first}\n{answer('你好', first, '再见')}\n"  # greedy: the same again
    assert "[there is nothing to /regenerate yet]" in err


def test_a_system_prompt_stays_until_it_is_taken_away(talk, answer):
    out, err = talk("/system 你是老师。", "你好", "/new", "你好", "/system", "/new", "你好")
    told = answer("你好", system="你是老师。")
    assert out == f"{told}\n{told}\n{answer('你好')}\n"
    assert told != answer("你好")
    assert "[the system prompt is set]" in err
    assert "[no system prompt of your own]" in err


def test_an_adapter_brings_its_template(talk, answer):
    first = answer("你好")
    second = answer("你好", first, "再说", adapter="obeys")
    third = answer("你好", first, "再说", second, "完", adapter="")
    out, err = talk("你好", "/adapter obeys", "再说", "/adapter tiny", "完")
    assert out == f"{first}\n{second}\n{third}\n"
    assert "adapter obeys (r 4) · 32 bit, float32 · CPU · prompt instruct" in err


def test_adapters_are_listed_and_others_named(talk):
    _, err = talk("/adapter", "/adapter obeys", "/adapter", "/adapter x")
    assert "* talks\n  obeys\n  tiny\n" in err
    assert "  talks\n* obeys\n  tiny\n" in err
    assert "[there is no adapter 'x'; there are: talks, obeys, tiny]" in err


def test_a_system_prompt_without_a_place_is_refused_or_left_out(talk, answer):
    out, err = talk("/system 老师", "/adapter obeys", "你好", "/system 老师", "/adapter talks", "/new", "你好")
    assert "[prompt type instruct has no place for a system prompt; it needs chat or chat_eos]" in err
    assert out == f"{answer('你好', adapter='obeys')}\n{answer('你好', system='老师')}\n"


def test_a_saved_chat_is_the_originals_and_can_be_loaded(talk, answer, tmp_path):
    file = tmp_path / "chat.jsonl"
    first = answer("你好", system="老师")
    out, err = talk("/save", f"/save {file}", "/system 老师", "你好", f"/save {file}", "/save")
    assert err.count("[there is nothing to /save yet]") == 2
    assert "[name a file: /save FILE]" in err
    (line,) = file.read_text(encoding="utf-8").splitlines()
    row = json.loads(line)
    assert row["history"] == [{"input": "你好", "output": first}]
    assert row["system"] == "老师"
    assert row["generation_parameter"]["max_new_tokens"] == 8
    assert row["info"]["adapter"] == "talks"
    assert str(tmp_path) not in line
    out, err = talk(f"/load {file}", "再说")
    assert out == answer("你好", first, "再说", system="老师") + "\n"
    assert "[1 turns loaded]" in err


def test_saving_again_adds_a_row(talk, tmp_path):
    file = tmp_path / "chat.jsonl"
    talk("你好", f"/save {file}", "再说", f"/save {file}")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [len(row["history"]) for row in rows] == [1, 2]


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "No such file or directory; name another file."), (b"\xff\xfe\x00", "is not UTF-8 text"),
     (b"{", "row 1 is not JSON"), (b"", "the file is empty"), (b" " * (2 << 20) + b"x", "is larger than 2 MB")],
    ids=str,
)  # fmt: skip
def test_a_file_that_is_no_saved_chat_is_refused(talk, answer, tmp_path, content, says):
    file = tmp_path / "chat.jsonl"
    if content is not None:
        file.write_bytes(content)
    out, err = talk("你好", f"/load {file}", "/load", "再说")
    assert says in err
    assert "Traceback" not in err
    first = answer("你好")
    assert out == f"{first}\n{answer('你好', first, '再说')}\n"


def test_a_file_that_can_not_be_written_is_named(talk, tmp_path):
    assert f"[{tmp_path}: Is a directory; name another file.]" in talk("你好", f"/save {tmp_path}")[1]


def test_help_names_every_command_and_quit_ends(talk, assistant):
    out, err = talk("/help", "/quit", "你好")
    assert out == ""
    known = terminal.Terminal(assistant, ChatFlags(), GREEDY, terminal.Interrupts()).commands
    for command in [*known, "/quit"]:
        assert f"\n{command} " in f"\n{err}"


def test_what_is_no_command_is_not_sent(talk):
    out, err = talk("/regenrate", "/etc/passwd")
    assert out == ""
    assert "[/regenrate is no command; /help lists them, and // sends a line that begins with /.]" in err


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
def test_the_language_is_the_environments(talk, monkeypatch, variables, language):
    for name in ("LANG", "LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert f"[{STRINGS[language]['new']}]" in talk("/new")[1]


def test_both_languages_say_the_same():
    assert STRINGS["en"].keys() == STRINGS["zh"].keys()
    for key, english in STRINGS["en"].items():
        if key != "help":
            assert sorted(re.findall(r"\{\w+", english)) == sorted(re.findall(r"\{\w+", STRINGS["zh"][key])), key
    first_words = [[line.split()[0] for line in STRINGS[one]["help"].splitlines()] for one in ("en", "zh")]
    assert first_words[0] == first_words[1]


def test_a_terminal_is_shown_no_control_characters(assistant, monkeypatch, capsys):
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    def stream(*args, **kwargs):
        yield Update([Beam([1], "a\x1b]0;x\x07b\x9bc\n\td")], 1, 0, 0, "eos")

    screen = Screen()
    monkeypatch.setattr(assistant.engine, "stream", stream)
    monkeypatch.setattr(sys, "stdin", io.StringIO("你好\n"))
    monkeypatch.setattr(sys, "stdout", screen)
    terminal.chat(assistant, ChatFlags(), GREEDY)
    assert screen.getvalue() == "a\ufffd]0;x\ufffdb\ufffdc\n\td\n"


def test_ctrl_c_ends_the_answer_and_what_there_is_of_it_stays(assistant, monkeypatch, capsys):
    monkeypatch.setenv("LC_ALL", "C")
    prompts, real, show, pressed = [], assistant.engine.stream, Run.show, threading.Event()

    def watched(ids, *args, **kwargs):
        prompts.append(ids)
        for update in real(ids, *args, **kwargs):
            if update.tokens == 4 and not pressed.is_set():
                signal.raise_signal(signal.SIGINT)
                pressed.set()
            yield update

    def held(run, ids, scores):
        show(run, ids, scores)
        if len(ids[0]) == 20:
            pressed.wait()

    monkeypatch.setattr(assistant.engine, "stream", watched)
    monkeypatch.setattr(Run, "show", held)
    monkeypatch.setattr(sys, "stdin", io.StringIO("讲故事\n再说\n"))
    before = signal.getsignal(signal.SIGINT)
    terminal.chat(assistant, ChatFlags(), DecodingFlags(temperature=0, max_new_tokens=200, min_new_tokens=200))
    out, err = capsys.readouterr()
    assert signal.getsignal(signal.SIGINT) is before
    assert "[stopped]" in err
    said = out.split("\n")[0]
    assert 0 < len(assistant.tokenizer.encode_continuation(said)) < 25
    texts = {"讲故事": "user", said: "assistant", "再说": "user"}
    history = [{"role": role, "content": text} for text, role in texts.items()]
    assert prompts[1] == prompt_ids(assistant.tokenizer, "chat", history)


def test_a_second_ctrl_c_leaves_the_answer_and_the_chat(assistant, monkeypatch, capsys):
    real = assistant.engine.stream

    def watched(*args, **kwargs):
        for update in real(*args, **kwargs):
            yield update
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(assistant.engine, "stream", watched)
    monkeypatch.setattr(sys, "stdin", io.StringIO("讲故事\n再说\n"))
    with pytest.raises(KeyboardInterrupt):
        terminal.chat(assistant, ChatFlags(), DecodingFlags(temperature=0, max_new_tokens=200, min_new_tokens=200))
    done = threading.Event()
    assistant.worker.submit(done.set)
    assert done.wait(10)  # the worker is free again


# --- the program --------------------------------------------------------------------------------------------------


def test_the_program_answers_what_a_pipe_brings(tiny_base, adapters, answer):
    argv = ["chat.py", "--cli", "--model_path", tiny_base, "--bits", "32", "--lora_path", *adapters]
    flags = ["--temperature", "0", "--max_new_tokens", "8"]
    done = subprocess.run(
        [sys.executable, *map(str, argv), *flags],
        cwd=ROOT, input="你好\n再说\n/adapter obeys\n再见".encode() + b"\xff\n", capture_output=True, timeout=300,
        env={**os.environ, "LANG": "zh_CN.UTF-8", "LC_ALL": "C.UTF-8", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    first = answer("你好")
    second = answer("你好", first, "再说")
    third = answer("你好", first, "再说", second, "再见\ufffd", adapter="obeys")
    assert done.stdout.decode() == f"{first}\n{second}\n{third}\n"
    assert "Traceback" not in done.stderr.decode()


class Keyboard:
    """The program in a pseudo-terminal."""

    def __init__(self, *argv: object, **env: str):
        self.shown, self.decoder = "", codecs.getincrementaldecoder("utf-8")("replace")
        main, child = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, *map(str, argv)], cwd=ROOT, stdin=child, stdout=child, stderr=child,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TERM": "dumb", **env}, start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
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
