"""chat.py on a GGUF model with an adapter of that kind: its page in headless Chromium, its API by OpenAI's client."""

import re

import pytest
from openai import BadRequestError, OpenAI
from playwright.sync_api import expect

from tests.gguf.gguf_models import export
from tests.pages.driven import (
    answers,
    ask,
    open_settings,
    questions,
    retry,
    send,
    stored,
    wait_equal,
    wait_idle,
)
from tests.served import make_adapter

pytest.importorskip("gguf", reason="gguf is not installed: bash scripts/install_cpp.sh")
pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: bash scripts/install_cpp.sh")

from vicuna.answer.assistant import Assistant
from vicuna.answer.decoding import generation_kwargs
from vicuna.answer.flags import DecodingFlags, ServeFlags
from vicuna.answer.loading import check_beams, load_assistant
from vicuna.errors import UserError
from vicuna.model.flags import ModelFlags
from vicuna.pages.strings import STRINGS

BASE, ADAPTER = "base.gguf", "talks.gguf"
QUESTION = "春天的花有哪些？"
FLAGS = {"preset": "precise", "min_new_tokens": 20, "max_new_tokens": 20}


@pytest.fixture(scope="module")
def files(slow_base, tmp_path_factory):
    """The slow base and an adapter for it, trained on dialogues, as GGUF files."""
    place = tmp_path_factory.mktemp("gguf")
    lora = make_adapter(slow_base, place / "lora", "chat", 1)
    base = export(slow_base, place / BASE, "f32")
    return base, export(slow_base, place / ADAPTER, "f32", lora_path=str(lora))


@pytest.fixture(scope="module")
def address(serving, files):
    base, adapter = files
    flags = [part for name, value in FLAGS.items() for part in (f"--{name}", value)]
    return serving("chat.py", "--model_path", base, "--lora_path", adapter, "--api", *flags)


@pytest.fixture(scope="module")
def assistant(files) -> Assistant:
    base, adapter = files
    return load_assistant(ModelFlags(model_path=str(base)), ServeFlags(), [str(adapter)])


@pytest.fixture
def direct(assistant):
    """direct("talks.gguf", seed, **flags): the answer to QUESTION by the assistant itself."""

    def answer(adapter: str, seed: int | None = None, **flags: object) -> str:
        chosen = generation_kwargs(DecodingFlags(**FLAGS | flags), assistant.engine.generation_config)
        ids = assistant.prompt_ids([{"role": "user", "content": QUESTION}], "chat")
        *_, last = assistant.stream(ids, chosen, seed, adapter=adapter)
        return last.text

    return answer


@pytest.fixture
def client(address) -> OpenAI:
    return OpenAI(base_url=f"{address}v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture
def complete(client):
    """complete(model="base.gguf"): the API's answer to QUESTION."""
    messages = [{"role": "user", "content": QUESTION}]
    return lambda **fields: client.chat.completions.create(**{"model": ADAPTER, "messages": messages, **fields})


def test_the_api_answers_what_the_model_does_with_and_without_its_adapter(client, complete, direct):
    assert [model.id for model in client.models.list()] == [ADAPTER, BASE]
    texts = [direct(name) for name in (ADAPTER, "", ADAPTER)]
    assert texts[0] == texts[2] != texts[1]

    assert [complete(model=name).choices[0].message.content for name in (ADAPTER, BASE, ADAPTER)] == texts
    # Long enough for several pieces however late the server's loop comes to send them.
    chunks = complete(stream=True, max_tokens=120, extra_body={"min_tokens": 120})
    parts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert len(parts) > 5
    assert "".join(parts) == direct(ADAPTER, max_new_tokens=120, min_new_tokens=120)


def test_the_api_draws_by_seed_and_counts_choices_from_it(complete, direct):
    done = complete(temperature=0.9, top_p=0.95, seed=3, n=2, extra_body={"top_k": 0})

    drawn = [direct(ADAPTER, seed, temperature=0.9, top_p=0.95, top_k=0) for seed in (3, 4)]
    assert [choice.message.content for choice in done.choices] == drawn
    assert drawn[0] != drawn[1]


def test_the_api_embeds_and_refuses_beams(client, complete):
    (one,) = client.embeddings.create(model=ADAPTER, input=QUESTION).data
    assert sum(value**2 for value in one.embedding) == pytest.approx(1, abs=1e-4)
    with pytest.raises(BadRequestError) as error:
        complete(extra_body={"num_beams": 2, "do_sample": False})
    assert error.value.body["param"] == "num_beams"
    assert re.search(r"at most 1: llama\.cpp, which computes it, has no beam search\.$", error.value.body["message"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"num_beams": 3}, "--num_beams 3 is beam search, .* take 1 with a GGUF"),
        ({"preset": "original"}, "--preset original is beam search, .* take precise or balanced with a GGUF"),
    ],
)
def test_beams_are_refused_before_the_model_is_loaded(tmp_path, flags, said):
    with pytest.raises(UserError, match=said):
        check_beams(str(tmp_path / "not there yet.gguf"), DecodingFlags(**flags))
    check_beams(str(tmp_path / "not there yet.gguf"), DecodingFlags(preset="original", num_beams=1))
    check_beams(str(tmp_path), DecodingFlags(**flags))


