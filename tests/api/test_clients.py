"""Requests in the form in which programs send them without further settings: each is answered as if asked plainly.

Open WebUI's were recorded from 0.12.4; Cherry Studio's (by the AI SDK) and LobeChat's are as their public sources put
them together; LangChain's and LlamaIndex's as their clients sent them. docs/en/chat.md says what was tried for real.
"""

import http.client
import json

import pytest

from tests.api.questions import HELLO

QUERY = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
BUILT_IN = [
    {"type": "function", "function": {"name": f"tool_{i}", "description": "…", "parameters": QUERY}} for i in range(28)
]
MCP = [{"type": "function", "function": {"name": "search", "description": "", "parameters": QUERY, "strict": False}}]
TURNS = [*HELLO, {"role": "assistant", "content": "有桃花。"}, {"role": "user", "content": "还有呢？"}]
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
NEUTRAL = {"frequency_penalty": 0, "presence_penalty": 0}
FORMS = {
    "open-webui": {"stream": True, "messages": HELLO, "tools": BUILT_IN},
    "open-webui-second-turn": {"stream": True, "messages": TURNS, "tools": BUILT_IN},
    "open-webui-title": {"stream": False, "messages": HELLO, "max_tokens": 1000},
    "cherry-studio": {**USAGE, "messages": HELLO},
    "cherry-studio-mcp": {**USAGE, "messages": TURNS, "tools": MCP, "tool_choice": "auto"},
    "lobechat": {**USAGE, "messages": HELLO, "temperature": 1, "top_p": 1, **NEUTRAL},
    "lobechat-plugins": {**USAGE, "messages": TURNS, "temperature": 1, "top_p": 1, **NEUTRAL, "tools": MCP},
    "langchain": {"stream": False, "messages": HELLO, "temperature": 0.0, "max_completion_tokens": 16},
    "langchain-tools": {"stream": False, "messages": HELLO, "tools": MCP, "max_completion_tokens": 16},
    "llamaindex": {"stream": False, "messages": HELLO, "temperature": 0.1, "max_tokens": 16},
    "llamaindex-tools": {
        "stream": True, "messages": HELLO, "tools": MCP, "tool_choice": "auto", "parallel_tool_calls": False,
    },
}  # fmt: skip


def post(server, body: dict) -> tuple[int, str, str]:
    """Status, notice and text of an answer, streamed or not."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {"Content-Type": "application/json", "Authorization": "Bearer none"}
    connection.request("POST", "/v1/chat/completions", json.dumps({"model": "talks", **body}), headers)
    reply = connection.getresponse()
    told = reply.read().decode()
    connection.close()
    if reply.status != 200 or not body["stream"]:
        told = json.loads(told)
        text = told["choices"][0]["message"]["content"] if reply.status == 200 else told["error"]["message"]
    else:
        *events, done = told.removesuffix("\n\n").split("\n\n")
        assert done == "data: [DONE]"
        chunks = [json.loads(event.removeprefix("data: ")) for event in events]
        text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    return reply.status, reply.getheader("x-vicuna-notice", ""), text


@pytest.mark.parametrize("form", FORMS)
def test_a_request_of_a_programs_form_is_answered(server, form):
    sent = {"seed": 1, **FORMS[form]}
    plain = {name: value for name, value in sent.items() if name not in ("tools", "tool_choice", "parallel_tool_calls")}
    status, notice, text = post(server, sent)
    assert status == 200, text
    assert text == post(server, plain)[2]
    assert text
    assert ("tools were left out" in notice) == ("tools" in sent)
