"""Requests as anybody can send them, without OpenAI's client."""

import http.client
import json

from tests.served import Server

JSON = {"Content-Type": "application/json"}
HELLO = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 2}
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")


def send(server: Server, path=PATHS[0], body=None, method="POST", **headers):
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