@pytest.mark.browser
def test_the_page_answers_with_the_adapter_and_without_as_the_api_does(visit, direct):
    page = visit()
    page.wait_for_function("base => document.querySelector('#status')?.innerText.includes(base)", arg=f"base {BASE}")
    status = page.inner_text("#status")
    assert re.search(rf"adapter {ADAPTER} \(r 4\) · f32 · llama\.cpp", status)

    ask(page, QUESTION)
    assert stored(page, 2)[1]["content"] == direct(ADAPTER)
    assert f"{ADAPTER} · 20 tokens" in answers(page)[0]
    retry(page)
    assert stored(page, 2)[1]["content"] == direct(ADAPTER)

    page.click("#new")
    page.wait_for_function("document.querySelectorAll('#chat .user').length === 0")
    page.click("#adapter input")
    page.get_by_role("option", name=STRINGS["en"]["base_only"]).click()
    page.click("#prompt_type input")
    page.get_by_role("option", name="chat", exact=True).click()
    ask(page, QUESTION)
    assert stored(page, 2)[1]["content"] == direct("")
    assert page.problems == []


@pytest.mark.browser
@pytest.mark.parametrize("language", ["en-US", "zh-CN"])
def test_beam_controls_are_grey_and_say_why(visit, language):
    page = visit(language)
    open_settings(page)
    for kind in ("number", "range"):
        expect(page.locator(f"#num_beams input[type={kind}]")).to_be_disabled()
    expect(page.locator("#num_beams")).to_contain_text(STRINGS[language[:2]]["one_beam"], use_inner_text=True)
    expect(page.locator("#show_beam")).to_be_hidden()  # there are none to show
    page.locator("#preset input[value=original]").click()
    page.wait_for_function("document.querySelector('#repetition_penalty input[type=number]')?.value === '2'")
    expect(page.locator("#num_beams input[type=number]")).to_have_value("1")


@pytest.mark.browser
def test_stop_ends_an_answer_of_llama_cpp_and_the_next_one_is_whole(visit, direct):
    page = visit()
    open_settings(page)
    for name in ("max_new_tokens", "min_new_tokens"):
        page.locator(f"#{name} input[type=number]").fill("400")
        page.locator(f"#{name} input[type=number]").press("Tab")
    send(page, "讲一个很长的故事。")
    page.wait_for_function("(document.querySelector('#chat .bot .prose')?.innerText ?? '').length > 3")
    page.press("#message textarea", "Escape")
    wait_idle(page)
    assert 0 < int(re.search(r"(\d+) tokens · .* stopped by you", answers(page)[0]).group(1)) < 400

    page.click("#reset")
    page.wait_for_function("document.querySelector('#max_new_tokens input[type=number]')?.value === '20'")
    page.click("#new")
    page.wait_for_function("document.querySelectorAll('#chat .user').length === 0")
    ask(page, QUESTION)
    assert stored(page, 2)[1]["content"] == direct(ADAPTER)
    wait_equal(lambda: questions(page), [QUESTION])
