"""Who the API answers: keys, kinds and sizes of bodies; over plain sockets, as an attacker would."""

import json
import socket

import pytest
from openai import APIStatusError, AuthenticationError

from chat import main
from tests.api.plainly import HELLO, PATHS, send
from tests.served import Server, assistant_of
from vicuna.answer.flags import ChatFlags, DecodingFlags, ServeFlags
from vicuna.api.guard import MAX_BODY_BYTES
from vicuna.errors import UserError
from vicuna.model.flags import ModelFlags


@pytest.fixture(scope="module")
def assistant(tiny_base):
    return assistant_of(tiny_base)


@pytest.fixture(scope="module")
def locked(assistant):
    server = Server(assistant, ChatFlags(api=True, api_key="sesame-1"))
    yield server
    server.close()


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


@pytest.mark.parametrize("key", ["two words", "密码", "a\nb", "a\x00"])
def test_a_key_that_fits_no_header_is_refused_before_a_base_is_looked_for(key):
    chat = ChatFlags(api=True, api_key=key)
    with pytest.raises(UserError, match="--api_key must consist of ASCII") as error:
        main(ModelFlags(model_path="/nowhere"), chat, ServeFlags(), DecodingFlags())
    assert key not in str(error.value)


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
