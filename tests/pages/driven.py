"""What drives the pages in a browser, the controls that both have and the conversation of one; and the terminal."""

import json
import re
import time
from collections.abc import Callable

from playwright.sync_api import expect

from vicuna.answer.flags import PRESETS, DecodingFlags

# Three English words in a row, names and units apart.
ENGLISH = re.compile(r"\b[A-Za-z]{2,}(?: [a-z]{2,}){2,}")
WAIT_S = 60  # until what the page shows a moment later is not shown at all
expect.set_options(timeout=1000 * WAIT_S)
GREEDY = DecodingFlags(preset="balanced", temperature=0, max_new_tokens=8)


def set_slider(page, name: str, value: float) -> None:
    page.locator(f"#{name} input[type=number]").fill(str(value))
    page.locator(f"#{name} input[type=number]").press("Tab")


def open_settings(page) -> None:
    """Open the settings; Gradio puts values in place once more in the frame after they appear."""
    page.locator("#settings button").first.click()
    page.wait_for_selector("#temperature input[type=number]")
    next_frames(page)


def choose_preset(page, name: str) -> None:
    """Choose a preset, with the settings open, and wait until they are its."""
    page.locator(f"#preset input[value={name}]").click()
    for setting, value in PRESETS[name].items():
        if setting == "do_sample":
            expect(page.locator("#do_sample input")).to_be_checked(checked=value)
        else:
            expect(page.locator(f"#{setting} input[type=number]")).to_have_value(f"{value:g}")


def next_frames(page) -> None:
    """Return once the page has drawn what it has, and what Gradio does in the next frame is done."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))")


def wait_equal(read: Callable[[], object], expected: object) -> None:
    """Wait until what is read is what is expected; else fail with what it is."""
    deadline = time.monotonic() + WAIT_S
    while (found := read()) != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found == expected


def copied(page, expected: str) -> str:
    """What the clipboard holds: once it is what is expected, else in the end, for a copy button takes its time."""
    return page.evaluate(
        """async (expected) => {
            for (let look = 0; look < 600 && await navigator.clipboard.readText() !== expected; look++)
                await new Promise((done) => setTimeout(done, 50));
            return navigator.clipboard.readText();
        }""",
        expected,
    )


def hold_requests(page) -> list:
    """The calls that the page makes from now on, without an answer until `release` lets them go."""
    held = []
    page.route("**/run/**", lambda route: held.append(route))
    return held


def settle(page) -> None:
    """Return once the page has made of the answers what it makes of them, and `hold_requests` has its next calls."""
    next_frames(page)
    page.evaluate("fetch(location.href)")


def release(page, held: list) -> None:
    """Let the calls go that were held back, the latest first; and those that come of their answers."""
    settle(page)
    assert held
    while held:
        route = held.pop()
        with page.expect_response(lambda response, request=route.request: response.request == request):
            route.continue_()
        settle(page)
    page.unroute("**/run/**")


# --- the chat page ----------------------------------------------------------------------------------------------------


def wait_ready(page) -> None:
    page.wait_for_function("/\\d \\/ \\d/.test(document.querySelector('#memory')?.innerText ?? '')")


def wait_idle(page) -> None:
    page.wait_for_selector("#message .submit-button")


def send(page, text: str) -> None:
    page.fill("#message textarea", text)
    page.press("#message textarea", "Enter")


def ask(page, text: str) -> str:
    """Send a message and wait for the whole answer."""
    before = answers(page)
    send(page, text)
    page.wait_for_function("count => document.querySelectorAll('#chat .bot small').length > count", arg=len(before))
    wait_idle(page)
    return answers(page)[-1]


def fill_system(page, text: str) -> None:
    """Open the system prompt and fill it: Gradio empties it once, in the frame after it has opened."""
    page.locator("#system_prompt button").first.click()
    page.wait_for_selector("#system textarea")
    next_frames(page)
    page.fill("#system textarea", text)


def texts(page, role: str) -> list[str]:
    return page.locator(f"#chat .{role} .message-content").evaluate_all(
        "all => all.map(one => one.querySelector('.prose')?.innerText ?? '')"
    )


def answers(page) -> list[str]:
    return [text for text in texts(page, "bot") if text]


def questions(page) -> list[str]:
    return [text.strip() for text in texts(page, "user")]


STORED = """(() => {
    const id = new URL(location).searchParams.get("c");
    const key = Object.keys(localStorage).find((one) => one.startsWith("chinese-vicuna/") && one.endsWith("/" + id));
    return key ? JSON.parse(JSON.parse(localStorage[key]).text) : {messages: [], draft: ""};
})()"""


def stored(page, count: int | None = None) -> list[dict]:
    """What this browser keeps for the page's address; with `count`, once it is so many messages."""
    if count is not None:
        page.wait_for_function(f"count => {STORED}.messages.length === count", arg=count)
    return page.evaluate(STORED)["messages"]


def tool(page, name: str, role: str, number: int):
    """A button of the page's own at a message: `edit`, `edit_answer`, `cut`, `before` or `next`."""
    return page.locator(f"#chat .{role}-row + .message-buttons").nth(number).locator(f".turn-tools .{name}")


def wait_questions(page, *expected: str) -> None:
    """Wait until these are the questions that are shown, each with its answer."""
    page.wait_for_function(
        """expected => {
            const shown = [...document.querySelectorAll("#chat .user .message-content")];
            return shown.map((one) => one.innerText.trim()).join("\\n") === expected.join("\\n")
                && document.querySelectorAll("#chat .turn-tools .edit").length === expected.length
                && !document.querySelector("#message .stop-button");
        }""",
        arg=list(expected),
    )


def listed(page) -> list[str]:
    """The titles in the list of conversations, as they stand in it."""
    next_frames(page)
    return page.locator("#conversations .title").all_inner_texts()


def open_listed(page, title: str) -> None:
    page.locator("#conversations .title", has_text=title).click()


def watch_stop(page) -> None:
    """Have the page remember whether an answer was running since, however short it was."""
    page.evaluate(
        """() => {
            window.ran = false;
            new MutationObserver(() => { window.ran ||= !!document.querySelector("#message .stop-button"); })
                .observe(document.querySelector("#message"), {subtree: true, childList: true});
        }"""
    )


def wait_answered(page) -> None:
    """Wait until an answer has been running since `watch_stop` and is over."""
    page.wait_for_function("window.ran")
    wait_idle(page)


def retry(page) -> None:
    watch_stop(page)
    page.click("#chat button[aria-label=Retry]")
    wait_answered(page)


def set_new_tokens(page, count: int) -> None:
    for name in ("max_new_tokens", "min_new_tokens"):
        set_slider(page, name, count)


def choose(page, name: str, label: str) -> None:
    page.click(f"#{name} input")
    page.locator(f"#{name} [role=option]", has_text=re.compile(f"^\\W*{label}$")).click()


def load(page, text: str) -> None:
    with page.expect_file_chooser() as chooser:
        page.click("#load")
    chooser.value.set_files({"name": "chat.jsonl", "mimeType": "application/jsonl", "buffer": text.encode()})


def wait_hint(page, pattern: str) -> str:
    page.wait_for_function("p => new RegExp(p).test(document.querySelector('#hint')?.innerText ?? '')", arg=pattern)
    return page.inner_text("#hint .prose")


def as_file(*turns: tuple[str, str]) -> str:
    return json.dumps({"history": [{"input": question, "output": answer} for question, answer in turns]})
