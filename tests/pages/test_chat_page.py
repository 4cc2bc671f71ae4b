"""chat.py in headless Chromium: answers, what is done with their turns, and the settings that they are given under."""

import re

import pytest
from playwright.sync_api import expect

from tests.pages.driven import (
    STORED,
    answers,
    ask,
    choose,
    fill_system,
    hold_requests,
    open_settings,
    questions,
    release,
    retry,
    send,
    set_new_tokens,
    set_slider,
    settle,
    stored,
    tool,
    wait_equal,
    wait_hint,
    wait_idle,
    wait_questions,
    wait_ready,
)

pytestmark = pytest.mark.browser


def test_an_answer_grows_and_what_is_sent_meanwhile_is_answered_next(visit):
    page = visit()
    open_settings(page)
    set_new_tokens(page, 200)
    page.evaluate(
        """() => {
            const watch = (id, seen, look) => new MutationObserver(() => seen.push(look() ?? "")).observe(
                document.getElementById(id), {subtree: true, childList: true, characterData: true});
            const bots = () => [...document.querySelectorAll("#chat .bot .prose")];
            watch("chat", window.seen = [], () => bots().at(-1)?.textContent);
            watch("hint", window.hints = [], () => document.querySelector("#hint")?.textContent);
        }"""
    )
    send(page, "春天的花有哪些？")
    # Sent by the page itself, for what drives it would wait for each of its frames while the answer goes on.
    page.wait_for_function(
        """text => {
            if (!window.seen.some((text) => text.length > 3 && text.includes("▌"))) return false;
            const box = document.querySelector("#message textarea");
            window.typed = box.value;
            box.value = text;
            box.dispatchEvent(new Event("input", {bubbles: true}));
            setTimeout(() => box.dispatchEvent(new KeyboardEvent("keypress", {key: "Enter", bubbles: true})));
            return true;
        }""",
        arg="夏天呢？",
    )
    assert page.evaluate("window.typed") == ""
    page.wait_for_function("window.hints.some((hint) => hint.includes('answered next'))")
    set_slider(page, "max_memory", 500)  # no error, though nothing is said about the memory now
    page.wait_for_function("document.querySelectorAll('#chat .bot small').length === 2", timeout=180_000)
    wait_idle(page)
    growing = [text for text in page.evaluate("window.seen") if "▌" in text]
    assert len(set(growing)) >= 5
    wait_equal(lambda: questions(page), ["春天的花有哪些？", "夏天呢？"])
    wait_equal(lambda: "▌" in "".join(answers(page)), False)
    tokens = [re.search(r"A · (\d+) tokens · .* length limit", text) for text in answers(page)]
    assert [found and found.group(1) for found in tokens] == ["200", "200"]
    assert [message["role"] for message in stored(page, 4)] == ["user", "assistant"] * 2
    assert page.problems == []


def test_an_empty_page_has_questions_to_click_and_says_what_an_adapter_of_single_questions_is_for(visit):
    page = visit()
    page.click("#chat .example >> nth=0")
    page.wait_for_function("document.querySelector('#message textarea')?.value === '一年有几个季节？'")
    alone = page.get_by_text("B was trained on single questions: each message does better alone")
    expect(alone).to_have_count(0)
    choose(page, "adapter", "B")
    alone.wait_for()
    choose(page, "adapter", "A")
    alone.wait_for(state="detached")
    assert page.problems == []


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_stop_keeps_what_there_is_of_the_answer(visit, how):
    page = visit()
    open_settings(page)
    set_new_tokens(page, 300)
    send(page, "讲一个很长的故事。")
    page.wait_for_function("(document.querySelector('#chat .bot .prose')?.innerText ?? '').length > 3")
    if how == "button":
        page.locator("#message .stop-button").dispatch_event("click")  # it is drawn anew with every update
    else:
        page.press("#message textarea", "Escape")
    wait_idle(page)
    (answer,) = answers(page)
    tokens = int(re.search(r"(\d+) tokens · .* stopped by you", answer).group(1))
    assert 0 < tokens < 300
    assert stored(page, 2)[1]["content"]


