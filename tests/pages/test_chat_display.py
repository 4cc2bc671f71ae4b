"""chat.py in headless Chromium: how texts are shown, hostile ones too; both languages, a phone."""

import random
import re
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from tests.pages.driven import (
    as_file,
    ask,
    copied,
    load,
    questions,
    stored,
    tool,
    wait_equal,
    wait_hint,
    wait_ready,
)
from tests.pages.test_markup import PIECES
from tests.pages.tls_proxy import tls_proxy
from vicuna.pages.strings import STRINGS

pytestmark = pytest.mark.browser


HOSTILE = (
    '<img src="http://evil.example/i.png" onerror="window.pwned=1"> <form action="http://evil.example/f"><input></form>'
    '<iframe src="http://evil.example/"></iframe><style>body{display:none}</style><script>window.pwned=1</script>'
)
PARROT_SAYS = (
    'vector<int> x; a<b <img src="http://evil.example/i.png"> <form> <style>*{} ![i](http://evil.example/j.png)'
)
EMPTY = "all => all.filter((one) => !one.closest('.thought-group') && !one.querySelector('.prose *')).length"
UNWANTED = "img, form, iframe, style, script, object, embed, input, svg image, link, video, audio, base, meta"


@pytest.fixture(scope="module")
def parrot(tiny_base, tmp_path_factory):
    """The tiny base, taught to answer "说" with PARROT_SAYS and nothing else."""
    import torch
    from transformers import AutoModelForCausalLM

    from vicuna.prompt.templates import encode
    from vicuna.prompt.tokenizer import TextTokenizer

    folder = tmp_path_factory.mktemp("parrot") / "parrot"
    tokenizer, model = TextTokenizer(tiny_base), AutoModelForCausalLM.from_pretrained(tiny_base)
    messages = [{"role": "user", "content": "说"}, {"role": "assistant", "content": PARROT_SAYS}]
    example = encode(tokenizer, "chat", messages, 512)
    ids, labels = torch.tensor([example.input_ids]), torch.tensor([example.labels])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(200):
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss < 0.005:
            break
    model.save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes((tiny_base / "tokenizer.model").read_bytes())
    return folder


@pytest.fixture(scope="module")
def guarded(serving, parrot):
    """chat.py with two accounts behind a proxy, serving the parrot."""
    return serving(
        *("chat.py", "--model_path", parrot, "--bits", 32, "--prompt_type", "chat", "--preset", "precise"),
        *(
            "--repetition_penalty",
            1,
            "--max_new_tokens",
            150,
            "--proxy",
            "127.0.0.1",
            "--allow_host",
            "pages.localhost",
        ),
        env={"VICUNA_AUTH": "anna:eins bert:zwei"},
    )


def fill_login(page, user: str, password: str) -> None:
    page.fill("input[name=username]", user)
    page.fill("input[type=password]", password)
    page.press("input[type=password]", "Enter")


def log_in(page, user: str, password: str) -> None:
    fill_login(page, user, password)
    wait_ready(page)


def test_no_text_of_anybody_becomes_markup_or_a_request(visit, address):
    chance = random.Random(0)
    page = visit()
    page.on("dialog", lambda dialog: page.problems.append(dialog.message))
    texts_ = ["".join(chance.choices(PIECES, k=chance.randint(2, 14))) for _ in range(160)]
    load(
        page,
        as_file(
            (HOSTILE, HOSTILE),
            ("vector<int> x; a<b", "`a<b` 和\n```cpp\nvector<int> y;\n```"),
            *zip(texts_[::2], texts_[1::2], strict=True),
        ),
    )
    wait_hint(page, "Turns loaded: 82")
    page.wait_for_function(
        f"""() => document.querySelectorAll("#chat .message-content").length
                === 164 + document.querySelectorAll("#chat .thought-group").length
            && ({EMPTY})([...document.querySelectorAll("#chat .message-content")]) === 0"""
    )
    found = page.locator("#chat .message-content").locator(UNWANTED)
    assert found.evaluate_all("all => all.map((one) => one.outerHTML)") == []
    bubbles = page.locator("#chat .message-content")
    expect(bubbles).to_have_count(164 + page.locator("#chat .thought-group").count())
    assert bubbles.evaluate_all(EMPTY) == 0  # Gradio shows nothing where it fails
    shown = questions(page)
    assert shown[0] == HOSTILE
    assert shown[1] == "vector<int> x; a<b"
    expect(page.locator("#chat .bot code").nth(1)).to_contain_text("vector<int> y;")
    links = page.locator("#chat .message-content a").evaluate_all("all => all.map((one) => one.protocol)")
    assert set(links) <= {"http:", "https:", "mailto:", ":"}  # ":" leads nowhere
    assert page.evaluate("window.pwned") is None
    assert [url for url in page.requested if not url.startswith((address, "data:", "blob:"))] == []
    assert page.problems == []


