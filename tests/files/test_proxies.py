"""Proxies of the shell: no page of this machine minds them, and a download says in a sentence which it can not use."""

import os
import queue
import re
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from tests.served import free_port
from tests.starting import Started
from vicuna.errors import UserError
from vicuna.files.proxies import check_proxies, proxy_of_clients, without_proxies

ROOT = Path(__file__).resolve().parent.parent.parent
# Each of them ends `import gradio` in a traceback: a package that is missing, a scheme, a port that is none.
DESKTOP = {
    "ALL_PROXY": "socks5://127.0.0.1:1",
    "http_proxy": "socks://127.0.0.1:1/",
    "https_proxy": "https://me:secret@[::1",
    "no_proxy": "localhost,::1,fe80::/10",
}
HTTP = {"https_proxy": "http://me:secret@127.0.0.1:7890", "HTTP_PROXY": "127.0.0.1:7890", "all_proxy": ""}


@pytest.fixture
def shell(monkeypatch):
    """shell(ALL_PROXY="…"): these proxies, and no others, are set; the hub may be asked."""

    def use(**proxies: str) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            monkeypatch.delenv(name)
        for name, value in proxies.items():
            monkeypatch.setenv(name, value)

    return use


@pytest.mark.parametrize(
    "argv",
    [["chat.py"], ["chat.py", "--api"], ["generate.py"]],
    ids=" ".join,
)
def test_a_page_of_this_machine_needs_no_proxy(tiny_base, argv):
    command = [sys.executable, *argv, "--model_path", str(tiny_base), "--bits", "32", "--port", str(free_port())]
    env = {**os.environ, **DESKTOP, "CUDA_VISIBLE_DEVICES": ""}
    server = Started(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    said: queue.Queue[str] = queue.Queue()
    threading.Thread(target=lambda: [*map(said.put, server.stderr), said.put("")], daemon=True).start()
    try:
        told = ""
        while not (found := re.search(r"the page is at (\S+)", told)):
            line = said.get(timeout=240)
            assert line, f"it ended: {told}"
            told += line
        with urllib.request.urlopen(found[1], timeout=60) as page:
            assert "gradio" in page.read().decode()
    finally:
        server.terminate()
        server.wait(60)


def test_without_proxies_only_while_it_lasts(shell):
    shell(**DESKTOP, MY_PROXY="x", Http_Proxy="y")
    before = dict(os.environ)
    with without_proxies():
        assert not [name for name in os.environ if name.lower().endswith("_proxy")]
    assert dict(os.environ) == before
    with pytest.raises(ZeroDivisionError), without_proxies():
        raise ZeroDivisionError
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("proxies", "says"),
    [
        (
            {"all_proxy": "socks://127.0.0.1:7891/"},
            "all_proxy is socks://…, which downloads can not use. Set it to http",
        ),
        ({"ALL_PROXY": "socks4://127.0.0.1:7891"}, "ALL_PROXY is socks4://…, which downloads can not use"),
        ({"HTTPS_PROXY": "ftp://a:1"}, "HTTPS_PROXY is ftp://…"),
        ({"https_proxy": "https://me:secret@[::1"}, "https_proxy names no host"),
        ({"http_proxy": "http://:7890"}, "http_proxy names no host"),
        ({"http_proxy": "http://a:port"}, "http_proxy names no host"),
        ({"http_proxy": "http://a:1", "ALL_PROXY": "socks://a:1"}, "ALL_PROXY is socks://…"),
    ],
    ids=str,
)
def test_a_proxy_that_no_download_can_use_is_named_without_its_password(shell, proxies, says):
    shell(**proxies)
    with pytest.raises(UserError, match=re.escape(says)) as error:
        check_proxies()
    assert "secret" not in str(error.value)
    assert "HF_HUB_OFFLINE=1 takes what was downloaded before" in str(error.value)


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_socks5_needs_its_package(shell, monkeypatch, scheme):
    shell(ALL_PROXY=f"{scheme}://me:secret@127.0.0.1:7891")
    monkeypatch.setattr("vicuna.files.proxies.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=f"ALL_PROXY is {scheme}://…, which needs a package .*: python -m pip install"
    ) as error:
        check_proxies()
    assert "secret" not in str(error.value)
    monkeypatch.setattr("vicuna.files.proxies.find_spec", lambda name: object())
    check_proxies()


@pytest.mark.parametrize(
    "proxies", [{}, HTTP, {"no_proxy": DESKTOP["no_proxy"]}, {"http_proxy": "https://[::1]:8080"}], ids=str
)
def test_a_proxy_that_a_download_can_use_is_left_to_it(shell, proxies):
    shell(**proxies)
    check_proxies()


def test_what_is_there_already_needs_no_proxy(shell, monkeypatch):
    shell(**DESKTOP)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    check_proxies()


@pytest.mark.parametrize(
    "argv",
    [
        ["generate.py", "--text", "hi", "--bits", "32", "--model_path", "owner/name"],
        ["-m", "vicuna.files.hub", "owner/name", "models/name"],
    ],
    ids=lambda argv: argv[0],
)
def test_a_program_that_downloads_says_so_in_a_sentence(program, argv):
    done = program(*argv, env={"ALL_PROXY": "socks://127.0.0.1:1/", "HF_HUB_OFFLINE": "0"})
    assert done.returncode == 1
    assert "ALL_PROXY is socks://…, which downloads can not use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("proxies", "variable"),
    [
        ({"http_proxy": "http://127.0.0.1:7890"}, "http_proxy"),
        ({"HTTP_PROXY": "http://127.0.0.1:7890", "no_proxy": "localhost,::1"}, "HTTP_PROXY"),
        ({"ALL_PROXY": "socks5://127.0.0.1:7891"}, "ALL_PROXY"),
        ({"https_proxy": "http://127.0.0.1:7890"}, ""),
        ({"http_proxy": "http://127.0.0.1:7890", "no_proxy": "localhost, 127.0.0.1"}, ""),
        ({"http_proxy": "http://127.0.0.1:7890", "NO_PROXY": "*"}, ""),
        ({}, ""),
    ],
    ids=str,
)
def test_the_proxy_that_clients_of_this_shell_ask_is_known(shell, proxies, variable):
    shell(**proxies)
    assert proxy_of_clients() == variable