def test_regenerate_undo_edit_and_delete_change_the_conversation_from_there(visit):
    page = visit()
    first = ask(page, "一 & <b>")
    second = ask(page, "二")
    retry(page)
    said = [text.split("\n")[0] for text in (first, second)]
    wait_equal(lambda: [text.split("\n")[0] for text in answers(page)], said)  # greedy
    page.click("#chat button[aria-label=Undo]")
    page.wait_for_function("document.querySelectorAll('#chat .user').length === 1")
    page.wait_for_function("document.querySelector('#message textarea')?.value === '二'")
    ask(page, "三")
    # The question comes back as it was written, and what is sent instead takes its place and that of all that follows.
    tool(page, "edit", "user", 0).click()
    wait_hint(page, "Editing question 1")
    expect(page.locator("#message textarea")).to_have_value("一 & <b>")
    ask_again = "一又"
    send(page, ask_again)
    page.wait_for_function(
        """question => [...document.querySelectorAll("#chat .user .message-content")].map((one) => one.innerText.trim())
            .join() === question && document.querySelectorAll("#chat .bot small").length === 1""",
        arg=ask_again,
    )
    wait_idle(page)
    wait_equal(lambda: questions(page), [ask_again])
    assert [message["content"] for message in stored(page, 2)][::2] == [ask_again]
    ask(page, "四")
    tool(page, "cut", "user", 1).click()
    wait_questions(page, ask_again)
    assert len(stored(page, 2)) == 2
    # Nothing of it is lost: neither what was taken away, nor what stood there before the edit.
    page.click("#back")
    wait_questions(page, ask_again, "四")
    page.wait_for_selector("#back", state="hidden")
    tool(page, "before", "user", 0).click()
    wait_questions(page, "一 & <b>", "三")
    tool(page, "before", "user", 1).click()
    wait_questions(page, "一 & <b>", "二")
    wait_equal(lambda: answers(page)[1].split("\n")[0], second.split("\n")[0])
    page.reload()
    wait_ready(page)
    wait_questions(page, "一 & <b>", "二")
    tool(page, "next", "user", 0).click()
    wait_questions(page, ask_again, "四")


def test_an_answer_is_edited_too_and_what_was_typed_before_is_there_again(visit):
    page = visit()
    ask(page, "一")
    old = stored(page, 2)[1]["content"]
    page.fill("#message textarea", "打了一半")
    tool(page, "edit_answer", "bot", 0).click()
    wait_hint(page, "Editing answer 1")
    expect(page.locator("#message textarea")).to_have_value(old)
    page.click("#close")
    page.wait_for_function("document.querySelector('#message textarea')?.value === '打了一半'")
    assert stored(page, 2)[1]["content"] == old
    tool(page, "edit_answer", "bot", 0).click()
    wait_hint(page, "Editing answer 1")
    send(page, "壹")
    page.wait_for_function("document.querySelector('#chat .bot')?.innerText.includes('written by you')")
    page.wait_for_function("document.querySelector('#message textarea')?.value === '打了一半'")
    assert stored(page, 2)[1]["content"] == "壹"
    tool(page, "before", "user", 0).click()
    page.wait_for_function(f"{STORED}.messages[1].content !== '壹'")
    assert stored(page, 2)[1]["content"] == old


def test_a_system_prompt_that_is_not_sent_is_said_and_kept(visit):
    page = visit()
    fill_system(page, "你是一位诗人。")
    choose(page, "adapter", "B")
    page.wait_for_function("document.querySelector('#warning')?.innerText.includes('no place for the system prompt')")
    assert "no place for the system prompt: it is not sent" in ask(page, "你好")
    assert stored(page, 3)[0] == {"role": "system", "content": "你是一位诗人。"}
    choose(page, "adapter", "A")
    page.wait_for_function("document.querySelector('#warning')?.innerText === ''")
    assert "no place" not in ask(page, "你好")


