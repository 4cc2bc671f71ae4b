"""Who the API answers: keys, hosts, origins, kinds and sizes of bodies; over plain sockets, as an attacker would."""

import asyncio
import http.client
import json
import socket

import pytest
from fastapi import FastAPI
from openai import APIStatusError, AuthenticationError

from chat import main
from tests.served import Server, assistant_of
from vicuna.answer.flags import ChatFlags, DecodingFlags, ServeFlags
from vicuna.api.guard import MAX_BODY_BYTES, Guard, api_key
from vicuna.api.routes import add_routes
from vicuna.args import parse
from vicuna.errors import UserError
from vicuna.model.flags import ModelFlags

JSON = {"Content-Type": "application/json"}
HELLO = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 2}
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")


@pytest.fixture(scope="module")
def assistant(tiny_base):
    return assistant_of(tiny_base)


@pytest.fixture(scope="module")
def locked(assistant):
    server = Server(assistant, ChatFlags(api=True, api_key="sesame-1"))
    yield server
    server.close()


def send(server, path=PATHS[0], body=None, method="POST", **headers):
    """Status, headers and JSON of a reply; `_` in a header's name is `-`."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    body = json.dumps(HELLO) if body is None and method == "POST" else body
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, {**(JSON if method == "POST" else {}), **headers})
    reply = connection.getresponse()
    text = reply.read()
    connection.close()
    assert not [name for name, _ in reply.getheaders() if name.lower().startswith("access-control-")]
    return reply.status, dict(reply.getheaders()), json.loads(text)


# --- keys ---------------------------------------------------------------------------------------------------------


def test_the_right_key_opens_every_route(locked):
    client = locked.client("sesame-1")
    assert client.models.list().data[0].id == "tiny"
    assert client.chat.completions.create(model="tiny", **HELLO).choices


@pytest.mark.parametrize("key", ["", "sesame-2", "sesame-", "sesame-11", "SESAME-1", "é"])
@pytest.mark.parametrize("path", [*PATHS, "/v1/models", "/v1/models/tiny", "/v1/elsewhere"])
def test_a_wrong_key_opens_none(locked, path, key):
    method = "GET" if "models" in path else "POST"
    status, headers, reply = send(locked, path, method=method, **({"Authorization": f"Bearer {key}"} if key else {}))
    assert status == 401
    assert headers["www-authenticate"] == "Bearer"
    assert reply["error"]["code"] == "invalid_api_key"
    assert "sesame" not in json.dumps(reply)


def test_a_wrong_key_is_openais_own_error(locked):
    with pytest.raises(AuthenticationError, match="the API key is missing or wrong"):
        locked.client("no").models.list()


@pytest.mark.parametrize("header", ["Basic sesame-1", "sesame-1", "Bearer", "Bearer Bearer sesame-1"])
def test_a_key_in_another_form_is_none(locked, header):
    assert send(locked, Authorization=header)[0] == 401


def test_the_scheme_may_be_written_in_any_case(locked):
    assert send(locked, Authorization="bearer  sesame-1 ")[0] == 200


def test_without_a_key_any_is_taken(server):
    assert send(server, Authorization="Bearer whatever")[0] == 200


def test_what_is_beside_the_routes_needs_no_key(locked):
    assert send(locked, "/", method="GET")[2] == "the page"


# --- starting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--auth", "me:secret"], "--auth protects the page, and nothing protects the routes of --api: give --api_key"),
        (["--host", "0.0.0.0"], "--host 0.0.0.0 lets others reach the page, and nothing protects the routes"),
        (["--host", "example"], "--host example lets others reach the page"),
        (["--share_link"], "--share_link lets others reach the page"),
    ],
    ids=str,
)
def test_what_strangers_reach_does_not_start_without_a_key(assistant, argv, says):
    (serve,) = parse("", ServeFlags, argv=argv)
    with pytest.raises(UserError, match=says):
        add_routes(FastAPI(), assistant, ChatFlags(api=True), serve, DecodingFlags())
    with pytest.raises(UserError, match=says):  # before a base is looked for
        main(ModelFlags(model_path="/nowhere"), ChatFlags(api=True), serve, DecodingFlags())
    assert api_key(ChatFlags(api_key="sesame"), serve) == "sesame"


def test_the_key_can_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("VICUNA_API_KEY", "from-there")
    assert api_key(ChatFlags(), ServeFlags(host="0.0.0.0")) == "from-there"
    assert api_key(ChatFlags(api_key="given"), ServeFlags()) == "given"


@pytest.mark.parametrize("key", ["two words", "密码", "a\nb", "a\x00"])
def test_a_key_that_fits_no_header_is_refused(key):
    with pytest.raises(UserError, match="--api_key must consist of ASCII") as error:
        api_key(ChatFlags(api_key=key), ServeFlags())
    assert key not in str(error.value)


# --- hosts and origins --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "localhost.evil.example:{port}", "127.0.0.1.evil.example", "192.168.7.7",
     "", "[::1", "127.1", "2130706433", "127.0.0.1@evil.example", "evil.example@127.0.0.1"],
)  # fmt: skip
@pytest.mark.parametrize("path", [PATHS[0], "/v1/models"])
def test_a_foreign_host_is_refused(server, path, host):
    method = "GET" if "models" in path else "POST"
    status, _, reply = send(server, path, method=method, Host=host.format(port=server.port))
    assert status == 403
    assert reply["error"]["code"] == "foreign_host"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:{port}", "localhost", "LOCALHOST:{port}", "[::1]:{port}", socket.gethostname()]
)
def test_the_servers_own_names_are_taken(server, host):
    assert send(server, Host=host.format(port=server.port))[0] == 200


@pytest.mark.parametrize(
    ("bound", "host", "address", "taken"),
    [
        ("0.0.0.0", "192.168.7.7:7860", "172.17.0.2", True),
        ("::", "[2001:db8::1]:7860", "2001:db8::2", True),
        ("0.0.0.0", "evil.example:7860", "172.17.0.2", False),
        ("192.168.7.7", "192.168.7.7:7860", "192.168.7.7", True),
        ("192.168.7.7", "192.168.7.8:7860", "192.168.7.7", False),
        ("vicuna.lan", "vicuna.lan:7860", "192.168.7.7", True),
        ("vicuna.lan", "192.168.7.7:7860", "192.168.7.7", True),
        ("vicuna.lan", "other.lan:7860", "192.168.7.7", False),
        ("2001:db8::1", "[2001:DB8::1]:7860", "2001:db8::1", True),
    ],
)
def test_a_host_is_what_the_server_listens_on(bound, host, address, taken):
    seen, replies = [], []

    async def app(scope, receive, send):
        seen.append(scope)

    async def note(message):
        replies.append(message)

    scope = {
        "type": "http", "method": "GET", "path": "/v1/models", "query_string": b"", "server": (address, 7860),
        "headers": [(b"host", host.encode())],
    }  # fmt: skip
    asyncio.run(Guard(app, bound, "")(scope, None, note))
    assert bool(seen) == taken
    assert bool(replies) != taken


@pytest.mark.parametrize("origin", ["http://evil.example", "https://127.0.0.1", "null", "", "http://localhost:1"])
@pytest.mark.parametrize("method", ["POST", "OPTIONS", "GET"])
def test_a_foreign_origin_is_refused(server, origin, method):
    path = "/v1/models" if method == "GET" else PATHS[0]
    status, _, reply = send(server, path, method=method, Origin=origin, Access_Control_Request_Method="POST")
    assert status == 403
    assert reply["error"]["code"] == "foreign_origin"


def test_the_servers_own_pages_may_ask(server):
    assert send(server, Origin=f"http://127.0.0.1:{server.port}")[0] == 200


# --- bodies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
@pytest.mark.parametrize("path", PATHS)
def test_only_json_is_read(server, path, kind):
    status, _, reply = send(server, path, Content_Type=kind)
    assert status == 415
    assert "expected application/json" in reply["error"]["message"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('"a"', "not a JSON object"),
        (b"\xff\xfe{", "not JSON"),
        ('{"messages": ' + "[" * 100_000, "nested too deeply"),
        ('{"n": ' + "9" * 5000 + "}", "not JSON"),
        ('{"temperature": NaN, "messages": [{"role": "user", "content": "x"}]}', "temperature nan is out of range"),
        ('{"\\ud800": 1, "messages": [{"role": "user", "content": "x"}]}', "is not a field"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_broken_body_is_a_400(server, body, says):
    status, _, reply = send(server, body=body)
    assert status == 400
    assert says in reply["error"]["message"]
    assert reply["error"]["type"] == "invalid_request_error"


def large(size: int) -> str:
    body = {**HELLO, "metadata": {"filler": ""}}
    body["metadata"]["filler"] = "x" * (size - len(json.dumps(body)))
    return json.dumps(body)


def test_a_body_may_be_as_large_as_the_limit_and_no_larger(server):
    assert send(server, body=large(MAX_BODY_BYTES))[0] == 200
    status, _, reply = send(server, body=large(MAX_BODY_BYTES + 1))
    assert status == 413
    assert "send a shorter conversation" in reply["error"]["message"]


def test_a_large_body_is_openais_own_error(server):
    with pytest.raises(APIStatusError, match="the body is larger than 1048576 bytes") as error:
        server.client().completions.create(model="tiny", prompt="x" * (4 << 20))
    assert error.value.status_code == 413


def test_a_body_in_chunks_of_unknown_number_is_limited_too(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        head = f"POST {PATHS[0]} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        for _ in range(40):
            connection.sendall(chunk)
        connection.sendall(b"0\r\n\r\n")
        assert connection.recv(200).startswith(b"HTTP/1.1 413")


def test_routes_that_are_not_there_are_told_in_the_same_form(server):
    status, _, reply = send(server, "/v1/nothing")
    assert status == 404
    assert "there is no /v1/nothing; there are /v1/chat/completions" in reply["error"]["message"]
    assert reply["error"]["message"].endswith("/v1/models/{model}, /v1/embeddings.")
    status, headers, reply = send(server, PATHS[0], method="GET")
    assert status == 405
    assert headers["allow"] == "POST"
    assert reply["error"]["message"] == "/v1/chat/completions does not take GET."
