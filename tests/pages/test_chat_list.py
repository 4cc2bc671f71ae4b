"""chat.py in headless Chromium: the list of conversations in a browser, and what a reload brings back."""

import json

import pytest
from playwright.sync_api import expect

from tests.pages.clicker import Clicker
from tests.pages.driven import (
    as_file,
    ask,
    choose,
    fill_system,
    listed,
    load,
    next_frames,
    open_listed,
    open_settings,
    set_new_tokens,
    set_slider,
    stored,
    wait_equal,
    wait_hint,
    wait_idle,
    wait_questions,
    wait_ready,
)

pytestmark = pytest.mark.browser

# Keeps so many conversations beforehand, each older than the one before.
FILL = """([count, size]) => {
    for (let i = 0; i < count; i++) {
        const messages = [{role: "user", content: `问题${i}`}, {role: "assistant", content: "答".repeat(size)}];
        const id = i.toString(16).padStart(32, "0");
        const record = {text: JSON.stringify({messages, draft: ""}), time: Date.now() - i * 1000};
        localStorage.setItem(`chinese-vicuna//${id}`, JSON.stringify(record));
    }
}"""
KEPT = """() => Object.keys(localStorage).filter((one) => one.startsWith("chinese-vicuna//")).length"""


def new_chat(page) -> None:
    page.click("#new")
    wait_questions(page)


def saved_as(page, label: str) -> str:
    choose(page, "form", label)
    with page.expect_download() as download:
        page.click("#save")
    return download.value.path().read_text(encoding="utf-8")


def test_conversations_are_found_renamed_deleted_and_brought_back(visit):
    page = visit()
    ask(page, "苹果")
    first = page.url
    new_chat(page)
    ask(page, "香蕉 <b>&amp;</b>")
    new_chat(page)
    page.fill("#message textarea", "还没有发送")
    page.wait_for_function("document.querySelectorAll('#conversations li').length === 3")
    wait_equal(lambda: set(listed(page)), {"还没有发送", "香蕉 <b>&amp;</b>", "苹果"})
    open_listed(page, "苹果")
    wait_questions(page, "苹果")
    assert page.url == first
    expect(page.locator("#message textarea")).to_have_value("")
    expect(page.locator("#conversations .current .title")).to_have_text("苹果")

    item = page.locator("#conversations li", has_text="苹果")
    item.locator(".rename").click()
    page.fill("#conversations input", "水果")
    page.press("#conversations input", "Enter")
    page.wait_for_function("document.querySelector('#conversations .current')?.innerText.startsWith('水果')")
    page.fill("#search", "苹果")
    wait_equal(lambda: listed(page), ["水果"])  # found by what was said
    page.fill("#search", "梨")
    page.wait_for_function("document.querySelector('#found')?.innerText === 'No conversation has this.'")
    page.fill("#search", "")

    page.locator("#conversations li", has_text="水果").locator(".delete").click()
    wait_questions(page)
    wait_equal(lambda: "水果" in listed(page), False)
    page.click("#deleted button")
    wait_questions(page, "苹果")
    wait_equal(lambda: page.url, first)
    open_listed(page, "还没有发送")
    page.wait_for_function("document.querySelector('#message textarea')?.value === '还没有发送'")
    page.goto(first)
    wait_ready(page)
    wait_questions(page, "苹果")


def test_at_its_limit_the_page_says_what_would_go_and_nothing_goes_by_itself(visit):
    page = visit()
    page.evaluate(FILL, [100, 3])
    page.reload()
    wait_ready(page)
    page.wait_for_function("document.querySelector('#limit')?.innerText.includes('问题99')")
    ask(page, "第一百零一")
    wait_equal(lambda: page.evaluate(KEPT), 101)
    with page.expect_download() as download:
        page.click("#limit .export_oldest")
    assert json.loads(download.value.path().read_text(encoding="utf-8"))["history"][0]["input"] == "问题99"
    page.click("#limit .remove_oldest")
    page.wait_for_function("document.querySelector('#limit')?.innerText === ''")
    wait_equal(lambda: page.evaluate(KEPT), 100)
    wait_equal(lambda: [name in listed(page) for name in ("问题99", "第一百零一")], [False, True])


