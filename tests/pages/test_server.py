"""What a page lets through over plain HTTP, how much, and how it is served. Who is let in is in test_front.py."""

import socket

import gradio as gr
import pytest
from fastapi import FastAPI
from starlette.requests import HTTPConnection

from tests.pages.plain_client import small_page
from tests.served import free_port
from vicuna.answer.flags import ChatFlags, ServeFlags
from vicuna.doors.door import Door
from vicuna.errors import UserError
from vicuna.log import log
from vicuna.pages import server
from vicuna.pages.server import BLOCKS_KWARGS, MAX_BODY_BYTES, Page


@pytest.fixture(scope="module")
def page():
    with small_page() as page:
        yield page


def test_the_page_and_what_it_asks_for_are_there(page):
    assert "gradio_config" in page.get("/").text
    for path in ("/config", "/theme.css", "/gradio_api/info", "/gradio_api/startup-events"):
        assert page.get(path).status_code == 200, path


@pytest.mark.parametrize(
    "path",
    [
        *("/gradio_api/file=/etc/passwd", "/gradio_api/file/etc/passwd", "/gradio_api/file=../../etc/passwd"),
        *("/gradio_api/proxy=http://169.254.169.254/", "/gradio_api/deep_link?session_hash=x", "/gradio_api/runs"),
        *("/gradio_api/component_server", "/gradio_api/vibe-code", "/gradio_api/upload_progress", "/gradio_api/token"),
        *("/monitoring", "/monitoring/summary", "/file=/etc/passwd", "/static/../../../../etc/passwd"),
        *("/assets/..%2f..%2f..%2f..%2fetc/passwd", "/custom_component/x", "/docs", "/openapi.json", "/svelte/..%2fx"),
    ],
)
def test_what_a_page_does_not_need_is_blocked(page, path):
    answer = page.get(path, follow_redirects=False)
    assert answer.status_code in (403, 404), answer.text[:200]
    assert "root:" not in answer.text


@pytest.mark.parametrize("path", ["upload", "process_recording", "component_server", "vibe-edit", "undo-vibe-edit"])
def test_nothing_can_be_uploaded(page, path, tmp_path):
    answer = page.post(f"/gradio_api/{path}", files={"files": ("../../x.txt", b"x")})
    assert answer.status_code == 404


def test_a_request_has_a_largest_size_whatever_it_says_of_itself(page):
    path = "/gradio_api/run/direct"
    assert page.post(path, content=b"[" * (MAX_BODY_BYTES + 1)).status_code == 413
    done = page.post(path, json={"data": ["x" * 100_000]})
    assert done.json()["data"] == ["x" * 100_000]
    pieces = (b"[" * 2**20 for _ in range(MAX_BODY_BYTES // 2**20 + 1))  # without a content-length
    assert page.post(path, content=pieces).status_code >= 400


def test_what_has_a_queue_cannot_be_called_around_it(page):
    answer = page.post("/gradio_api/run/queued", json={"data": ["x"]})
    assert answer.status_code == 404
    assert "join the queue" in answer.text


def test_every_answer_forbids_foreign_content_and_frames(page):
    for answer in (page.get("/"), page.get("/config"), page.get("/file=x"), page.get("/", headers={"host": "evil"})):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert policy.endswith("frame-ancestors 'self'")
        assert "http" not in policy


def test_nothing_is_recorded_measured_or_linked(page):
    config = page.get("/config").json()
    assert config["footer_links"] == []
    assert config["analytics_enabled"] is False
    assert not config.get("run_history")


def test_routes_stand_beside_the_page_behind_the_same_middleware():
    foreign = {"origin": "https://evil.example"}

    def routes(app: FastAPI) -> list[str]:
        for path in ("/v1/models", "/own", "/own/too"):
            app.add_api_route(path, lambda: {"data": []})
        return ["/v1/", "/own"]  # which let in by themselves

    with small_page(routes) as page:
        for path, status in (("/v1/models", 200), ("/own", 200), ("/own/too", 403), ("/v1", 403)):
            assert page.get(path, headers=foreign).status_code == status, path
        assert page.get("/v1/models").json() == {"data": []}
        assert page.post("/v1/models", content=b"x" * (MAX_BODY_BYTES + 1)).status_code == 413
        assert "gradio_config" in page.get("/").text


@pytest.mark.parametrize("account", ["anna", "anna:", ":geheim", "geheimnis"])
def test_an_account_of_another_form_is_refused_without_repeating_it(account):
    with pytest.raises(UserError, match=r"account 2 .* not of the form user:password") as told:
        ServeFlags(auth=["a:b", account])
    assert "geheim" not in str(told.value)


def test_secrets_can_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("VICUNA_AUTH", "anna:eins bert:zwei")
    monkeypatch.setenv("VICUNA_API_KEY", "key")
    assert ServeFlags().auth == ["anna:eins", "bert:zwei"]
    assert ServeFlags(auth=["carl:drei"]).auth == ["carl:drei"]
    assert ChatFlags().api_key == "key"
    assert ChatFlags(api_key="other").api_key == "other"


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({}, ""),
        ({"host": "localhost"}, ""),
        ({"host": "127.0.0.9"}, ""),
        ({"host": "::1"}, ""),
        ({"host": "0.0.0.0"}, "--host 0.0.0.0"),
        ({"host": "::"}, "--host ::"),
        ({"host": "192.168.1.5"}, "--host 192.168.1.5"),
        ({"host": "my.example"}, "--host my.example"),
        ({"share_link": True}, "--share_link"),
        ({"proxy": ["127.0.0.1"]}, "--proxy"),
    ],
)
def test_what_lets_others_in_is_known(flags, named):
    assert ServeFlags(**flags).reached_from_elsewhere == named


