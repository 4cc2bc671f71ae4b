"""chat.py in headless Chromium: whole conversations, two visitors, hostile texts, reloads, logins, a phone."""

import json
import random
import re
import time

import pytest

from tests.pages.test_generate_page import answer, copied, held_back, next_frames, open_settings, set_slider, settle
from tests.pages.test_markup import PIECES
from vicuna.pages import conversation
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
def adapters(slow_base, tmp_path_factory):
    """Two adapters for the slow base: A was trained on dialogues, B on instructions."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapters")
    for seed, (name, prompt_type) in enumerate([("A", "chat"), ("B", "instruct")]):
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(slow_base)
        config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        get_peft_model(base, config).save_pretrained(folder / name)
        (folder / name / "run_args.json").write_text(
            json.dumps({"prompt_type": prompt_type, "step": 7}), encoding="utf-8"
        )
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return tmp_path_factory.mktemp("saved")


@pytest.fixture(scope="module")
def address(serving, slow_base, adapters, saved):
    """chat.py with a base that is slow enough to watch, two adapters, and answers of 30 tokens."""
    return serving(
        *("chat.py", "--model_path", slow_base, "--bits", 32, "--lora_path", adapters / "A", adapters / "B"),
        *("--preset", "precise", "--min_new_tokens", 30, "--max_new_tokens", 30, "--save_path", saved),
    )


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
    """chat.py with two accounts, serving the parrot."""
    return serving(
        *("chat.py", "--model_path", parrot, "--bits", 32, "--prompt_type", "chat", "--preset", "precise"),
        *("--repetition_penalty", 1, "--max_new_tokens", 150),
        env={"VICUNA_AUTH": "anna:eins bert:zwei"},
    )


@pytest.fixture
def visit(browser, address):
    """visit(): a new visitor's page; visit(context=...): another tab of the same browser."""
    contexts = []

    def visit(language="en-US", width=1280, context=None, url=address, ready=True):
        if context is None:
            context = browser.new_context(
                locale=language,
                viewport={"width": width, "height": 844},
                permissions=["clipboard-read", "clipboard-write"],
            )
            contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.requested, page.problems = [], []
        page.on("request", lambda request: page.requested.append(request.url))
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("response", lambda response: response.status < 500 or page.problems.append(response.url))
        page.goto(url)
        if ready:
            wait_ready(page)
        return page

    yield visit
    for context in contexts:
        context.close()


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


KEPT = """(() => {
    const id = new URL(location).searchParams.get("c");
    const key = Object.keys(localStorage).find((one) => one.endsWith("/" + id));
    return key ? JSON.parse(JSON.parse(localStorage[key]).text) : {messages: [], draft: ""};
})()"""


def kept(page, count: int | None = None) -> list[dict]:
    """What this browser keeps for the page's address; with `count`, once it is so many messages."""
    if count is not None:
        page.wait_for_function(f"count => {KEPT}.messages.length === count", arg=count)
    return page.evaluate(KEPT)["messages"]


def watch_stop(page) -> None:
    """Have the page remember whether an answer was running since, however short it was."""
    page.evaluate(
        """() => {
            window.ran = false;
            new MutationObserver(() => { window.ran ||= !!document.querySelector("#message .stop-button"); })
                .observe(document.querySelector("#message"), {subtree: true, childList: true});
        }"""
    )