def test_where_the_browser_has_no_room_the_page_says_so_and_keeps_once_there_is(visit):
    page = visit()
    page.evaluate(FILL, [2, 5])
    page.evaluate(
        """() => {
            const oldest = "chinese-vicuna//" + "1".padStart(32, "0"), kept = JSON.parse(localStorage.getItem(oldest));
            localStorage.setItem(oldest, JSON.stringify({...kept, more: "x".repeat(9999)}));
            // All the room there is, in ever smaller pieces.
            for (let size = 1 << 22; size >= 16; size >>= 1)
                for (let i = 0; ; i++)
                    try { localStorage.setItem(`other${size}-${i}`, "x".repeat(size)); } catch { break; }
        }"""
    )
    ask(page, "放不下" * 20)
    page.wait_for_function("document.querySelector('#limit')?.innerText.includes('no room')")
    page.click("#limit .remove_oldest")
    page.wait_for_function("document.querySelector('#limit')?.innerText === ''")
    assert len(stored(page, 2)) == 2


def test_a_reload_keeps_the_settings_the_panels_and_what_is_typed(visit):
    page = visit()
    choose(page, "adapter", "B")
    page.wait_for_function("document.querySelector('#prompt_type input')?.value === 'instruct'")
    page.locator("#preset input[value=creative]").click()
    page.wait_for_function("document.querySelector('#mode')?.innerText.includes('sampling')")
    open_settings(page)
    set_new_tokens(page, 44)
    set_slider(page, "max_memory", 222)
    page.locator("#preset input[value=creative]").click()
    page.wait_for_function("document.querySelector('#preset input[value=creative]:checked')")
    page.click("#show_history")
    page.wait_for_selector("#history", state="hidden")
    page.fill("#message textarea", "打了一半")
    next_frames(page)
    page.reload()
    wait_ready(page)
    page.wait_for_function("document.querySelector('#message textarea')?.value === '打了一半'")
    page.wait_for_function("document.querySelector('#memory')?.innerText.includes('Max Memory 222')")
    expect(page.locator("#adapter input")).to_have_value("B")
    expect(page.locator("#prompt_type input")).to_have_value("instruct")
    expect(page.locator("#preset input[value=creative]")).to_be_checked()
    page.wait_for_selector("#temperature input[type=number]")  # the panel is open, as it was
    expect(page.locator("#temperature input[type=number]")).to_have_value("1")
    expect(page.locator("#max_memory input[type=number]")).to_have_value("222")
    expect(page.locator("#history")).to_be_hidden()
    assert "B · " in ask(page, "你好")


def test_a_file_brings_settings_system_prompt_and_ways_into_another_browser(visit):
    page = visit()
    fill_system(page, "你是一位诗人。")
    first = ask(page, "你好").split("\n")[0]
    choose(page, "adapter", "B")
    page.wait_for_function("document.querySelector('#prompt_type input')?.value === 'instruct'")
    open_settings(page)
    set_slider(page, "temperature", 1.5)
    page.wait_for_function("document.querySelector('#do_sample input')?.checked")
    set_slider(page, "max_memory", 333)
    page.wait_for_function("document.querySelector('#memory')?.innerText.includes('333')")
    text = saved_as(page, "JSON")
    assert saved_as(page, "Markdown").startswith(
        "# 你好\n\n### System prompt\n\n你是一位诗人。\n\n### You\n\n你好\n\n### Answer · A\n\n"
    )
    assert saved_as(page, "Text").startswith("你好\n\nSystem prompt\n你是一位诗人。\n\nYou\n你好\n\nAnswer · A\n")
    other = visit()
    ask(other, "不能丢")
    load(other, text)
    wait_hint(other, "Turns loaded: 1")
    wait_equal(lambda: set(listed(other)), {"不能丢", "你好"})  # a file opens beside what is there
    expect(other.locator("#adapter input")).to_have_value("B")
    other.wait_for_function("document.querySelector('#warning')?.innerText.includes('no place for the system prompt')")
    open_settings(other)
    expect(other.locator("#temperature input[type=number]")).to_have_value("1.5")
    expect(other.locator("#max_memory input[type=number]")).to_have_value("333")
    expect(other.locator("#chat .bot small")).to_have_text("A", use_inner_text=True)
    expect(other.locator("#chat .bot .message-content p").first).to_have_text(first, use_inner_text=True)
    other.locator("#system_prompt button").first.click()
    other.wait_for_function("document.querySelector('#system textarea')?.value === '你是一位诗人。'")
    load(other, json.dumps({**json.loads(as_file(("一", "二"))), "info": {"adapter": "gone"}}))
    wait_hint(other, "Adapter gone, which answered in it, is not here")
    wait_idle(other)


def test_whatever_is_clicked_nothing_is_lost(visit):
    page = visit()
    Clicker(page, seed=0).run(50)
    assert page.problems == []
