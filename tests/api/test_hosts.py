"""Under which names the API answers, and to which sites: the right key decides, else the server's own names."""

import http.client
import json
import re
import socket

import pytest
from starlette.requests import HTTPConnection

from tests.api.plainly import HELLO, JSON, PATHS, send
from tests.served import Server, assistant_of
from vicuna.answer.flags import ChatFlags, ServeFlags
from vicuna.args import parse
from vicuna.doors.names import Names

SITE = "http://192.168.7.9:3000"


@pytest.fixture(scope="module")
def assistant(tiny_base):
    return assistant_of(tiny_base)


@pytest.fixture(scope="module")
def locked(assistant):
    server = Server(assistant, ChatFlags(api=True, api_key="sesame-1"))
    yield server
    server.close()


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "localhost.evil.example:{port}", "127.0.0.1.evil.example", "192.168.7.7",
     "", "[::1", "127.1", "2130706433", "127.0.0.1@evil.example", "evil.example@127.0.0.1"],
)  # fmt: skip
@pytest.mark.parametrize("path", [PATHS[0], "/v1/models"])
def test_a_foreign_host_is_refused(server, path, host, caplog, monkeypatch):
    monkeypatch.setattr("vicuna.log.log.propagate", True)
    caplog.set_level("INFO", "vicuna")
    method = "GET" if "models" in path else "POST"
    status, _, reply = send(server, path, method=method, Host=host.format(port=server.port))
    assert status == 403
    assert reply["error"]["code"] == "foreign_host"
    assert "--" not in reply["error"]["message"]
    assert "--allow_host" in caplog.text


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
    scope = {"type": "http", "server": (address, 7860), "headers": [(b"host", host.encode())]}
    assert (Names(bound).foreign(HTTPConnection(scope)) is None) == taken


@pytest.mark.parametrize("origin", ["http://evil.example", "https://127.0.0.1", "null", "", "http://localhost:1"])
@pytest.mark.parametrize("method", ["POST", "OPTIONS", "GET"])
def test_a_foreign_origin_is_refused(server, origin, method, caplog, monkeypatch):
    monkeypatch.setattr("vicuna.log.log.propagate", True)
    caplog.set_level("INFO", "vicuna")
    path = "/v1/models" if method == "GET" else PATHS[0]
    status, _, reply = send(server, path, method=method, Origin=origin, Access_Control_Request_Method="POST")
    assert status == 403
    assert reply["error"]["code"] == "foreign_origin"
    assert "--" not in reply["error"]["message"]
    assert "--allow_origin" in caplog.text


def test_the_servers_own_pages_may_ask(server):
    assert send(server, Origin=f"http://127.0.0.1:{server.port}")[0] == 200


@pytest.fixture(scope="module")
def named(assistant):
    """A server without a key that was told another name of its own, and a site whose pages may use it."""
    (serve,) = parse(
        "", ServeFlags, argv=["--allow_host", "Host.Docker.Internal", "192.168.7.7", "--allow_origin", SITE + "/"]
    )
    server = Server(assistant, serve=serve)
    yield server
    server.close()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("host.docker.internal:{port}", 200),
        ("HOST.docker.internal", 200),
        ("192.168.7.7:{port}", 200),
        ("127.0.0.1:{port}", 200),
        ("evil.example", 403),
        ("host.docker.internal.evil.example", 403),
        ("192.168.7.8", 403),
    ],
)
@pytest.mark.parametrize("path", [PATHS[0], "/v1/models"])
def test_a_host_that_was_named_is_taken(named, path, host, status):
    method = "GET" if "models" in path else "POST"
    assert send(named, path, method=method, Host=host.format(port=named.port))[0] == status


@pytest.mark.parametrize("host", ["host.docker.internal:{port}", "evil.example", "192.168.7.7", "127.1", ""])
@pytest.mark.parametrize("origin", [None, "http://evil.example", "null", "app://obsidian.md"])
def test_the_right_key_decides_whatever_the_host_and_the_origin(locked, host, origin):
    sent = {"Host": host.format(port=locked.port)} | ({"Origin": origin} if origin else {})
    assert send(locked, Authorization="Bearer sesame-1", **sent)[0] == 200
    for wrong in ({}, {"Authorization": "Bearer sesame-2"}):
        status, _, reply = send(locked, **sent, **wrong)
        assert (status, reply["error"]["code"]) == (401, "invalid_api_key")