def test_what_a_model_writes_is_text_and_two_logins_of_one_browser_are_two_people(visit, guarded):
    page = visit(url=guarded, ready=False)
    page.wait_for_selector("input[type=password]")
    log_in(page, "anna", "eins")
    answer = ask(page, "说")
    assert answer.split("\n")[0].replace("!i", "![i](http://evil.example/j.png)") == PARROT_SAYS
    expect(page.locator("#chat .message-content").locator(UNWANTED)).to_have_count(0)
    assert stored(page, 2)[1]["content"] == PARROT_SAYS
    assert [url for url in page.requested if not url.startswith((guarded, "data:", "blob:"))] == []
    address = page.url
    page.click("#logout")
    page.wait_for_selector("input[type=password]")
    page.goto(address)
    page.wait_for_selector("input[type=password]")
    log_in(page, "bert", "zwei")
    assert page.url == address  # the same id, and yet not the same conversation
    wait_equal(lambda: questions(page), [])
    page.click("#logout")
    page.wait_for_selector("input[type=password]")
    page.goto(address)
    page.wait_for_selector("input[type=password]")
    log_in(page, "anna", "eins")
    page.wait_for_function("document.querySelectorAll('#chat .user').length === 1")
    wait_equal(lambda: questions(page), ["说"])


def test_behind_a_proxy_with_tls_a_login_holds_for_every_tab_until_it_is_ended(browser, visit, guarded, tmp_path):
    with tls_proxy(urlsplit(guarded).port, tmp_path) as port:
        context = browser.new_context(ignore_https_errors=True, locale="zh-CN")
        page = visit(url=f"https://pages.localhost:{port}/", context=context, ready=False)
        page.wait_for_selector("input[type=password]")
        expect(page.get_by_role("button", name="登录")).to_have_count(1)
        fill_login(page, "anna", "zwei")
        expect(page.get_by_role("alert")).to_have_text("用户名或密码不对。", use_inner_text=True)
        log_in(page, "anna", "eins")
        (cookie,) = context.cookies()
        assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Lax")
        ask(page, "说")
        stored(page, 2)
        page.reload()
        page.wait_for_function("document.querySelectorAll('#chat .user').length === 1")
        other = visit(url=f"https://pages.localhost:{port}/", context=context)
        ask(other, "说")
        assert (len(questions(page)), len(questions(other))) == (1, 1)
        assert {urlsplit(url).netloc for url in page.requested if url.startswith("http")} == {f"pages.localhost:{port}"}
        other.click("#logout")
        other.wait_for_selector("input[type=password]")
        assert context.cookies() == []
        page.reload()
        page.wait_for_selector("input[type=password]")
        assert page.problems + other.problems == []
        context.close()


def test_code_tables_and_maths_are_rendered(visit):
    page = visit()
    load(
        page,
        as_file(("```cpp\nvector<int> x;\n```", "| 甲 | 乙 |\n|---|---|\n| 1 | $\\frac{a}{b}$ |\n\n$$\\int_0^1 x<1$$")),
    )
    wait_hint(page, "Turns loaded: 1")
    page.wait_for_selector("#chat .bot .katex-display")
    expect(page.locator("#chat .bot td .katex .mfrac")).to_have_count(1)
    expect(page.locator("#chat .bot th")).to_have_text(["甲", "乙"], use_inner_text=True)
    expect(page.locator("#chat .user pre code")).to_have_text("vector<int> x;")


