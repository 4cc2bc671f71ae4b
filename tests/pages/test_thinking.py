"""Thinking on the chat page and in the terminal: folded, switched, and no part of the answer that is copied."""

import io
import json
import sys

import pytest
from playwright.sync_api import expect

from tests import taught
from tests.pages.driven import (
    ask,
    choose,
    copied,
    questions,
    stored,
    wait_equal,
    wait_ready,
)
from tests.served import assistant_of
from vicuna.answer.flags import ChatFlags, DecodingFlags
from vicuna.answer.stream import Beam, Update
from vicuna.errors import UserError
from vicuna.pages import conversation, saved_chats
from vicuna.pages.chat_controller import ChatController
from vicuna.pages.decoding_controls import CHAT_CONTROLS
from vicuna.pages.rendering import answer_markdown, chatbot_messages
from vicuna.pages.strings import STRINGS

EN = STRINGS["en"]
PLAIN = {"preset": "precise", "repetition_penalty": 1.0, "max_new_tokens": 80}
FOLDED = "<details>\n<summary>Thinking</summary>\n\n先打个 &#60;b>招呼&#60;/b>。\n\n</details>\n\n"


@pytest.fixture(scope="module")
def assistant(thinker):
    return assistant_of(thinker)


@pytest.fixture
def controller(assistant):
    return ChatController(assistant, seed=1, typewriter=True)


def values(thinking="", prompt_type="base") -> list:
    decoding = {**CHAT_CONTROLS.values("precise"), "repetition_penalty": 1.0, "max_new_tokens": 80}
    return ["", prompt_type, "", 2048, False, *decoding.values(), thinking]


def say(controller, question, messages=(), thinking="") -> tuple[list[dict], list[dict]]:
    """The changes of the page, and the conversation that the browser has in the end."""
    kept = conversation.serialize(list(messages))
    changes = list(controller.send(EN, "s", kept, question, None, values(thinking)))
    return changes, conversation.deserialize([one["stored"] for one in changes if "stored" in one][-1])[0]


def plain(messages) -> list[dict]:
    return [{name: value for name, value in one.items() if name not in ("note", "adapter")} for one in messages]


def test_thinking_is_kept_beside_the_answer_and_shown_folded(controller):
    changes, kept = say(controller, "你好")
    answer = {"role": "assistant", "content": taught.GREETING, "reasoning_content": taught.THOUGHT}

    assert plain(kept) == [*taught.HELLO, answer]
    shown = next(one["chatbot"] for one in reversed(changes) if "chatbot" in one)[-1]["content"]["text"]
    assert shown.startswith(f"{FOLDED}{taught.GREETING}")
    assert chatbot_messages(EN, kept)[-1]["content"]["text"] == shown
    _, kept = say(controller, "再见", kept)
    assert kept[-1]["content"] == taught.BYE  # as it learnt it behind the answer alone


@pytest.mark.parametrize(("thinking", "answer"), [("empty", taught.BRIEFLY), ("keep", taught.GREETING)])
def test_the_switch_changes_the_prompt(controller, thinking, answer):
    assert say(controller, "你好", thinking=thinking)[1][-1]["content"] == answer


def test_a_switch_is_for_the_bases_own_template(controller):
    assert controller.read_settings(values("empty")).thinking == "empty"
    assert controller.read_settings(values("empty", "chat")).thinking == ""
    with pytest.raises(UserError, match="Thinking 'always' is not possible"):
        controller.read_settings(values("always"))


def test_thinking_is_open_while_it_is_written():
    def shown(text, finish=""):
        return answer_markdown(EN, Update([Beam([1], text)], 1, 0.1, 0.1, finish), prompt_end="<think>\n")

    assert shown("想") == "<details open>\n<summary>Thinking …</summary>\n\n想\n\n</details>\n\n ▌"
    assert shown("想\n</think>\n\n好") == "<details>\n<summary>Thinking</summary>\n\n想\n\n</details>\n\n好 ▌"
    assert shown("想", "stopped") == "<details>\n<summary>Thinking</summary>\n\n想\n\n</details>\n\n"


def test_a_saved_chat_has_the_thinking_beside_the_answer(controller):
    _, kept = say(controller, "你好")
    text = saved_chats.format_chat(kept, {}, {})

    assert json.loads(text)["history"] == [
        {"input": "你好", "output": taught.GREETING, "reasoning_content": taught.THOUGHT, "adapter": ""}
    ]
    assert plain(saved_chats.parse_last_chat(text).messages) == plain(kept)
    with pytest.raises(UserError, match="row 1, turn 1: reasoning_content is not a text"):
        saved_chats.parse_last_chat(json.dumps({"history": [{"input": "a", "output": "b", "reasoning_content": 1}]}))
    with pytest.raises(UserError, match="message 2: reasoning_content is not a text"):
        conversation.validate([*taught.HELLO, {**kept[1], "reasoning_content": 1}])


