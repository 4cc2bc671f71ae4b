"""Dialogues on which programs that render chat templates are compared: what everybody asks, and where they part."""

from typing import Any

from vicuna.certificate.engines import Dialogue

_QUESTION = {"role": "user", "content": "1 < 2？\n为什么？"}
_ANSWERED = [_QUESTION, {"role": "assistant", "content": "对，因为 1 + 1 = 2。"}]
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "今天的天气",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "城市"}, "days": {"type": "number"}},
                "required": ["city"],
            },
        },
    }
]


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def _called(arguments: dict[str, Any], content: str | None) -> list[dict[str, Any]]:
    """A question that is answered by way of a function."""
    call = {"id": "call00001", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    return [
        _user("北京天气？"),
        {"role": "assistant", "content": content, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call00001", "name": "weather", "content": '{"sun": true}'},
    ]


PLAIN = (
    Dialogue("a question", [_QUESTION]),
    Dialogue("several turns", [*_ANSWERED, _user("Why?"), {"role": "assistant", "content": "So."}, _user("再说")]),
    Dialogue("a system message", [_system("回答要简短。"), _QUESTION]),
    Dialogue("a system message and turns", [_system("Be brief."), *_ANSWERED, _user("🦙 é e\u0301 𠮷")]),
    Dialogue("code", [_user("def f(x):\n    return {'a': [x]}\n\n\n# `{{ x }}` & \"<b>\"\t\\n")]),
)
EDGES = (
    Dialogue("a full-width indent", [_user("\u3000\u3000春天来了。\u3000")], plain=False),
    Dialogue("no-break spaces", [_user("\u00a0春天来了。\u00a0")], plain=False),
    Dialogue("an empty system message", [_system(""), _QUESTION], plain=False),
    Dialogue(
        "a thought",
        [_QUESTION, {"role": "assistant", "reasoning_content": "1 小。", "content": "对。"}, _user("再说")],
        plain=False,
    ),
    Dialogue(
        "a thought within the answer",
        [_QUESTION, {"role": "assistant", "content": "<think>\n1 小。\n</think>\n\n对。"}, _user("再说")],
        plain=False,
    ),
    Dialogue("functions", [_QUESTION], _TOOLS, plain=False),
    Dialogue("numbers in a call", _called({"days": 1.0, "least": 1e-07}, ""), _TOOLS, plain=False),
    Dialogue("a number over 64 bits in a call", _called({"days": 2**64}, ""), _TOOLS, plain=False),
    Dialogue("a call without content", _called({"city": "北京"}, None), _TOOLS, plain=False),
)


def dialogues_for(template: str) -> list[Dialogue]:
    """Those with functions only where the template knows functions."""
    return [one for one in (*PLAIN, *EDGES) if not one.tools or "tools" in template]