def watch_notes(page) -> None:
    """Have the page remember that a whole answer was shown, however short."""
    page.evaluate(
        """() => new MutationObserver(() => { window.noted ||= !!document.querySelector("#chat .bot small"); })
            .observe(document.querySelector("#chat"), {subtree: true, childList: true, characterData: true})"""
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


def load(page, text: str) -> None:
    with page.expect_file_chooser() as chooser:
        page.click("#load")
    chooser.value.set_files({"name": "chat.jsonl", "mimeType": "application/jsonl", "buffer": text.encode()})


def wait_hint(page, pattern: str) -> str:
    page.wait_for_function("p => new RegExp(p).test(document.querySelector('#hint').innerText)", arg=pattern)
    return page.inner_text("#hint .prose")


def as_file(*turns: tuple[str, str]) -> str:
    return json.dumps({"history": [{"input": question, "output": answer} for question, answer in turns]})


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
            watch("hint", window.hints = [], () => document.querySelector("#hint").textContent);
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
    set_slider(page, "max_memory", 2000)  # no error, though nothing is said about the memory now
    page.wait_for_function("document.querySelectorAll('#chat .bot small').length === 2", timeout=180_000)
    wait_idle(page)
    growing = [text for text in page.evaluate("window.seen") if "▌" in text]
    assert len(set(growing)) >= 5
    assert questions(page) == ["春天的花有哪些？", "夏天呢？"]
    assert "▌" not in "".join(answers(page))
    tokens = [re.search(r"A · (\d+) tokens · .* length limit", text) for text in answers(page)]
    assert [found and found.group(1) for found in tokens] == ["200", "200"]
    assert [message["role"] for message in kept(page, 4)] == ["user", "assistant"] * 2
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
    assert kept(page, 2)[1]["content"]


def test_regenerate_undo_edit_and_delete_change_the_conversation_from_there(visit):
    page = visit()
    first = ask(page, "一 & <b>")
    second = ask(page, "二")
    retry(page)
    assert [text.split("\n")[0] for text in answers(page)] == [first.split("\n")[0], second.split("\n")[0]]  # greedy
    page.click("#chat button[aria-label=Undo]")
    page.wait_for_function("document.querySelectorAll('#chat .user').length === 1")
    page.wait_for_function("document.querySelector('#message textarea').value === '二'")
    ask(page, "三")
    # The question comes back as it was written, and what is sent instead takes its place and that of all that follows.
    page.locator("#chat .user .message-content").first.click()
    page.click("#edit")
    wait_hint(page, "Editing question 1")
    assert page.input_value("#message textarea") == "一 & <b>"
    ask_again = "一又"
    send(page, ask_again)
    page.wait_for_function(
        """question => [...document.querySelectorAll("#chat .user .message-content")].map((one) => one.innerText.trim())
            .join() === question && document.querySelectorAll("#chat .bot small").length === 1""",
        arg=ask_again,
    )
    wait_idle(page)
    assert questions(page) == [ask_again]
    assert [message["content"] for message in kept(page, 2)][::2] == [ask_again]
    ask(page, "四")
    page.locator("#chat .bot .message-content").last.click()
    page.wait_for_function("document.querySelector('#picked')?.innerText.includes('Turn 2')")
    page.click("#delete")
    page.wait_for_function("document.querySelectorAll('#chat .user').length === 1")
    assert len(kept(page, 2)) == 2
    page.wait_for_selector("#turn", state="hidden")


def test_a_chat_is_saved_in_the_originals_form_and_loaded_by_another_visitor(visit, saved):
    page = visit()
    page.click("#save")
    assert "no conversation to save" in wait_hint(page, "save")
    ask(page, "存 <b>&amp;")
    with page.expect_download() as download:
        page.click("#save")
    text = download.value.path().read_text(encoding="utf-8")
    row = json.loads(text)
    assert row["history"] == [{"input": "存 <b>&amp;", "output": kept(page, 2)[1]["content"]}]
    assert row["generation_parameter"]["max_new_tokens"] == 30
    assert row["generation_parameter"]["max_memory"] == 2048
    assert row["info"] == {
        "base": "base", "adapter": "A", "bits": "32 bit, float32", "prompt_type": "chat",
        "version": row["info"]["version"],
    }  # fmt: skip
    name = re.search(r"chat-[0-9a-f]{24}\.jsonl", wait_hint(page, "on the server as")).group()
    assert (saved / name).read_text(encoding="utf-8") == text
    other = visit()
    load(other, text)
    wait_hint(other, "Turns loaded: 1")
    assert questions(other) == ["存 <b>&amp;"]
    assert [m["content"] for m in kept(other, 2)] == [m["content"] for m in kept(page, 2)]
    load(other, text + "nonsense\n")
    wait_hint(other, "row 2 is not JSON")
    assert questions(other) == ["存 <b>&amp;"]


def test_a_reload_keeps_the_conversation_a_second_tab_has_its_own_and_clear_forgets(visit):
    page = visit()
    answer = ask(page, "第一页")
    tab = visit(context=page.context)
    assert questions(tab) == []
    assert tab.url != page.url
    ask(tab, "第二页")
    ask(page, "还是第一页")  # after the other tab kept its own
    for one, asked in ((page, ["第一页", "还是第一页"]), (tab, ["第二页"])):
        one.reload()
        wait_ready(one)
        one.wait_for_function("count => document.querySelectorAll('#chat .user').length === count", arg=len(asked))
        assert questions(one) == asked
    assert answers(page)[0] == answer
    before = page.url
    page.click("#new")
    page.wait_for_function("document.querySelectorAll('#chat .user').length === 0")
    assert page.url != before
    page.goto(before)
    wait_ready(page)
    assert questions(page) == []
    tab.reload()
    wait_ready(tab)
    tab.wait_for_function("document.querySelectorAll('#chat .user').length === 1")


def test_a_late_answer_about_the_memory_does_not_bring_the_old_conversation_back(visit):
    page = visit()
    ask(page, "第一段")
    held, holding = [], [True]
    page.route("**/run/**", lambda route: held.append(route) if holding else route.continue_())
    page.locator("#max_memory input[type=number]").fill("1000")
    page.locator("#max_memory input[type=number]").press("Tab")
    deadline = time.monotonic() + 30
    while not held and time.monotonic() < deadline:
        page.wait_for_timeout(50)
    page.wait_for_timeout(500)  # and what else the change asks for
    holding.clear()
    page.click("#new")
    page.wait_for_function("document.querySelectorAll('#chat .user').length === 0")
    assert held
    for route in held:
        with page.expect_response(lambda response, url=route.request.url: response.url == url):
            route.continue_()
    page.wait_for_timeout(1000)
    assert questions(page) == answers(page) == []


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
    page.wait_for_function(
        """expected => [...document.querySelectorAll("#chat .user .message-content")].map((one) => one.innerText.trim())
            .join() === expected""",
        arg=",".join(expected),
    )
    wait_idle(page)
    settle(page)
    assert questions(page) == expected
    assert [message["content"] for message in kept(page, 2 * len(expected))][::2] == expected
    page.unroute("**/run/**")
    send(page, "又一个")
    page.wait_for_selector("#chat .bot small")
    assert questions(page) == [*expected, "又一个"]


def test_a_system_prompt_belongs_to_the_conversation(visit):
    page = visit()
    fill_system(page, "你是一位诗人。")
    plain = ask(visit(), "你好")
    assert ask(page, "你好").split("\n")[0] != plain.split("\n")[0]
    assert kept(page, 3)[0] == {"role": "system", "content": "你是一位诗人。"}
    page.reload()
    wait_ready(page)
    page.locator("#system_prompt button").first.click()
    page.wait_for_function("document.querySelector('#system textarea')?.value === '你是一位诗人。'")
    with page.expect_download() as download:
        page.click("#save")
    other = visit()
    load(other, download.value.path().read_text(encoding="utf-8"))
    wait_hint(other, "Turns loaded: 1")
    assert kept(other, 3)[0] == {"role": "system", "content": "你是一位诗人。"}


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
        assert questions(page) == [f"我是{name}", f"我还是{name}"]
        assert len(kept(page, 4)) == 4
        assert page.evaluate("Object.keys(localStorage).filter((k) => k.startsWith('chinese-vicuna/')).length") == 1


def test_each_message_chooses_its_adapter_and_its_template(visit):
    page = visit()
    assert page.inner_text("#status").startswith("base base · adapter A (step 7, r 2) ·")
    own = ask(page, "你是谁？")
    choose(page, "adapter", "B")
    page.wait_for_function("document.querySelector('#status').innerText.includes('adapter B (step 7, r 2)')")
    page.wait_for_function("document.querySelector('#prompt_type input').value === 'instruct'")
    page.locator("#system_prompt button").first.click()
    page.wait_for_selector("#system textarea:disabled")
    assert "no place" in page.get_attribute("#system textarea", "placeholder")
    page.click("#new")
    page.wait_for_function("document.querySelectorAll('#chat .user').length === 0")
    other = ask(page, "你是谁？")
    assert " · ".join(other.split("\n")[-1].split(" · ")[:2]) == "B · 30 tokens"
    assert other.split("\n")[0] != own.split("\n")[0]
    choose(page, "prompt_type", "chat")
    page.wait_for_function(
        "document.querySelector('#warning').innerText.includes('was trained with prompt type instruct')"
    )
    choose(page, "adapter", "Base only")
    page.wait_for_function("document.querySelector('#status').innerText.includes('adapter –')")


def test_the_adapter_that_is_chosen_last_brings_its_prompt_type(visit):
    page = visit()
    choose(page, "prompt_type", "text")
    page.wait_for_function("document.querySelector('#status').innerText.includes('text')")
    held = held_back(page)
    choose(page, "adapter", "B")
    settle(page)
    choose(page, "adapter", "A")
    answer(page, held)
    page.wait_for_function("document.querySelector('#prompt_type input').value === 'chat'")
    assert page.input_value("#adapter input") == "A"


def test_a_late_answer_about_one_setting_does_not_hide_what_another_changed(visit):
    page = visit()
    open_settings(page)
    held = held_back(page)
    choose(page, "prompt_type", "instruct")
    set_slider(page, "max_memory", 300)
    settle(page)
    choose(page, "adapter", "B")  # its own is instruct, too
    set_slider(page, "max_new_tokens", 400)
    answer(page, held)
    page.wait_for_function("document.querySelector('#status').innerText.includes('adapter B (step 7, r 2)')")
    page.wait_for_function("document.querySelector('#memory').innerText.includes('/ 112 tokens')")


def choose(page, name: str, label: str) -> None:
    page.click(f"#{name} input")
    page.locator(f"#{name} [role=option]", has_text=re.compile(f"^\\W*{label}$")).click()


def test_what_does_not_fit_is_a_notice_with_the_remedy_and_keeps_the_typed_text(visit):
    page = visit()
    ask(page, "短")
    send(page, "长" * 900)
    page.wait_for_function(
        "document.querySelector('#chat').innerText.includes('the base\\'s context is 512: shorten it')"
    )
    wait_idle(page)
    page.wait_for_function(f"{KEPT}.draft.length === 900")
    assert page.input_value("#message textarea") == "长" * 900
    assert len(kept(page)) == 2
    page.reload()
    wait_ready(page)
    page.wait_for_function("document.querySelector('#message textarea').value.length === 900")
    assert questions(page) == ["短"]
    send(page, "")
    assert wait_hint(page, "Please") == "Please type a question first."


def test_what_is_forgotten_is_dim_below_a_line_that_says_so_and_still_there(visit):
    page = visit()
    load(page, as_file(*((f"问题{i}" * 8, f"回答{i}" * 8) for i in range(12))))
    wait_hint(page, "Turns loaded: 12")
    line = page.inner_text("#memory")
    used, budget, forgotten = map(int, re.search(r"(\d+) / (\d+) tokens · (\d+) turns forgotten", line).groups())
    assert budget == 512 - 30
    assert used <= budget
    assert forgotten > 0
    assert len(questions(page)) == 12
    dim = page.locator("#chat .user-row").evaluate_all("rows => rows.map((row) => getComputedStyle(row).opacity < 1)")
    assert dim == [True] * forgotten + [False] * (12 - forgotten)
    assert f"Forgotten from here up: {forgotten} turns" in page.inner_text("#chat")
    # Below the line a message is still the turn that it was.
    page.locator("#chat .user .message-content").last.click()
    page.wait_for_function("document.querySelector('#picked')?.innerText.includes('Turn 12')")
    page.locator("#max_memory input[type=number]").fill("60")
    page.locator("#max_memory input[type=number]").press("Tab")
    page.wait_for_function("document.querySelector('#memory').innerText.includes('/ 60 tokens · 12 turns')")
    page.wait_for_selector("#chat button[aria-label=Retry]")  # also where the line that says so is the last
    assert page.locator("#chat button[aria-label=Undo]").is_visible()


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
    assert bubbles.count() == 164 + page.locator("#chat .thought-group").count()
    assert bubbles.evaluate_all(EMPTY) == 0  # Gradio shows nothing where it fails
    shown = questions(page)
    assert shown[0] == HOSTILE
    assert shown[1] == "vector<int> x; a<b"
    assert "vector<int> y;" in page.locator("#chat .bot code").nth(1).inner_text()
    links = page.locator("#chat .message-content a").evaluate_all("all => all.map((one) => one.protocol)")
    assert set(links) <= {"http:", "https:", "mailto:", ":"}  # ":" leads nowhere
    assert page.evaluate("window.pwned") is None
    assert [url for url in page.requested if not url.startswith((address, "data:", "blob:"))] == []
    assert page.problems == []


def test_code_tables_and_maths_are_rendered(visit):
    page = visit()
    load(
        page,
        as_file(("```cpp\nvector<int> x;\n```", "| 甲 | 乙 |\n|---|---|\n| 1 | $\\frac{a}{b}$ |\n\n$$\\int_0^1 x<1$$")),
    )
    wait_hint(page, "Turns loaded: 1")
    page.wait_for_selector("#chat .bot .katex-display")
    assert page.locator("#chat .bot td .katex .mfrac").count() == 1
    assert page.locator("#chat .bot th").all_inner_texts() == ["甲", "乙"]
    assert page.locator("#chat .user pre code").inner_text().strip() == "vector<int> x;"


def test_copy_gives_a_message_as_it_was_written(visit):
    page = visit()
    written = "a<b & `c<d` $x<1$ ![i](http://h/i.png)"
    load(page, as_file((written, "答 <b>")))
    wait_hint(page, "Turns loaded: 1")
    page.locator("#chat button[aria-label='Copy message']").first.click()
    assert copied(page, written) == written
    page.locator("#chat button[aria-label='Copy message']").last.click()
    assert copied(page, "答 <b>") == "答 <b>"


def test_the_controls_are_the_originals_and_reset_brings_them_back(visit):
    page = visit()
    open_settings(page)
    names = ("temperature", "top_p", "top_k", "num_beams", "max_new_tokens", "min_new_tokens", "repetition_penalty")
    ranges = {}
    for name in (*names, "max_memory"):
        slider = page.locator(f"#{name} input[type=range]")
        ranges[name] = [float(slider.get_attribute(which)) for which in ("min", "max")]
    assert ranges == {
        "temperature": [0, 1], "top_p": [0, 1], "top_k": [0, 100], "num_beams": [1, 10], "max_new_tokens": [1, 2048],
        "min_new_tokens": [1, 1024], "repetition_penalty": [0.1, 10], "max_memory": [0, 2048],
    }  # fmt: skip
    page.locator("#preset input[value=original]").click()
    page.wait_for_function("document.querySelector('#mode').innerText.includes('beam search')")
    values = [float(page.locator(f"#{name} input[type=number]").input_value()) for name in (*names, "max_memory")]
    assert values == [1.0, 0.9, 60, 4, 256, 5, 2.0, 2048]
    assert not page.locator("#do_sample input").is_checked()
    page.click("#reset")
    page.wait_for_function("document.querySelector('#mode').innerText.includes('greedy')")
    assert page.locator("#num_beams input[type=number]").input_value() == "1"
    assert page.locator("#max_new_tokens input[type=number]").input_value() == "30"


@pytest.mark.parametrize("language", ["zh-CN", "en-US"])
def test_the_page_speaks_the_browsers_language(visit, language):
    page = visit(language)
    strings = STRINGS[language[:2]]
    for name in ("new", "save", "load", "reset"):
        assert page.inner_text(f"#{name}") == strings[name]
    assert page.get_attribute("#message textarea", "placeholder") == strings["message_hint"]
    assert strings["memory"].split()[0] in page.inner_text("#memory")
    assert "__i18n__" not in page.inner_text("body")


def test_the_page_fits_a_phone_with_the_conversation_before_the_settings(visit, tmp_path):
    page = visit("zh-CN", width=390)
    long = "x" * 300
    load(page, as_file((long, f"```\n{long}\n```\n\n| {long} | b |\n|---|---|\n| 1 | 2 |\n\n$$" + "x+" * 200 + "$$")))
    wait_hint(page, "已载入 1 轮")
    page.screenshot(path=tmp_path / "phone.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    top = {
        name: page.locator(f"#{name}").bounding_box()["y"] for name in ("chat", "message", "prompt_type", "settings")
    }
    assert top["chat"] < top["message"] < top["prompt_type"] < top["settings"]
    assert top["message"] < 844  # without scrolling
    assert not page.locator("#temperature").is_visible()


def log_in(page, user: str, password: str) -> None:
    page.locator("input").nth(0).fill(user)
    page.locator("input").nth(1).fill(password)
    page.locator("button").first.click()
    wait_ready(page)


def test_what_a_model_writes_is_text_and_two_logins_of_one_browser_are_two_people(visit, guarded):
    page = visit(url=guarded, ready=False)
    page.wait_for_selector("input[type=password]")
    log_in(page, "anna", "eins")
    answer = ask(page, "说")
    assert answer.split("\n")[0].replace("!i", "![i](http://evil.example/j.png)") == PARROT_SAYS
    assert page.locator("#chat .message-content").locator(UNWANTED).count() == 0
    assert kept(page, 2)[1]["content"] == PARROT_SAYS
    assert [url for url in page.requested if not url.startswith((guarded, "data:", "blob:"))] == []
    address = page.url
    page.click("#logout")
    page.wait_for_selector("input[type=password]")
    page.goto(address)
    page.wait_for_selector("input[type=password]")
    log_in(page, "bert", "zwei")
    assert page.url == address  # the same id, and yet not the same conversation
    assert questions(page) == []
    page.click("#logout")
    page.wait_for_selector("input[type=password]")
    page.goto(address)
    page.wait_for_selector("input[type=password]")
    log_in(page, "anna", "eins")
    page.wait_for_function("document.querySelectorAll('#chat .user').length === 1")
    assert questions(page) == ["说"]


def test_a_file_that_is_too_large_is_refused(visit):
    page = visit()
    load(page, " " * (conversation.LIMIT + 1))
    wait_hint(page, "larger than 2 MB")