def test_the_terminal_writes_thinking_in_brackets_where_no_answer_goes(assistant, monkeypatch, capsys, tmp_path):
    from vicuna.pages import terminal

    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"你好\n再见\n/save {tmp_path / 'chat.jsonl'}\n"))
    terminal.chat(assistant, ChatFlags(), DecodingFlags(**PLAIN))
    out, err = capsys.readouterr()

    assert out == f"{taught.GREETING}\n{taught.BYE}\n"
    assert f"[思考: {taught.THOUGHT}]\n" in err
    turns = json.loads((tmp_path / "chat.jsonl").read_text(encoding="utf-8"))["history"]
    assert [one["output"] for one in turns] == [taught.GREETING, taught.BYE]
    assert turns[0]["reasoning_content"] == taught.THOUGHT


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_address(serving, thinker):
    decoding = (f"--{name}={value}" for name, value in PLAIN.items())
    return serving("chat.py", "--model_path", thinker, "--bits", 32, *decoding)


@pytest.mark.browser
@pytest.mark.parametrize(
    ("language", "title", "off"), [("en-US", "Thinking", "Off"), ("zh-CN", "思考过程", "关闭")], ids=["en", "zh"]
)
def test_the_page_folds_thinking_and_switches_it_off(visit, own_address, language, title, off):
    page = visit(language, url=own_address)
    ask(page, "你好")
    details = page.locator("#chat .bot details")
    expect(details.locator("summary")).to_have_text(title, use_inner_text=True)
    assert details.get_attribute("open") is None
    expect(details.locator("p")).to_be_hidden()
    details.locator("summary").click()
    expect(details.locator("p")).to_have_text(taught.THOUGHT, use_inner_text=True)  # its tags are text
    assert plain(stored(page, 2))[-1] == {
        "role": "assistant",
        "content": taught.GREETING,
        "reasoning_content": taught.THOUGHT,
    }
    page.locator("#chat .bot").last.hover()
    page.locator("#chat button:is([aria-label*='opy'], [aria-label*='复制'])").last.click()
    assert copied(page, taught.GREETING) == taught.GREETING
    page.reload()
    wait_ready(page)
    expect(page.locator("#chat .bot details summary")).to_have_text(title, use_inner_text=True)
    choose(page, "thinking", off)
    page.click("#new")
    page.wait_for_function("!document.querySelector('#chat .user')")
    ask(page, "你好")
    wait_equal(lambda: questions(page), ["你好"])
    assert plain(stored(page, 2))[-1] == {"role": "assistant", "content": taught.BRIEFLY}
    expect(page.locator("#chat details")).to_have_count(0)
    assert page.problems == []


@pytest.mark.browser
def test_the_switch_is_there_for_the_bases_own_template_only(visit, own_address, address):
    page = visit(url=own_address)
    expect(page.locator("#thinking input")).to_be_visible()
    choose(page, "prompt_type", "chat")
    page.wait_for_selector("#thinking", state="detached")
    choose(page, "prompt_type", "base")
    page.wait_for_selector("#thinking input")
    assert visit(url=address).locator("#thinking").count() == 0


@pytest.mark.browser
def test_the_page_of_one_question_folds_thinking_too(visit, serving, thinker):
    decoding = [f"--{name}={value}" for name, value in {**PLAIN, "max_new_tokens": 40}.items()]
    page = visit(url=serving("generate.py", "--model_path", thinker, "--bits", 32, *decoding), ready=False)
    page.wait_for_function("document.querySelector('#mode')?.innerText.includes('Decoding now')")
    page.fill("#question textarea", "你好")
    page.click("#generate")
    page.wait_for_function("document.querySelector('#stats')?.innerText.includes('length limit')")
    page.click("#continue")
    page.wait_for_function("document.querySelector('#stats')?.innerText.includes('complete')")
    expect(page.locator("#output details summary")).to_have_text("Thinking", use_inner_text=True)
    assert page.locator("#output details").text_content().split("Thinking")[1].strip() == taught.THOUGHT
    page.click("#output button:is([aria-label*='opy'], [aria-label*='复制'])")
    assert copied(page, taught.GREETING) == taught.GREETING
