"""Tools in a request: left out where the model may do without, and said; refused where one has to be called."""

import json
import logging
import urllib.request

import pytest
from openai import BadRequestError

from tests.api.questions import HELLO, joined, message_of

FUNCTION = {"name": "search_web", "parameters": {"type": "object", "properties": {"query": {"type": "string"}}}}
TOOLS = [{"type": "function", "function": FUNCTION}] * 28
NAMED = {"type": "function", "function": {"name": "search_web"}}
NOTICE = "tools were left out (28): no prompt type shows them to the model"
FREE = [
    {"tools": TOOLS},
    {"tools": TOOLS, "tool_choice": "auto"},
    {"tools": TOOLS, "tool_choice": "none"},
    {"tools": TOOLS, "tool_choice": None, "parallel_tool_calls": True},
    {"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}}},
    {"functions": [FUNCTION] * 28},
    {"functions": [FUNCTION] * 28, "function_call": "auto"},
    {"functions": [FUNCTION] * 28, "function_call": "none"},
]


def asked(fields: dict) -> str:
    return "+".join(f"{name}={value}" if isinstance(value, str) else name for name, value in fields.items())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", FREE, ids=asked)
def test_tools_that_need_not_be_called_change_nothing_and_are_said(client, ask, caplog, fields, stream):
    create = client.chat.completions.with_raw_response.create
    body = {"temperature": 0, "max_tokens": 12, **fields}
    with caplog.at_level(logging.INFO, "vicuna"):
        reply = create(model="talks", messages=HELLO, stream=stream, extra_body=body)
    text = joined(reply.parse())[0] if stream else reply.parse().choices[0].message.content
    assert text == ask().choices[0].message.content
    assert reply.headers["x-vicuna-notice"] == NOTICE
    assert f"a request to talks: {NOTICE}" in caplog.text


@pytest.mark.parametrize(
    "fields", [{}, {"tools": []}, {"tool_choice": "none"}, {"tool_choice": "auto"}, {"functions": [], "tools": None}]
)
def test_where_no_tools_were_sent_nothing_is_said(client, fields):
    create = client.chat.completions.with_raw_response.create
    reply = create(model="talks", messages=HELLO, temperature=0, max_tokens=2, extra_body=fields)
    assert "x-vicuna-notice" not in reply.headers


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"tools": TOOLS, "tool_choice": "required"}, "tool_choice", 'tool_choice "required" asks for a call'),
        ({"tools": TOOLS, "tool_choice": NAMED}, "tool_choice", '{"name": "search_web"}} asks for a call'),
        ({"tool_choice": "required"}, "tool_choice", "send auto or none, or leave it out"),
        ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice", 'tool_choice "any" asks for a call'),
        (
            {"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required"}}},
            "tool_choice",
            "asks for a call",
        ),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}}, "tool_choice", "asks for a call"),
        ({"functions": [FUNCTION], "function_call": {"name": "search_web"}}, "function_call", "asks for a call"),
        ({"tools": "search"}, "tools", "tools is text, expected a list"),
        ({"tools": TOOLS, "tool_choice": 1}, "tool_choice", "expected text or an object"),
    ],
    ids=lambda value: asked(value) if isinstance(value, dict) else str(value)[:30],
)
def test_a_tool_that_has_to_be_called_is_refused(ask, fields, param, says):
    with pytest.raises(BadRequestError) as error:
        ask(extra_body=fields)
    assert says in message_of(error)
    assert error.value.param == param


@pytest.mark.parametrize("name", ["tool_calls", "function_call"])
def test_a_call_in_the_history_is_refused_by_name(ask, name):
    call = {"id": "1", "type": "function", "function": {"name": "search_web", "arguments": "{}"}}
    called = {"role": "assistant", "content": None, name: [call] if name == "tool_calls" else call["function"]}
    with pytest.raises(BadRequestError, match=f"{name} is not supported here"):
        ask(messages=[*HELLO, called, *HELLO])


def test_the_other_notices_stand_in_the_header_too(client):
    turns = [{"role": role, "content": f"{i}{role}" * 6} for i in range(12) for role in ("user", "assistant")]
    create = client.chat.completions.with_raw_response.create
    reply = create(model="talks", messages=[*turns, *HELLO], max_tokens=2, tools=TOOLS)
    (notice,) = reply.parse().notices
    assert "did not fit and were left out" in notice
    assert reply.headers["x-vicuna-notice"] == f"{notice}; {NOTICE}"


def test_a_text_to_be_continued_has_no_tools(server):
    body = json.dumps({"model": "talks", "prompt": "a", "tools": TOOLS}).encode()
    request = urllib.request.Request(
        f"http://{server.address}/v1/completions", body, {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError, match="400") as error:
        urllib.request.urlopen(request, timeout=30)
    assert json.load(error.value)["error"]["param"] == "tools"
