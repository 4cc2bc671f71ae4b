"""chat.py --api as it is started: the routes beside the page, in one process on one port."""

import contextlib
import http.client
import io
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from openai import OpenAI

from tests.served import assistant_of, free_port, make_adapter
from tests.starting import Started
from vicuna.answer.flags import ChatFlags, DecodingFlags
from vicuna.args import parse
from vicuna.pages import conversation, terminal
from vicuna.pages.chat_controller import ChatController
from vicuna.pages.decoding_controls import CHAT_CONTROLS
from vicuna.pages.strings import STRINGS

ROOT = Path(__file__).resolve().parent.parent.parent
KEY = "sesame-1"
SITE = "http://192.168.7.9:3000"
DRAWN = ["--preset", "balanced", "--temperature", "0.8", "--seed", "3", "--max_new_tokens", "10"]
QUESTION = "春天的花有哪些？"


@pytest.fixture(scope="module")
def adapter(tiny_base, tmp_path_factory):
    return make_adapter(tiny_base, tmp_path_factory.mktemp("adapters") / "obeys", "instruct", 2)


@pytest.fixture(scope="module")
def port(tiny_base, adapter):
    """Where chat.py listens, with a login for the page and a key for the routes."""
    port = free_port()
    argv = ["chat.py", "--api", "--model_path", tiny_base, "--bits", "32", "--lora_path", adapter, "--port", port]
    argv += ["--allow_origin", SITE]
    server = Started(
        [sys.executable, *map(str, argv)],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "VICUNA_API_KEY": KEY, "VICUNA_AUTH": "me:secret", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2)
            break
        except OSError:
            assert server.poll() is None, server.stderr.read()
            time.sleep(0.3)
    yield port
    server.terminate()
    server.wait(30)


@pytest.fixture
def client(port):
    return OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, max_retries=0)


def test_every_way_to_ask_gives_the_same_answer(client, program, tiny_base, adapter, monkeypatch, capsys):
    """The same prompt, settings and seed: --api, generate.py, the chat in the terminal, and what its page does."""
    message = {"role": "user", "content": QUESTION}
    asked = {"temperature": 0.8, "seed": 3, "max_tokens": 10}
    by_api = client.chat.completions.create(model="obeys", messages=[message], **asked).choices[0].message.content
    model = ["--model_path", tiny_base, "--bits", "32", "--lora_path", adapter]
    by_generate = program("generate.py", *model, "--text", QUESTION, *DRAWN).stdout
    monkeypatch.setattr(sys, "stdin", io.StringIO(QUESTION))
    (drawn,) = parse("", DecodingFlags, argv=DRAWN)
    assistant = assistant_of(tiny_base, adapter)
    terminal.chat(assistant, ChatFlags(), drawn)
    by_terminal = capsys.readouterr().out
    decoding = CHAT_CONTROLS.initial_values(drawn, assistant.engine)
    controls = ["obeys", "instruct", "", 2048, False, *decoding.values()]
    controller = ChatController(assistant, seed=3, typewriter=True)
    changes = list(controller.send(STRINGS["en"], "tab", conversation.serialize([]), QUESTION, None, controls))
    stored = [change["stored"] for change in changes if "stored" in change][-1]
    assert by_api
    assert by_terminal == f"{by_api}\n"
    assert conversation.deserialize(stored)[0][-1]["content"] == by_api
    assert by_generate == f"{by_api}\n".replace("\r\n", "\n")  # as files of text are read


def test_the_routes_ask_for_their_key_whatever_the_page_asks_for(port, client):
    assert [model.id for model in client.models.list()] == ["obeys", "tiny"]
    for authorization in ("", "Bearer secret", "Basic bWU6c2VjcmV0"):
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/models", headers={"Authorization": authorization} if authorization else {}
        )
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(request, timeout=30)


@pytest.mark.parametrize("size", [2 << 20, 12 << 20])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_a_413_however_it_comes(port, size, chunked):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    body = (b" " * 65536 for _ in range(size // 65536)) if chunked else b" " * size
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused while it was still on its way
        connection.request("POST", "/v1/completions", body, headers, encode_chunked=chunked)
    reply = connection.getresponse()
    assert reply.status == 413
    assert not [name for name, _ in reply.getheaders() if name.lower().startswith("access-control-")]


def test_requests_of_foreign_pages_reach_no_route(port):
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        for key, status in ((KEY, 200), ("sesame-2", 401)):  # which no page can know
            reply = requested(port, "/v1/models", Authorization=f"Bearer {key}", **headers)
            assert reply.status == status
            assert reply.getheader("access-control-allow-origin") is None


def test_pages_of_the_site_that_was_named_read_the_routes_and_nothing_else(port):
    assert requested(port, "/v1/models", Origin=SITE, Authorization=f"Bearer {KEY}").status == 200
    paths = {"/v1/models": SITE, "/tokenizer_info": SITE, "/config": None, "/": None, "/gradio_api/info": None}
    for path, readable in paths.items():
        assert requested(port, path, Origin=SITE).getheader("access-control-allow-origin") == readable


def requested(port, path, **headers) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers=headers)
    reply = connection.getresponse()
    reply.read()
    connection.close()
    return reply