def test_a_port_that_is_taken_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        flags = ServeFlags(port=taken.getsockname()[1])
        with gr.Blocks() as blocks, pytest.raises(UserError, match=f"--port {flags.port} can not be listened on"):
            server.serve(Page(blocks, css=""), flags, Door(flags))


@pytest.fixture
def served(caplog, monkeypatch):
    """served(**flags): what is said at a start until requests would be taken, where it listens, and the door."""

    def serve(**flags):
        flags = ServeFlags(port=free_port(), **flags)
        door, listening = Door(flags), []
        monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: listening.extend(sockets))
        monkeypatch.setattr(log, "propagate", True)
        caplog.set_level("INFO")
        with gr.Blocks(**BLOCKS_KWARGS) as blocks:
            pass
        server.serve(Page(blocks, css=""), flags, door)
        address = listening[0].getsockname()
        listening[0].close()
        return caplog.text, address, door

    return serve


def test_the_password_that_was_made_is_told_at_the_start(served):
    said, _, door = served(host="0.0.0.0")
    user, password = door.accounts[0].split(":")
    assert f"log in as {user} with the password {password} (made for this run: --host 0.0.0.0 lets others" in said
    assert "WARNING" not in said


def test_a_page_that_was_left_open_to_others_is_warned_of(served):
    said, _, door = served(host="0.0.0.0", no_auth=True)
    assert "WARNING --host 0.0.0.0 lets others reach the page, and --no_auth lets in whoever comes" in said
    assert door.accounts == []


def test_a_public_link_that_cannot_be_had_is_told_and_the_page_is_served_all_the_same(served, monkeypatch):
    asked = []

    def refuse(*args: object) -> str:
        asked.append(args)
        raise RuntimeError("Could not get share link from Gradio API Server.")

    monkeypatch.setattr("gradio.networking.setup_tunnel", refuse)
    said, address, _ = served(share_link=True)
    assert asked[0][:2] == address
    assert "no public link could be opened (Could not get share link" in said
    assert "with the password" in said


def test_a_public_link_is_a_name_of_the_server(served, monkeypatch):
    monkeypatch.setattr("gradio.networking.setup_tunnel", lambda *args: "http://0a1b.gradio.example")
    said, _, door = served(share_link=True)
    assert "the public link is https://0a1b.gradio.example" in said
    for host, ours in (("0A1B.gradio.example", True), ("0a1c.gradio.example", False)):
        headers = [(b"host", host.encode()), (b"origin", f"https://{host}".encode())]
        request = HTTPConnection({"type": "http", "server": ("127.0.0.1", 1), "headers": headers})
        assert (door.names.foreign(request) is None) == ours
        assert door.names.is_public(request) == ours