def test_where_no_key_is_asked_for_one_that_is_sent_opens_nothing(server):
    assert send(server, Authorization="Bearer sesame-1", Host="evil.example")[0] == 403
    assert send(server, Authorization="Bearer sesame-1", Origin="http://evil.example")[0] == 403


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", PATHS[0], None, 200),
        ("POST", PATHS[0], json.dumps({**HELLO, "stream": True}), 200),
        ("POST", PATHS[0], "[]", 400),
        ("GET", "/v1/models", None, 200),
        ("GET", "/v1/nothing", None, 404),
        ("OPTIONS", PATHS[0], None, 204),
    ],
)
def test_a_page_that_was_named_may_ask_and_read(named, method, path, body, status):
    connection = http.client.HTTPConnection("127.0.0.1", named.port, timeout=30)
    headers = {**JSON, "Origin": SITE} | ({"Access-Control-Request-Method": "POST"} if method == "OPTIONS" else {})
    connection.request(method, path, body or json.dumps(HELLO), headers)
    reply = connection.getresponse()
    reply.read()
    assert reply.status == status
    assert reply.getheader("access-control-allow-origin") == SITE
    assert reply.getheader("access-control-allow-credentials") is None
    assert "Origin" in reply.getheader("vary")
    if method == "OPTIONS":
        assert "Authorization" in reply.getheader("access-control-allow-headers")


def test_a_page_that_was_not_named_may_not(named):
    for origin in ("http://evil.example", SITE + "0", SITE.replace("http:", "https:"), "null"):
        status, _, reply = send(named, Origin=origin)  # which looks for headers that would let it read
        assert (status, reply["error"]["code"]) == (403, "foreign_origin")
        assert send(named, method="OPTIONS", Origin=origin, Access_Control_Request_Method="POST")[0] == 403


def test_a_page_that_was_named_needs_the_key_all_the_same(assistant):
    server = Server(assistant, ChatFlags(api=True, api_key="sesame-1"), ServeFlags(allow_origin=[SITE]))
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    replies = {}
    for key in ("sesame-1", "sesame-2"):
        connection.request("GET", "/v1/models", None, {"Origin": SITE, "Authorization": f"Bearer {key}"})
        replies[key] = connection.getresponse()
        replies[key].read()
    assert [reply.status for reply in replies.values()] == [200, 401]
    assert [reply.getheader("access-control-allow-origin") for reply in replies.values()] == [SITE, SITE]
    connection.close()
    server.close()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--allow_host", "*"], r"--allow_host \* is not a host: expected a name or an address"),
        (["--allow_host", "http://a/v1"], "--allow_host http://a/v1 is not a host"),
        (["--allow_host", "a:7860"], "--allow_host a:7860 is not a host"),
        (["--allow_host", ""], "is not a host"),
        (["--allow_origin", "*"], r"--allow_origin \* is not an origin: expected scheme://host:port"),
        (["--allow_origin", "null"], "--allow_origin null is not an origin"),
        (["--allow_origin", "http://a/path"], "is not an origin"),
        (["--allow_origin", "a.example"], "is not an origin"),
    ],
    ids=str,
)
def test_a_name_that_no_request_can_bring_is_refused(argv, says, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse("", ServeFlags, argv=argv)
    assert re.search(says, " ".join(capsys.readouterr().err.split()))


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"allow_host": ["[::1]", "A.b"]}, ["::1", "a.b"]),
        (
            {"allow_origin": ["HTTP://A:80/", "https://b:443", "http://c:443"]},
            ["http://a", "https://b", "http://c:443"],
        ),
        ({"allow_origin": ["app://obsidian.md"]}, ["app://obsidian.md"]),
    ],
    ids=str,
)
def test_names_are_taken_as_requests_bring_them(given, taken):
    flags = ServeFlags(**given)
    assert flags.allow_host + flags.allow_origin == taken
