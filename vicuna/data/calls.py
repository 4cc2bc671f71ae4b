"""Thinking before an answer, and functions that are called, in the rows of a dialogue for the base's own chat template.

Read are OpenAI's form (tool_calls, messages of the role tool, tools; the older function_call and functions too) and
ShareGPT's as LLaMA-Factory and ms-swift have it (speakers function_call and observation, tools as a JSON text). They
become OpenAI's form, in which chat templates are written.
"""

import json
from collections.abc import Sequence
from typing import Any

from vicuna.data.bad_row import BadRow
from vicuna.data.marks import REASONING, TOOL_SPEAKERS, TOOLS, holds_nothing
from vicuna.data.nesting import loads
from vicuna.data.values import kind, parts, text
from vicuna.prompt.own_template import split_thought
from vicuna.prompt.templates import Message, split_system

CALLERS = (
    "function_call",
    "function-call",
    "tool_call",
)  # speakers whose texts are calls; the other tools' are answers
_OPENED, _CLOSED = "<tool_response>", "</tool_response>"


def read_tools(row: dict) -> list[dict[str, Any]]:
    """The functions that a row, or a message, says there are, in OpenAI's form.

    Raises:
        BadRow: a list of something else.
    """
    for name in TOOLS:
        if not holds_nothing(row.get(name)):
            found = _json(row[name], name)
            return [_tool(one, f"{name}[{i}]") for i, one in enumerate(found if isinstance(found, list) else [found])]
    return []


