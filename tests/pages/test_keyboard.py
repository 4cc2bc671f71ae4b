"""Both pages in headless Chromium, by the keyboard alone."""

import pytest
from playwright.sync_api import expect

from tests.pages.driven import answers, next_frames, stored, wait_hint, wait_idle, wait_questions

pytestmark = pytest.mark.browser

MOST_TABS = 200
CONTROLS = """[...document.querySelectorAll("button, input, textarea, select, summary, a[href], [tabindex='0']")]
    .filter((one) => one.checkVisibility({visibilityProperty: true}) && !one.disabled && one.tabIndex >= 0)"""
# Marks what has the focus, and says whether one sees that it has; null once it was there before.
STEP = """() => {
    const one = document.activeElement, {outlineStyle, outlineWidth} = getComputedStyle(one);
    if (one === document.body) return true;
    if (one.dataset.reached) return null;
    one.dataset.reached = "yes";
    return outlineStyle === "auto" || outlineStyle === "solid" && parseFloat(outlineWidth) >= 2;
}"""


def tab_to(page, selector: str, key: str = "Tab") -> None:
    """Press Tab until this has the focus."""
    for _ in range(MOST_TABS):
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press(key)
    raise AssertionError(f"{selector} is not reached")


def wait_focus(page, selector: str) -> None:
    page.wait_for_function("selector => document.activeElement.matches(selector)", arg=selector)


def write(page, text: str, *, anew: bool = False) -> None:
    if anew:
        page.keyboard.press("Control+A")
    page.keyboard.insert_text(text)


def unreached(page) -> list[str]:
    """The controls that no Tab comes to, or that do not show that they have the focus."""
    unseen = []
    for _ in range(MOST_TABS):
        page.keyboard.press("Tab")
        seen = page.evaluate(STEP)
        if seen is None:
            break
        if not seen:
            unseen.append(page.evaluate("document.activeElement.outerHTML.slice(0, 200)"))
    else:
        raise AssertionError("Tab does not come round")
    missed = page.evaluate(
        f"{CONTROLS}.filter((one) => !one.dataset.reached).map((one) => one.outerHTML.slice(0, 200))"
    )
    return unseen + missed


def open_by_key(page, selector: str, inside: str, key: str) -> None:
    tab_to(page, selector)
    page.keyboard.press(key)
    page.wait_for_selector(inside)
    next_frames(page)