def test_copy_gives_a_message_as_it_was_written(visit):
    page = visit()
    written = "a<b & `c<d` $x<1$ ![i](http://h/i.png)"
    load(page, as_file((written, "答 <b>")))
    wait_hint(page, "Turns loaded: 1")
    page.locator("#chat button[aria-label='Copy message']").first.click()
    assert copied(page, written) == written
    page.locator("#chat button[aria-label='Copy message']").last.click()
    assert copied(page, "答 <b>") == "答 <b>"


def test_what_is_forgotten_is_dim_below_a_line_that_says_so_and_still_there(visit):
    page = visit()
    load(page, as_file(*((f"问题{i}" * 8, f"回答{i}" * 8) for i in range(12))))
    wait_hint(page, "Turns loaded: 12")
    page.wait_for_function("/ [1-9]\\d* turns forgotten/.test(document.querySelector('#memory')?.innerText ?? '')")
    line = page.inner_text("#memory")
    used, budget, forgotten = map(int, re.search(r"(\d+) / (\d+) tokens · (\d+) turns forgotten", line).groups())
    assert budget == 512 - 30
    assert used <= budget
    assert forgotten > 0
    wait_equal(lambda: len(questions(page)), 12)
    dim = "rows => rows.map((row) => getComputedStyle(row).opacity < 1)"
    rows = page.locator("#chat .user-row")
    wait_equal(lambda: rows.evaluate_all(dim), [True] * forgotten + [False] * (12 - forgotten))
    expect(page.locator("#chat")).to_contain_text(f"Forgotten from here up: {forgotten} turns", use_inner_text=True)
    # Below the line a message is still the turn that it was.
    tool(page, "edit", "user", 11).click()
    wait_hint(page, "Editing question 12")
    page.locator("#max_memory input[type=number]").fill("60")
    page.locator("#max_memory input[type=number]").press("Tab")
    page.wait_for_function("document.querySelector('#memory')?.innerText.includes('/ 60 tokens · 12 turns')")
    page.wait_for_selector("#chat button[aria-label=Retry]")  # also where the line that says so is the last
    expect(page.locator("#chat button[aria-label=Undo]")).to_be_visible()


@pytest.mark.parametrize("language", ["zh-CN", "en-US"])
def test_the_page_speaks_the_browsers_language(visit, language):
    page = visit(language)
    strings = STRINGS[language[:2]]
    for name in ("new", "save", "load", "reset", "show_controls"):
        expect(page.locator(f"#{name}")).to_have_text(strings[name], use_inner_text=True)
    assert page.evaluate("document.documentElement.lang") == {"zh-CN": "zh-CN", "en-US": "en"}[language]
    expect(page.locator("#message textarea")).to_have_attribute("placeholder", strings["message_hint"])
    expect(page.locator("#memory")).to_contain_text(strings["memory"].split()[0], use_inner_text=True)
    assert "__i18n__" not in page.inner_text("body")


@pytest.mark.parametrize("language", ["zh-CN", "en-US"])
def test_on_a_phone_the_settings_are_a_drawer_below_a_header_that_is_low(visit, language):
    page = visit(language, width=390)
    long = "x" * 300
    load(page, as_file((long, f"```\n{long}\n```\n\n| {long} | b |\n|---|---|\n| 1 | 2 |\n\n$$" + "x+" * 200 + "$$")))
    wait_hint(page, STRINGS[language[:2]]["loaded"].format(turns=1))
    page.wait_for_selector("#chat .bot .katex-display")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("document.documentElement.scrollHeight") <= 844
    top = {name: page.locator(f"#{name}").bounding_box()["y"] for name in ("actions", "chat", "message")}
    assert top["actions"] < top["chat"] < top["message"] < 844 - 40
    assert top["chat"] <= 80
    for panel, button in (("controls", "show_controls"), ("history", "show_history")):  # drawers, one at a time
        expect(page.locator(f"#{panel}")).to_be_hidden()
        page.click(f"#{button}")
        page.wait_for_selector(f"#{panel}")
    expect(page.locator("#controls")).to_be_hidden()
    page.click("#show_history")
    page.wait_for_selector("#history", state="hidden")
