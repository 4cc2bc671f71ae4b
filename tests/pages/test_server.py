"""What guards a page over plain HTTP: what is let through, what is refused, who may log in."""

import socket

import gradio as gr
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from vicuna.answer.flags import ChatFlags, ServeFlags
from vicuna.errors import UserError
from vicuna.pages.server import BLOCKS_KWARGS, MAX_BODY_BYTES, Page, application, authenticator


def client(routes=None, **flags) -> TestClient:
    """A small page behind the middleware."""
    with gr.Blocks(**BLOCKS_KWARGS) as blocks:
        box = gr.Textbox()
        box.submit(lambda text: text, box, box, api_name="queued", concurrency_id="model")
        gr.Button().click(lambda text: text, box, box, api_name="direct", queue=False)
    app = application(Page(blocks, css=""), ServeFlags(**flags), routes)
    return TestClient(app, client=("127.0.0.1", 1))


@pytest.fixture(scope="module")
def page():
    with client() as page:
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


def test_no_answer_allows_other_origins_and_every_one_forbids_foreign_content(page):
    for origin in ("https://evil.example", "http://localhost:1", "null"):
        answer = page.get("/config", headers={"origin": origin})
        preflight = page.options(
            "/gradio_api/queue/join", headers={"origin": origin, "access-control-request-method": "POST"}
        )
        for one in (answer, preflight):
            assert not [name for name in one.headers if name.startswith("access-control")]
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy


def test_nothing_is_recorded_measured_or_linked(page):
    config = page.get("/config").json()
    assert config["footer_links"] == []
    assert config["analytics_enabled"] is False
    assert not config.get("run_history")


def test_routes_stand_beside_the_page_behind_the_same_middleware():
    def routes(app: FastAPI) -> None:
        app.add_api_route("/v1/models", lambda: {"data": []})

    with client(routes) as page:
        answer = page.get("/v1/models", headers={"origin": "https://evil.example"})
        assert answer.json() == {"data": []}
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert page.post("/v1/models", content=b"x" * (MAX_BODY_BYTES + 1)).status_code == 413
        assert "gradio_config" in page.get("/").text


def test_a_page_with_accounts_asks_who_is_there():
    with client(auth=["anna:ge heim", "bert:b:c"]) as page:
        assert page.get("/config").status_code == 401
        assert page.get("/gradio_api/info").status_code == 401
        assert page.post("/gradio_api/run/direct", json={"data": ["x"]}).status_code == 401
        assert page.post("/login", data={"username": "anna", "password": "b:c"}).status_code == 400
        assert page.post("/login", data={"username": "bert", "password": "b:c"}).status_code == 200
        assert page.get("/config").status_code == 200
        assert page.get("/gradio_api/user").json() == "bert"


def test_a_password_counts_with_its_user_only_and_whole():
    right = authenticator(["anna:geheim", "bert:b:c", "李:密码"])
    assert right("anna", "geheim")
    assert right("bert", "b:c")
    assert right("李", "密码")
    for user, password in (
        ("anna", "b:c"),
        ("anna", "geheim "),
        ("anna", ""),
        ("", ""),
        ("bert:b", "c"),
        ("Anna", "geheim"),
    ):
        assert not right(user, password)
    assert authenticator([]) is None


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
    ],
)
def test_what_lets_others_in_is_known(flags, named):
    assert ServeFlags(**flags).reached_from_elsewhere == named


def test_a_page_that_others_reach_without_a_login_is_warned_of(caplog, monkeypatch):
    from vicuna.log import log
    from vicuna.pages import server

    monkeypatch.setattr(log, "propagate", True)
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        flags = ServeFlags(host="0.0.0.0", port=taken.getsockname()[1])
        with gr.Blocks() as blocks, pytest.raises(UserError, match=f"--port {flags.port} can not be listened on"):
            server.serve(Page(blocks, css=""), flags)
    assert "--host 0.0.0.0 lets others reach the page, and no --auth asks who they are" in caplog.text


def test_a_public_link_that_cannot_be_had_is_told_and_the_page_is_served_all_the_same(caplog, monkeypatch):
    from vicuna.log import log
    from vicuna.pages import server

    asked = []

    def refuse(*args: object) -> str:
        asked.append(args)
        raise RuntimeError("Could not get share link from Gradio API Server.")

    monkeypatch.setattr("gradio.networking.setup_tunnel", refuse)
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: asked.append(sockets))
    monkeypatch.setattr(log, "propagate", True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with gr.Blocks(**BLOCKS_KWARGS) as blocks:
        pass
    server.serve(Page(blocks, css=""), ServeFlags(port=port, share_link=True))
    assert asked[0][:2] == ("127.0.0.1", port)
    assert asked[1][0].getsockname() == ("127.0.0.1", port)
    asked[1][0].close()
    assert "--share_link lets others reach the page, and no --auth asks" in caplog.text
    assert "no public link could be opened (Could not get share link" in caplog.text