def test_a_conversation_is_held_edited_left_opened_and_stopped_by_keys_alone(visit):
    page = visit()
    wait_focus(page, "#message textarea")
    write(page, "苹果")
    page.keyboard.press("Enter")
    stored(page, 2)
    wait_idle(page)
    tab_to(page, "#chat .user-row + .message-buttons .edit", "Shift+Tab")
    page.keyboard.press("Enter")
    wait_hint(page, "Editing question 1")
    wait_focus(page, "#message textarea")
    page.wait_for_function("document.querySelector('#message textarea')?.value === '苹果'")
    write(page, "香蕉", anew=True)
    page.keyboard.press("Enter")
    wait_questions(page, "香蕉")
    tab_to(page, "#chat .before", "Shift+Tab")
    page.keyboard.press("Space")
    wait_questions(page, "苹果")
    wait_focus(page, "#chat .turn-tools button")
    tab_to(page, "#new", "Shift+Tab")
    page.keyboard.press("Enter")
    wait_questions(page)
    wait_focus(page, "#message textarea")
    # Another adapter, and longer answers.
    tab_to(page, "#adapter input")
    page.wait_for_selector("#adapter [role=option]")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#adapter input')?.value === 'B'")
    open_by_key(page, "#settings button", "#temperature input[type=number]", "Space")
    for name in ("max_new_tokens", "min_new_tokens"):
        tab_to(page, f"#{name} input[type=number]")
        write(page, "300", anew=True)
    tab_to(page, "#message textarea", "Shift+Tab")
    write(page, "讲一个很长的故事。")
    page.keyboard.press("Enter")
    page.wait_for_function("(document.querySelector('#chat .bot .prose')?.innerText ?? '').length > 3")
    page.keyboard.press("Escape")
    wait_idle(page)
    page.wait_for_function("document.querySelector('#chat .bot small')?.innerText.includes('stopped by you')")
    write(page, "再讲一个。")
    page.keyboard.press("Enter")
    page.wait_for_selector("#message .stop-button")
    tab_to(page, "#message .stop-button")
    page.keyboard.press("Enter")
    wait_idle(page)
    wait_focus(page, "#message textarea")
    assert len(stored(page, 4)) == 4
    # The list: closed and opened, renamed, another conversation opened, one deleted and brought back.
    tab_to(page, "#show_history", "Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#history", state="hidden")
    page.keyboard.press("Space")
    page.wait_for_selector("#history")
    tab_to(page, "#conversations li:not(.current) .rename")
    page.keyboard.press("Enter")
    wait_focus(page, "#conversations input")
    write(page, "水果", anew=True)
    page.keyboard.press("Enter")
    wait_focus(page, "#conversations li:not(.current) .title")
    page.keyboard.press("Enter")
    wait_questions(page, "苹果")
    wait_focus(page, "#conversations .current .title")
    expect(page.locator("#conversations .current .title")).to_have_text("水果", use_inner_text=True)
    assert len(answers(page)) == 1
    tab_to(page, "#conversations .current .delete")
    page.keyboard.press("Enter")
    wait_questions(page)
    wait_focus(page, "#deleted button")
    page.keyboard.press("Enter")
    wait_questions(page, "苹果")
    assert page.problems == []


def test_every_control_of_the_chat_page_is_reached_by_tab_and_shows_that_it_is(visit):
    page = visit()
    assert (found := unreached(page)) == [], found
    page.evaluate("document.querySelectorAll('[data-reached]').forEach((one) => { delete one.dataset.reached; })")
    tab_to(page, "#message textarea")
    write(page, "你好")
    page.keyboard.press("Enter")
    stored(page, 2)
    wait_idle(page)
    open_by_key(page, "#system_prompt button", "#system textarea", "Enter")
    open_by_key(page, "#settings button", "#temperature input[type=number]", "Space")
    tab_to(page, "#message textarea")
    assert (found := unreached(page)) == [], found


def test_a_single_question_is_asked_stopped_and_gone_on_with_by_keys_alone(open_page):
    page = open_page()
    tab_to(page, "#preset input[value=creative]")
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelector('#mode')?.innerText.includes('sampling.')")
    open_by_key(page, "#settings button", "#temperature input[type=number]", "Enter")
    open_by_key(page, "#more button", "#extra textarea", "Enter")
    open_by_key(page, "#sent button", "#prompt textarea", "Enter")
    for name in ("max_new_tokens", "min_new_tokens"):
        tab_to(page, f"#{name} input[type=number]")
        write(page, "300", anew=True)
    tab_to(page, "#question textarea")
    write(page, "讲一个很长的故事。")
    page.keyboard.press("Enter")
    page.wait_for_function("/\\d+ tokens/.test(document.querySelector('#stats')?.innerText ?? '')")
    page.keyboard.press("Escape")
    page.wait_for_function("document.querySelector('#stats')?.innerText.includes('stopped by you')")
    page.wait_for_selector("#stop", state="hidden")
    tab_to(page, "#max_new_tokens input[type=number]")
    write(page, "5", anew=True)
    tab_to(page, "#generate", "Shift+Tab")
    page.keyboard.press("Space")
    page.wait_for_selector("#continue")
    assert (found := unreached(page)) == [], found
    tab_to(page, "#continue")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#stats')?.innerText.includes('limit reached')")
    tab_to(page, "#logout")
    page.keyboard.press("Enter")
    page.wait_for_selector("input[type=password]")
    assert (found := unreached(page)) == [], found