def test_each_message_chooses_its_adapter_and_its_template(visit):
    page = visit()
    begins = "base base · adapter A (step 7, r 2) ·"
    page.wait_for_function("begins => document.querySelector('#status')?.innerText.startsWith(begins)", arg=begins)
    own = ask(page, "你是谁？")
    choose(page, "adapter", "B")
    page.wait_for_function("document.querySelector('#status')?.innerText.includes('adapter B (step 7, r 2)')")
    page.wait_for_function("document.querySelector('#prompt_type input')?.value === 'instruct'")
    page.locator("#system_prompt button").first.click()
    page.wait_for_selector("#system textarea:disabled")
    expect(page.locator("#system textarea")).to_have_attribute("placeholder", re.compile("no place"))
    page.click("#new")
    page.wait_for_function("document.querySelectorAll('#chat .user').length === 0")
    other = ask(page, "你是谁？")
    assert " · ".join(other.split("\n")[-1].split(" · ")[:2]) == "B · 30 tokens"
    assert other.split("\n")[0] != own.split("\n")[0]
    choose(page, "prompt_type", "chat")
    page.wait_for_function(
        "document.querySelector('#warning')?.innerText.includes('was trained with prompt type instruct')"
    )
    choose(page, "adapter", "Base only")
    page.wait_for_function("document.querySelector('#status')?.innerText.includes('adapter –')")


def test_the_adapter_that_is_chosen_last_brings_its_prompt_type(visit):
    page = visit()
    choose(page, "prompt_type", "text")
    page.wait_for_function("document.querySelector('#status')?.innerText.includes('text')")
    held = hold_requests(page)
    choose(page, "adapter", "B")
    settle(page)
    choose(page, "adapter", "A")
    release(page, held)
    page.wait_for_function("document.querySelector('#prompt_type input')?.value === 'chat'")
    expect(page.locator("#adapter input")).to_have_value("A")


def test_a_late_answer_about_one_setting_does_not_hide_what_another_changed(visit):
    page = visit()
    open_settings(page)
    held = hold_requests(page)
    choose(page, "prompt_type", "instruct")
    set_slider(page, "max_memory", 300)
    settle(page)
    choose(page, "adapter", "B")  # its own is instruct, too
    set_slider(page, "max_new_tokens", 400)
    release(page, held)
    page.wait_for_function("document.querySelector('#status')?.innerText.includes('adapter B (step 7, r 2)')")
    page.wait_for_function("document.querySelector('#memory')?.innerText.includes('/ 112 tokens')")


def test_what_does_not_fit_is_a_notice_with_the_remedy_and_keeps_the_typed_text(visit):
    page = visit()
    ask(page, "短")
    send(page, "长" * 900)
    wait_hint(page, "the base's context is 512: shorten it")
    wait_idle(page)
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")  # so it is seen
    assert page.locator("#hint").bounding_box()["y"] < page.locator("#message").bounding_box()["y"]
    assert len(answers(page)) == 1  # a refusal is no answer
    expect(page.locator("#message textarea")).to_have_value("长" * 900)
    assert len(stored(page)) == 2
    page.reload()
    wait_ready(page)
    page.wait_for_function("document.querySelector('#message textarea')?.value.length === 900")
    wait_equal(lambda: questions(page), ["短"])
    send(page, "")
    assert wait_hint(page, "Please") == "Please type a question first."


def test_the_controls_know_the_base_and_reset_brings_them_back(visit):
    page = visit()
    open_settings(page)
    names = ("temperature", "top_p", "top_k", "num_beams", "max_new_tokens", "min_new_tokens", "repetition_penalty")
    ranges = {}
    for name in (*names, "max_memory"):
        slider = page.locator(f"#{name} input[type=range]")
        ranges[name] = [float(slider.get_attribute(which)) for which in ("min", "max")]
    assert ranges == {
        "temperature": [0, 2], "top_p": [0, 1], "top_k": [0, 100], "num_beams": [1, 10], "max_new_tokens": [1, 512],
        "min_new_tokens": [1, 512], "repetition_penalty": [0.1, 10], "max_memory": [0, 512],
    }  # fmt: skip
    page.locator("#preset input[value=original]").click()
    page.wait_for_function("document.querySelector('#mode')?.innerText.includes('beam search')")
    for name, value in zip((*names, "max_memory"), (1, 0.9, 60, 4, 256, 5, 2, 512), strict=True):
        expect(page.locator(f"#{name} input[type=number]")).to_have_value(str(value))
    page.wait_for_selector("#show_beam")
    expect(page.locator("#do_sample input")).not_to_be_checked()
    page.click("#reset")
    page.wait_for_function("document.querySelector('#mode')?.innerText.includes('greedy')")
    expect(page.locator("#num_beams input[type=number]")).to_have_value("1")
    page.wait_for_selector("#show_beam", state="hidden")  # there are no beams to show
    expect(page.locator("#max_new_tokens input[type=number]")).to_have_value("30")