def _tool(one: Any, name: str) -> dict[str, Any]:
    function = one.get("function", one) if isinstance(one, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"].strip():
        raise BadRow(f"field {name} is {str(one)[:40]!r}; expected a function with a name", "not a function")
    _check_characters(one, name)
    return one if "function" in one else {"type": "function", "function": one}


def speaks_as_tool(speaker: Any) -> bool:
    """Whether a message is a call, or what a function said, by who speaks."""
    return str(speaker).strip().lower() in TOOL_SPEAKERS


def read_tool_message(item: dict, speaker: Any, said: str, name: str) -> Message:
    """A message of a tool's speaker: a call is the assistant's, what a function answers is of the role tool.

    Args:
        said: the key of its text.
    """
    if str(speaker).strip().lower() in CALLERS:
        return {"role": "assistant", "content": "", "tool_calls": _calls(_json(item[said], f"{name}.{said}"), name)}
    content = parts(item[said], f"{name}.{said}")
    if not isinstance(content, str):
        content = "" if content is None else json.dumps(content, ensure_ascii=False)
    content = text(content, f"{name}.{said}") if content.strip() else content
    inside = content.strip().removeprefix(_OPENED).removesuffix(_CLOSED).strip()
    is_wrapped = content.strip().startswith(_OPENED) and content.strip().endswith(_CLOSED)
    if is_wrapped and _OPENED not in inside:
        content = inside  # which the template puts around it
    answer: Message = {"role": "tool", "content": content}
    for key in ("tool_call_id", "name"):
        if isinstance(item.get(key), str) and item[key].strip():
            answer[key] = item[key]
    _check_characters(answer, name)
    return answer


def read_calls(item: dict, name: str) -> list[dict[str, Any]]:
    """The calls that an answer makes, beside its content."""
    if not holds_nothing(item.get("tool_calls")):
        return _calls(_json(item["tool_calls"], f"{name}.tool_calls"), f"{name}.tool_calls")
    if not holds_nothing(item.get("function_call")):
        return _calls(_json(item["function_call"], f"{name}.function_call"), f"{name}.function_call")
    return []


def _calls(found: Any, name: str) -> list[dict[str, Any]]:
    given = found if isinstance(found, list) else [found]
    return [_call(one, f"{name}[{i}]" if isinstance(found, list) else name) for i, one in enumerate(given)]


def _call(one: Any, name: str) -> dict[str, Any]:
    function = one.get("function", one) if isinstance(one, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"].strip():
        raise BadRow(f"field {name} is {str(one)[:40]!r}; expected a call with name and arguments", "not a call")
    arguments = function.get("arguments", function.get("parameters"))
    arguments = "{}" if holds_nothing(arguments) else arguments
    # A text stays as it is, for templates that write it so: 1.0 and 1e-07 are other tokens once they were numbers.
    if not isinstance(_json(arguments, f"{name}.arguments"), dict):
        raise BadRow(f"field {name}.arguments is a {kind(arguments)}; expected an object", "arguments are no object")
    call = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    call = {"id": one["id"], **call} if isinstance(one.get("id"), str) else call
    _check_characters(call, name)
    return call


def _check_characters(value: Any, name: str) -> None:
    """Refuse half a character anywhere in what is going to be JSON within a text."""
    text(json.dumps(value, ensure_ascii=False), name)


def _json(value: Any, name: str) -> Any:
    """What a field holds, also where its JSON is written as text."""
    if not isinstance(value, str):
        return value
    try:
        return loads(text(value, name))
    except ValueError as error:
        raise BadRow(f"field {name} is not JSON: {value[:40]!r}", "calls that are not JSON") from error


def read_reasoning(item: dict, name: str) -> str:
    """The thinking that stands beside an answer, "" for none."""
    for field in REASONING:
        if not holds_nothing(item.get(field)):
            return text(item[field], f"{name}.{field}" if name else field).strip()
    return ""


def with_thoughts_apart(messages: Sequence[Message]) -> None:
    """Put the thinking of each answer, a block <think> at its beginning, beside its content.

    Raises:
        BadRow: it stands in both places, and not the same, or nothing is answered behind it.
    """
    for i, one in enumerate(messages):
        if one["role"] != "assistant":
            continue
        beside = one.pop("reasoning_content", "")
        content, thought = split_thought(one)
        if beside and thought and beside != thought:
            raise BadRow(
                f"has thinking of message {i + 1} both beside the answer and in it as <think>…</think>; keep one",
                "thinking twice",
            )
        one["content"] = content
        if not content.strip() and not one.get("tool_calls"):
            raise BadRow(f"answers nothing behind the thinking of message {i + 1}", "no answer behind the thinking")
        if thought or beside:
            one["reasoning_content"] = thought or beside


def with_row_facts(row: Any, messages: list[Message]) -> None:
    """Put what a row says beside its dialogue into it: the functions there are, and the thinking before the answer."""
    if not isinstance(row, dict) or not messages:
        return
    if tools := read_tools(row):
        messages[0]["tools"] = tools
    thought = read_reasoning({REASONING[0]: row.get(REASONING[0])}, "")
    if thought and messages[-1]["role"] == "assistant":
        messages[-1].setdefault("reasoning_content", thought)


def joined(messages: list[Message], further: Message) -> bool:
    """Add calls to an answer that is followed by them: several of them, or a text before, are one message."""
    last = messages[-1] if messages else None
    if not (last and last["role"] == "assistant" and further["role"] == "assistant" and further.get("tool_calls")):
        return False
    last.setdefault("tool_calls", []).extend(further["tool_calls"])
    return True


def check_calls(messages: Sequence[Message]) -> Sequence[Message]:
    """The messages behind the system's: questions and answers in turn, behind calls what the functions said.

    Raises:
        BadRow: they do not come so, or there are none.
    """
    _, others = split_system(messages)
    if not others:
        raise BadRow("has no messages; expected at least a question and its answer", "no messages")
    turn, before = 0, None
    for one in others:
        if before is None or (before["role"] == "assistant" and not before.get("tool_calls")):
            expected = ("user",)
        elif before["role"] == "assistant":
            expected = ("tool",)
        else:
            expected = ("assistant", "tool") if before["role"] == "tool" else ("assistant",)
        turn += one["role"] == "user"
        if one["role"] not in expected:
            raise BadRow(
                f"has a message of the {one['role']} in turn {max(turn, 1)}; expected one of the "
                f"{' or the '.join(expected)}",
                "messages do not alternate",
            )
        before = one
    return others
