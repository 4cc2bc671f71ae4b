"""The browser and the pages that it drives; a chat in the terminal, line by line."""

import io
import json
import os
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.pages.driven import GREEDY, wait_ready
from tests.starting import Started
from vicuna.answer.flags import ChatFlags, DecodingFlags

ROOT = Path(__file__).resolve().parent.parent.parent


@contextmanager
def serving_pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Gives what serves a page until the end, and returns its address."""
    servers = []

    def serve(*argv: object, env: dict[str, str] | None = None) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        said = tmp_path_factory.mktemp("served") / "said"
        with said.open("w", encoding="utf-8") as file:
            server = Started(
                [sys.executable, *map(str, argv), "--port", str(port)],
                cwd=ROOT,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **(env or {})},
                stdout=file,
                stderr=file,
            )
        servers.append(server)
        url = f"http://127.0.0.1:{port}/"
        for _ in range(2400):
            try:
                urllib.request.urlopen(url, timeout=20)
                return url
            except OSError:
                assert server.poll() is None, said.read_text(encoding="utf-8")
                time.sleep(0.05)
        raise AssertionError(f"{argv[0]} did not answer at {url}")

    try:
        yield serve
    finally:
        for server in servers:
            server.terminate()
            server.wait(timeout=60)


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    """serving("chat.py", "--bits", 32): serve a page until the module's tests are done; its address."""
    with serving_pages(tmp_path_factory) as serve:
        yield serve


# --- the chat page, which its test files share: it holds nothing of any visitor ---------------------------------------


@pytest.fixture(scope="package")
def chat_adapters(slow_base, tmp_path_factory):
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


@pytest.fixture(scope="package")
def saved(tmp_path_factory):
    return tmp_path_factory.mktemp("saved")


@pytest.fixture(scope="package")
def address(tmp_path_factory, slow_base, chat_adapters, saved):
    """chat.py with a base that is slow enough to watch, two adapters, and answers of 30 tokens."""
    adapters = (chat_adapters / "A", chat_adapters / "B")
    with serving_pages(tmp_path_factory) as serve:
        yield serve(
            *("chat.py", "--model_path", slow_base, "--bits", 32, "--lora_path", *adapters),
            *("--preset", "precise", "--min_new_tokens", 30, "--max_new_tokens", 30, "--save_path", saved),
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


# --- the page of generate.py ------------------------------------------------------------------------------------------

ACCOUNT = ("anna", "eins")


@pytest.fixture(scope="package")
def ask_address(tmp_path_factory, slow_base):
    """generate.py with the slow base, for whoever is ACCOUNT."""
    with serving_pages(tmp_path_factory) as serve:
        yield serve("generate.py", "--model_path", slow_base, "--bits", 32, env={"VICUNA_AUTH": ":".join(ACCOUNT)})


@pytest.fixture
def open_page(browser, ask_address):
    """open_page("zh-CN", 390): the page of generate.py, for somebody who is logged in."""
    contexts = []

    def open_page(language: str = "en-US", width: int = 1280, script: str = ""):
        context = browser.new_context(
            locale=language, viewport={"width": width, "height": 844}, permissions=["clipboard-read", "clipboard-write"]
        )
        contexts.append(context)
        context.add_init_script(script)
        context.request.post(f"{ask_address}login", form=dict(zip(("username", "password"), ACCOUNT, strict=True)))
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.requested = []
        page.on("request", lambda request: page.requested.append(request.url))
        page.goto(ask_address)
        page.wait_for_selector("#question textarea")
        # The page says the mode in the visitor's language once its events are connected.
        own = "当前解码" if language.startswith("zh") else "Decoding now"
        page.wait_for_function("own => document.querySelector('#mode')?.innerText.includes(own)", arg=own)
        return page

    yield open_page
    for context in contexts:
        context.close()


# --- the chat in the terminal -----------------------------------------------------------------------------------------


@pytest.fixture(scope="package")
def terminal_adapters(tiny_base, tmp_path_factory):
    from tests.served import make_adapter

    folder = tmp_path_factory.mktemp("adapters")
    return (
        make_adapter(tiny_base, folder / "talks", "chat", 1),
        make_adapter(tiny_base, folder / "obeys", "instruct", 2),
    )


@pytest.fixture(scope="package")
def terminal_assistant(tiny_base, terminal_adapters):
    from tests.served import assistant_of

    return assistant_of(tiny_base, *terminal_adapters)


@pytest.fixture
def typed(terminal_assistant, monkeypatch, capsys):
    """typed("你好", "/undo", …): what a chat of these lines writes to standard output, and to standard error."""
    from vicuna.pages import terminal

    monkeypatch.setenv("LC_ALL", "en_GB.UTF-8")

    def run(*lines: str, chat: ChatFlags | None = None, decoding: DecodingFlags = GREEDY) -> tuple[str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        capsys.readouterr()
        terminal.chat(terminal_assistant, chat or ChatFlags(), decoding)
        return capsys.readouterr()

    return run


@pytest.fixture
def expected(terminal_assistant):
    """expected("你好", "a", "再见"): the text that the assistant itself gives to the last of these messages."""
    from vicuna.answer.decoding import generation_kwargs
    from vicuna.prompt.templates import prompt_ids

    def stream(*texts, adapter="talks", system="", decoding=GREEDY, seed=None):
        assistant = terminal_assistant
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
        messages = ([{"role": "system", "content": system}] if system else []) + messages
        chosen = generation_kwargs(decoding, assistant.engine.generation_config)
        ids = prompt_ids(assistant.tokenizer, assistant.choices[adapter].prompt_type, messages)
        *_, last = assistant.stream(ids, chosen, decoding.seed if seed is None else seed, adapter=adapter)
        return last.text

    return stream
