"""generate.py in headless Chromium: type, watch the answer grow, stop it, move a slider; in both languages."""

import re
import socket

import pytest
from playwright.sync_api import expect

from tests.pages.driven import (
    copied,
    hold_requests,
    open_settings,
    release,
    set_slider,
    settle,
    wait_equal,
)
from vicuna.pages.strings import STRINGS


def ask(page, question: str) -> None:
    page.fill("#question textarea", question)
    page.press("#question textarea", "Enter")


def shown(page) -> str:
    """The answer, without the hidden progress text that Gradio keeps beside it."""
    return page.evaluate("document.querySelector('#output .md')?.innerText ?? ''")


def wait_for_grey(page, grey: bool) -> None:
    """Wait until all sliders that only sampling looks at are grey, or none is."""
    page.wait_for_function(
        """grey => ["temperature", "top_p", "top_k"].every(
            (name) => (getComputedStyle(document.getElementById(name)).filter !== "none") === grey)""",
        arg=grey,
    )


def wait_for_stats(page, pattern: str) -> str:
    page.wait_for_function(
        "pattern => new RegExp(pattern).test(document.querySelector('#stats')?.innerText ?? '')", arg=pattern
    )
    return page.inner_text("#stats")


@pytest.mark.browser
def test_a_late_answer_about_one_control_does_not_hide_what_another_changed(open_page):
    page = open_page()
    open_settings(page)
    held = hold_requests(page)
    page.locator("#do_sample input").click()
    settle(page)
    set_slider(page, "temperature", 0)
    release(page, held)
    page.wait_for_function("document.querySelector('#mode')?.innerText.includes('Temperature 0 is greedy')")
    page.wait_for_selector("#top_p input[type=number]:disabled")


@pytest.mark.browser
def test_the_preset_that_is_clicked_last_fills_the_sliders(open_page):
    page = open_page()
    open_settings(page)
    held = hold_requests(page)
    page.locator("#preset input[value=beam]").click()
    settle(page)
    page.locator("#preset input[value=creative]").click()
    release(page, held)
    page.wait_for_function("document.querySelector('#mode')?.innerText.includes('sampling.')")
    page.wait_for_function("document.querySelector('#num_beams input[type=number]')?.value === '1'")
    page.wait_for_selector("#preset input[value=creative]:checked")


@pytest.mark.browser
def test_a_late_answer_about_half_of_a_preset_does_not_hide_the_other_half(open_page):
    page = open_page()
    page.locator("#preset input[value=creative]").click()
    page.wait_for_function("document.querySelector('#mode')?.innerText.includes('sampling.')")
    held = hold_requests(page)
    page.locator("#preset input[value=beam]").click()  # no sampling, and four beams
    release(page, held)
    page.wait_for_function("document.querySelector('#mode')?.innerText.includes('beam search')")


@pytest.mark.browser
def test_the_answer_grows_and_ends_without_a_cursor(open_page):
    page = open_page()
    open_settings(page)
    set_slider(page, "min_new_tokens", 60)
    set_slider(page, "max_new_tokens", 60)
    page.evaluate(
        """() => {
            const shown = () => document.querySelector("#output .md")?.innerText ?? "";
            window.seen = [];
            new MutationObserver(() => window.seen.push(shown().replace("▌", "").trimEnd()))
                .observe(document.querySelector("#output"), {subtree: true, childList: true, characterData: true});
        }"""
    )
    ask(page, "春天的花有哪些？")
    wait_for_stats(page, "length limit|eos")
    grown = [len(text) for text in dict.fromkeys(page.evaluate("window.seen")) if text]
    assert len(grown) >= 4
    assert grown == sorted(grown)
    wait_equal(lambda: "▌" in shown(page), False)


def test_a_port_that_is_taken_is_named(program, tiny_base):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = program("generate.py", "--model_path", tiny_base, "--bits", 32, "--port", port)
    assert done.returncode == 1
    assert f"--port {port} can not be listened on; is the port taken?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.browser
