"""chat.py in headless Chromium: whose conversation is where; what a reload, a second tab, a file bring back."""

import json
import re
from functools import partial

import pytest

from tests.pages.driven import (
    answers,
    as_file,
    ask,
    fill_system,
    listed,
    load,
    open_settings,
    questions,
    send,
    set_new_tokens,
    settle,
    stored,
    wait_equal,
    wait_hint,
    wait_idle,
    wait_questions,
    wait_ready,
)
from vicuna.pages import conversation

pytestmark = pytest.mark.browser


def test_a_chat_is_saved_in_the_originals_form_and_loaded_by_another_visitor(visit, saved):
    page = visit()
    page.click("#save")
    assert "no conversation to save" in wait_hint(page, "save")
    ask(page, "存 <b>&amp;")
    with page.expect_download() as download:
        page.click("#save")
    text = download.value.path().read_text(encoding="utf-8")
    row = json.loads(text)
    assert row["history"] == [{"input": "存 <b>&amp;", "output": stored(page, 2)[1]["content"], "adapter": "A"}]
    assert row["generation_parameter"]["max_new_tokens"] == 30
    assert row["generation_parameter"]["max_memory"] == 512
    assert row["info"] == {
        "base": "base", "adapter": "A", "bits": "32 bit, float32", "prompt_type": "chat",
        "version": row["info"]["version"],
    }  # fmt: skip
    name = re.search(r"chat-[0-9a-f]{24}\.jsonl", wait_hint(page, "on the server as")).group()
    assert (saved / name).read_text(encoding="utf-8") == text
    other = visit()
    load(other, text)
    wait_hint(other, "Turns loaded: 1")
    wait_equal(lambda: questions(other), ["存 <b>&amp;"])
    assert [m["content"] for m in stored(other, 2)] == [m["content"] for m in stored(page, 2)]
    load(other, text + "nonsense\n")
    wait_hint(other, "row 2 is not JSON")
    wait_equal(lambda: questions(other), ["存 <b>&amp;"])


def test_a_file_that_is_too_large_is_refused(visit):
    page = visit()
    load(page, " " * (conversation.MAX_BYTES + 1))
    wait_hint(page, "larger than 2 MB")


def test_a_reload_keeps_the_conversation_a_second_tab_has_its_own_and_new_keeps_both(visit):
    page = visit()
    answer = ask(page, "第一页")
    tab = visit(context=page.context)
    wait_equal(lambda: questions(tab), [])
    assert tab.url != page.url
    ask(tab, "第二页")
    ask(page, "还是第一页")  # after the other tab kept its own
    for one, asked in ((page, ["第一页", "还是第一页"]), (tab, ["第二页"])):
        one.reload()
        wait_ready(one)
        one.wait_for_function("count => document.querySelectorAll('#chat .user').length === count", arg=len(asked))
        wait_equal(partial(questions, one), asked)
    wait_equal(lambda: answers(page)[0], answer)
    before = page.url
    page.click("#new")
    page.wait_for_function("document.querySelectorAll('#chat .user').length === 0")
    assert page.url != before
    page.goto(before)
    wait_ready(page)
    wait_questions(page, "第一页", "还是第一页")
    tab.reload()
    wait_ready(tab)
    tab.wait_for_function("document.querySelectorAll('#chat .user').length === 1")


def test_a_late_answer_about_the_memory_does_not_bring_the_old_conversation_back(visit):
    page = visit()
    ask(page, "第一段")
    held, holding = [], [True]
    page.route("**/run/**", lambda route: held.append(route) if holding else route.continue_())
    with page.expect_request("**/run/**"):
        page.locator("#max_memory input[type=number]").fill("300")
        page.locator("#max_memory input[type=number]").press("Tab")
    settle(page)
    holding.clear()
    page.click("#new")
    page.wait_for_function("document.querySelectorAll('#chat .user').length === 0")
    assert held
    for route in held:
        with page.expect_response(lambda response, url=route.request.url: response.url == url):
            route.continue_()
        settle(page)
    wait_equal(lambda: [*questions(page), *answers(page)], [])


def watch_notes(page) -> None:
    """Have the page remember that a whole answer was shown, however short."""
    page.evaluate(
        """() => new MutationObserver(() => { window.noted ||= !!document.querySelector("#chat .bot small"); })
            .observe(document.querySelector("#chat"), {subtree: true, childList: true, characterData: true})"""
    )


@pytest.mark.parametrize("way", ["new", "load"])
def test_a_late_update_of_an_answer_does_not_bring_the_old_conversation_back(visit, way):
    page = visit()
    open_settings(page)
    set_new_tokens(page, 100)
    watch_notes(page)
    send(page, "旧的")
    page.wait_for_selector("#chat .user")
    # The server hears of a tab that answers nothing, so that all that comes from here on comes too late.
    session = re.compile(r'"session_hash":"\w+"')
    page.route(
        "**/run/**",
        lambda route: route.continue_(post_data=session.sub('"session_hash":"another"', route.request.post_data)),
    )
    if way == "new":
        page.click("#new")
    else:
        load(page, as_file(("新的", "好")))
    page.wait_for_function("window.noted")
    expected = [] if way == "new" else ["新的"]
    assert listed(page)[-1] == "旧的"  # its question is kept
    page.wait_for_function(
        """expected => [...document.querySelectorAll("#chat .user .message-content")].map((one) => one.innerText.trim())
            .join() === expected""",
        arg=",".join(expected),
    )
    wait_idle(page)
    settle(page)
    wait_equal(lambda: questions(page), expected)
    assert [message["content"] for message in stored(page, 2 * len(expected))][::2] == expected
    page.unroute("**/run/**")
    send(page, "又一个")
    page.wait_for_selector("#chat .bot small")
    wait_equal(lambda: questions(page), [*expected, "又一个"])


def test_a_system_prompt_belongs_to_the_conversation(visit):
    page = visit()
    fill_system(page, "你是一位诗人。")
    plain = ask(visit(), "你好")
    assert ask(page, "你好").split("\n")[0] != plain.split("\n")[0]
    assert stored(page, 3)[0] == {"role": "system", "content": "你是一位诗人。"}
    page.reload()
    wait_ready(page)
    page.locator("#system_prompt button").first.click()
    page.wait_for_function("document.querySelector('#system textarea')?.value === '你是一位诗人。'")
    with page.expect_download() as download:
        page.click("#save")
    other = visit()
    load(other, download.value.path().read_text(encoding="utf-8"))
    wait_hint(other, "Turns loaded: 1")
    assert stored(other, 3)[0] == {"role": "system", "content": "你是一位诗人。"}


def test_two_visitors_at_once_see_their_own_conversation_only(visit):
    pages = {"甲": visit(), "乙": visit("zh-CN")}
    for name, page in pages.items():
        send(page, f"我是{name}")
    for page in pages.values():
        page.wait_for_selector("#chat .bot small")
        wait_idle(page)
    for name, page in pages.items():
        send(page, f"我还是{name}")
    for name, page in pages.items():
        page.wait_for_function("document.querySelectorAll('#chat .bot small').length === 2")
        wait_equal(partial(questions, page), [f"我是{name}", f"我还是{name}"])
        assert len(stored(page, 4)) == 4
        assert page.evaluate("Object.keys(localStorage).filter((k) => k.startsWith('chinese-vicuna/')).length") == 1