def test_stop_ends_an_answer_and_says_so(open_page):
    page = open_page()
    open_settings(page)
    set_slider(page, "max_new_tokens", 400)
    set_slider(page, "min_new_tokens", 300)
    ask(page, "讲一个很长的故事。")
    wait_for_stats(page, r"\d+ tokens")
    page.click("#stop")
    line = wait_for_stats(page, "stopped by you")
    assert 0 < int(re.match(r"Base only · (\d+) tokens", line).group(1)) < 300
    page.wait_for_selector("#stop", state="hidden")  # there only while something runs
    wait_equal(lambda: bool(shown(page).strip()), True)


@pytest.mark.browser
def test_moving_a_grey_temperature_switches_sampling_on_and_the_page_says_so(open_page):
    page = open_page()
    page.wait_for_function("document.querySelector('#mode')?.innerText.includes('greedy')")
    open_settings(page)
    wait_for_grey(page, True)
    set_slider(page, "max_new_tokens", 20)
    set_slider(page, "temperature", 0.9)
    page.wait_for_function("document.querySelector('#mode')?.innerText.includes('sampling.')")
    page.wait_for_selector(".inert", state="detached")
    wait_for_grey(page, False)
    expect(page.locator("#do_sample input")).to_be_checked()
    page.wait_for_function("!document.querySelector('#preset input:checked')")  # it is none of them any more
    ask(page, "你好")
    wait_for_stats(page, "length limit|eos")
    first = shown(page)
    ask(page, "你好")
    page.wait_for_function(  # no seed: two draws differ
        """first => document.querySelector('#output .md').innerText !== first
            && /length limit|eos/.test(document.querySelector('#stats')?.innerText ?? '')""",
        arg=first,
    )


@pytest.mark.browser
def test_a_question_takes_the_place_of_the_one_that_is_being_answered(open_page):
    page = open_page()
    open_settings(page)
    set_slider(page, "max_new_tokens", 100)
    set_slider(page, "min_new_tokens", 100)
    page.locator("#sent button").first.click()
    page.wait_for_selector("#prompt textarea")
    ask(page, "讲一个很长的故事。")
    # Asked by the page itself, for what drives it would wait for each of its frames while the answer goes on.
    page.wait_for_function(
        """question => {
            if (!/\\d+ tokens/.test(document.querySelector("#stats")?.innerText ?? '')) return false;
            const box = document.querySelector("#question textarea");
            box.value = question;
            box.dispatchEvent(new Event("input", {bubbles: true}));
            setTimeout(() => document.querySelector("#generate").click());
            return true;
        }""",
        arg="你好",
    )
    page.wait_for_function("document.querySelector('#prompt textarea')?.value.includes('你好')")
    assert wait_for_stats(page, "limit|eos|stopped").startswith("Base only · 100 tokens")


@pytest.mark.browser
def test_temperature_zero_is_greedy_and_greys_what_has_no_effect(open_page):
    page = open_page()
    open_settings(page)
    set_slider(page, "temperature", 0)
    page.wait_for_function("document.querySelector('#mode')?.innerText.includes('Temperature 0 is greedy')")
    page.wait_for_selector("#top_p input[type=number]:disabled")
    expect(page.locator("#top_k input[type=number]")).to_be_disabled()
    set_slider(page, "temperature", 0.5)
    page.wait_for_selector("#top_p input[type=number]:enabled")
    expect(page.locator("#top_k input[type=number]")).to_be_enabled()


@pytest.mark.browser
def test_the_beam_preset_fills_the_sliders_and_shows_every_beam(open_page):
    page = open_page()
    expect(page.locator("#show_beam")).to_be_hidden()
    page.locator("#preset input[value=beam]").click()
    page.wait_for_function("document.querySelector('#mode')?.innerText.includes('beam search')")
    page.wait_for_selector("#show_beam")
    open_settings(page)
    page.wait_for_function("document.querySelector('#num_beams input[type=number]')?.value === '4'")
    set_slider(page, "max_new_tokens", 12)
    ask(page, "你好")
    wait_for_stats(page, "length limit|eos")
    wait_equal(lambda: shown(page).count("final"), 1)
    text = shown(page)
    assert [f"Beam {n} ·" in text for n in range(1, 6)] == [True] * 4 + [False]


@pytest.mark.browser
def test_the_exact_prompt_is_shown(open_page):
    page = open_page()
    open_settings(page)
    set_slider(page, "max_new_tokens", 3)
    ask(page, "你好")
    wait_for_stats(page, "length limit|eos")
    page.locator("#sent button").first.click()
    page.wait_for_selector("#prompt textarea")
    sent = page.locator("#prompt textarea").input_value()
    assert sent.endswith("### Instruction:\n你好\n\n### Response:\n")
    assert re.match(r"\d+ tokens\n\nBelow is an instruction", sent)


@pytest.mark.browser
def test_copy_gives_the_answer_as_the_model_wrote_it(open_page):
    page = open_page()
    open_settings(page)
    set_slider(page, "max_new_tokens", 60)
    set_slider(page, "min_new_tokens", 60)
    ask(page, "你好")
    wait_for_stats(page, "length limit|eos")
    page.wait_for_function("document.querySelector('#plain textarea')?.value.length > 20")
    written = page.input_value("#plain textarea")
    page.hover("#output")
    page.locator("#output button").first.click()
    assert copied(page, written) == written


@pytest.mark.browser
def test_continue_goes_on_where_the_limit_cut(open_page):
    page = open_page()
    open_settings(page)
    set_slider(page, "max_new_tokens", 10)
    set_slider(page, "repetition_penalty", 1)
    ask(page, "你好")
    wait_for_stats(page, "length limit")
    page.wait_for_selector("#continue")
    first = shown(page).replace("▌", "").strip()
    page.click("#continue")
    page.wait_for_function(
        "first => document.querySelector('#output .md')?.innerText.length > first.length + 3", arg=first
    )
    assert shown(page).replace("▌", "").startswith(first)


@pytest.mark.browser
def test_an_empty_question_is_answered_with_a_hint(open_page):
    page = open_page()
    page.click("#generate")
    assert wait_for_stats(page, "question") == "Please type a question first."
    assert shown(page) == ""


@pytest.mark.browser
def test_a_question_beyond_the_context_is_refused_and_kept(open_page):
    page = open_page()
    ask(page, "问" * 2000)
    assert "the base's context is 512" in wait_for_stats(page, "⚠")
    expect(page.locator("#question textarea")).to_have_value("问" * 2000)
    wait_equal(lambda: shown(page), "")  # no cursor is left behind
    page.wait_for_selector("#stop", state="hidden")


@pytest.mark.browser
@pytest.mark.parametrize("language", ["zh-CN", "zh-TW", "en-US"])
def test_the_page_speaks_the_browsers_language(open_page, language):
    page = open_page(language)
    strings = STRINGS["zh" if language.startswith("zh") else "en"]
    expect(page.locator("#generate")).to_have_text(strings["generate"], use_inner_text=True)
    assert page.evaluate("document.documentElement.lang") == ("zh-CN" if language.startswith("zh") else "en")
    page.wait_for_function("document.querySelector('#status')?.innerText.includes('CPU')")
    expect(page.locator("#status")).to_contain_text(strings["status"].split(" {")[0] + " base · ", use_inner_text=True)
    assert "__i18n__" not in page.inner_text("body")


@pytest.mark.browser
@pytest.mark.parametrize("language", ["zh-CN", "en-US"])
def test_on_a_phone_the_settings_are_a_drawer_below_a_header_that_is_low(open_page, language):
    page = open_page(language, width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    top = {name: page.locator(f"#{name}").bounding_box()["y"] for name in ("ask", "output", "more")}
    assert top["ask"] <= 80
    assert top["ask"] < top["output"] < top["more"]
    page.wait_for_selector("#controls", state="hidden")
    page.click("#show_controls")
    page.wait_for_selector("#controls")
    drawer = page.locator("#controls").bounding_box()
    assert (drawer["width"], drawer["y"] + drawer["height"]) == (390, 844)
    # Nothing of the page shines through it.
    page.locator("#preset input[value=creative]").click()
    page.wait_for_function("document.querySelector('#preset input[value=creative]')?.checked")
    over = page.evaluate("document.elementFromPoint(60, 80).closest('#controls') !== null")
    page.click("#show_controls")
    page.wait_for_selector("#controls", state="hidden")
    assert over


@pytest.mark.browser
def test_the_page_asks_no_other_server(open_page, ask_address):
    page = open_page()
    ask(page, "你好 ![x](http://example.com/x.png) <img src=http://example.com/y.png>")
    wait_for_stats(page, "length limit|eos")
    assert [url for url in page.requested if not url.startswith((ask_address, "data:", "blob:"))] == []
