"""Functions that a model may call, and thinking, in requests and answers of the chat route.

Both are the base's own chat template's: where it knows functions they are shown to the model by it, and a call that the
model writes is told as one. What is not understood as a call stays the text that it is.
"""

import json
import uuid
from dataclasses import dataclass
from typing import Any

from vicuna.answer.stream import Update
from vicuna.api.error_body import APIError
from vicuna.api.fields import RequestFields, check_type
from vicuna.prompt.own_template import ChatTemplate, split_answer

MAX_TOOLS = 128  # functions of a request, and calls of a message
MAX_TOOLS_BYTES = 2**17  # of their JSON; a context holds far less
OPEN_CALL, CLOSE_CALL = "<tool_call>", "</tool_call>"
PYTHON_TAG = "<|python_tag|>"  # Llama 3.1 may put it in front of a call


# --- requests ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calling:
    """How calls of the functions in a request are told.

    Attributes:
        names: of the functions.
        in_tags: the template writes calls between <tool_call> and </tool_call>, else as JSON alone.
        most: calls of an answer that are told.
    """

    names: frozenset[str]
    in_tags: bool
    most: int = MAX_TOOLS

    def visible(self, text: str) -> str:
        """What of a growing answer is no call, and may not become the beginning of one."""
        if not self.in_tags:
            return "" if not text.strip() or text.lstrip()[0] in "{[<" else text
        cut = text.partition(OPEN_CALL)[0]
        if cut == text:
            ends = (n for n in range(len(OPEN_CALL) - 1, 0, -1) if text.endswith(OPEN_CALL[:n]))
            cut = text[: len(text) - next(ends, 0)]
        return cut.rstrip()

    def find(self, text: str) -> tuple[str, list[dict[str, Any]]]:
        """The text of a whole answer before its calls, and these; none where something is not understood."""
        before, tag, rest = text.partition(OPEN_CALL)
        if not self.in_tags:
            before, tag, rest = "", "", text.strip().removeprefix(PYTHON_TAG)
        elif not tag:
            return text, []
        found = _calls(f"{tag}{rest}", self.in_tags)
        if not found or (not self.in_tags and not {name for name, _ in found} <= self.names):
            return text, []
        return before.strip(), [
            {
                "id": f"call_{uuid.uuid4().hex[:24]}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)},
            }
            for name, arguments in found[: self.most]
        ]


def read_tools(fields: RequestFields, chat: ChatTemplate | None) -> tuple[str, Calling | None, int]:
    """The functions of a request that the model is shown, as JSON, how its calls are told, and how many are left out.

    Args:
        chat: the template that the prompt is made with, None of a prompt type of our own.

    Raises:
        APIError: what is wrong with them, or one of them has to be called.
    """
    if chat is None or not chat.knows_tools:
        return "", None, fields.leave_out_tools()
    given = fields.take("tools", "a list", [])
    left_out = fields.leave_out_tools("which can not be forced here") - len(given)
    one_call = fields.take("parallel_tool_calls", "true or false", True) is False
    choice = fields.take("tool_choice", "text or an object", "auto")
    if len(given) > MAX_TOOLS:
        raise APIError(400, f"tools has {len(given)} items, expected at most {MAX_TOOLS}.", "tools")
    tools = [_tool(one, f"tools[{i}]") for i, one in enumerate(given)]
    if isinstance(choice, dict):
        named = [one.get("function", one).get("name") for one in choice["allowed_tools"].get("tools") or []
                 if isinstance(one, dict) and isinstance(one.get("function", one), dict)]  # fmt: skip
        tools = [one for one in tools if one["function"]["name"] in named]
    if not tools or choice == "none":
        return "", None, left_out
    shown = json.dumps(tools, ensure_ascii=False)
    if (size := len(shown.encode())) > MAX_TOOLS_BYTES:
        raise APIError(400, f"tools has {size} bytes of JSON, expected at most {MAX_TOOLS_BYTES}.", "tools")
    names = frozenset(one["function"]["name"] for one in tools)
    return shown, Calling(names, chat.calls_in_tags, 1 if one_call else MAX_TOOLS), left_out


def _tool(given: Any, where: str) -> dict[str, Any]:
    """A function as templates know it, without a key that has no value."""
    check_type(given, where, "an object")
    if given.get("type", "function") != "function":
        raise APIError(400, f"{where}.type is {str(given['type'])[:80]!r}, expected function.", f"{where}.type")
    function = check_type(given.get("function"), f"{where}.function", "an object")
    _encodable(function, where)
    _name(function.get("name"), f"{where}.function.name")
    check_type(function.get("description") or "", f"{where}.function.description", "text")
    check_type(function.get("parameters") or {}, f"{where}.function.parameters", "an object")
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}


def _name(value: Any, where: str) -> str:
    if not check_type(value, where, "text").strip():
        raise APIError(400, f"{where} is empty, expected a function's name.", where)
    return value


def _encodable(value: Any, where: str) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise APIError(400, f"{where} holds half of a surrogate pair, which is no character.", where) from error


def read_thinking(fields: RequestFields, chat: ChatTemplate | None) -> dict[str, str]:
    """What a request says of thinking, as a setting of the template; nothing where it leaves that as trained.

    Raises:
        APIError: the template can not be told, or is told something else.
    """
    name = "chat_template_kwargs"
    given = fields.take(name, "an object", {})
    for other in given.keys() - {"enable_thinking"}:
        message = f"{name} holds {other[:80]!a}, and takes enable_thinking only; leave the other out."
        raise APIError(400, message, name, "unsupported_parameter")
    if (wanted := given.get("enable_thinking")) is None:
        return {}
    check_type(wanted, f"{name}.enable_thinking", "true or false")
    if chat is None or not chat.knows_thinking:
        whose = "the base's chat template does" if chat else "the prompt type of this model does"
        message = f"{name}.enable_thinking switches thinking, which {whose} not know; leave it out."
        raise APIError(400, message, f"{name}.enable_thinking", "unsupported_parameter")
    return {"thinking": "keep" if wanted else "empty"}


def read_calls(given: Any, where: str) -> list[dict[str, Any]]:
    """The calls of an answer in the history.

    Raises:
        APIError: what is wrong with them.
    """
    check_type(given, where, "a list")
    if len(given) > MAX_TOOLS:
        raise APIError(400, f"{where} has {len(given)} items, expected at most {MAX_TOOLS}.", where)
    return [_given_call(one, f"{where}[{i}]") for i, one in enumerate(given)]


def _given_call(given: Any, where: str) -> dict[str, Any]:
    function = check_type(check_type(given, where, "an object").get("function"), f"{where}.function", "an object")
    name = _name(function.get("name"), f"{where}.function.name")
    arguments = check_type(function.get("arguments") or "{}", f"{where}.function.arguments", "text")
    if not isinstance(_value(arguments), dict):
        raise APIError(400, f"{where}.function.arguments is {arguments[:80]!r}, expected the JSON of an object.", where)
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return {"id": check_type(given["id"], f"{where}.id", "text"), **call} if given.get("id") else call


# --- answers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """An answer's parts: what was thought, the text, and calls in OpenAI's form."""

    thought: str
    content: str
    calls: list[dict[str, Any]]


def tell(update: Update, prompt_end: str | None, calling: Calling | None) -> Told:
    """The parts of an answer, as far as it has grown; calls are told once it is whole."""
    split = split_answer(prompt_end, update.text, bool(update.finish))
    if calling is None:
        return Told(split.thought, split.content, [])
    if not update.finish:
        return Told(split.thought, calling.visible(split.content), [])
    return Told(split.thought, *calling.find(split.content))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _value(text: str) -> Any:
    """What a text is the JSON of; None where it is none."""
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def _calls(text: str, in_tags: bool) -> list[tuple[str, dict[str, Any]]]:
    """Name and arguments of each call in a text that holds nothing else; none where it does."""
    found, at = [], 0
    while at < len(text):
        if in_tags:
            if not text.startswith(OPEN_CALL, at):
                return []
            at = _behind_blanks(text, at + len(OPEN_CALL))
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            return []
        found += value if isinstance(value, list) else [value]
        at = _behind_blanks(text, at)
        mark = CLOSE_CALL if in_tags else ";"  # Llama 3's separates several
        at = _behind_blanks(text, at + len(mark) if text.startswith(mark, at) else at)
    calls = [_named(one) for one in found]
    return [] if None in calls else calls


def _behind_blanks(text: str, at: int) -> int:
    return len(text) - len(text[at:].lstrip())


def _named(one: Any) -> tuple[str, dict[str, Any]] | None:
    if not isinstance(one, dict) or not isinstance(one.get("name"), str) or not one["name"]:
        return None
    arguments = one.get("arguments", one.get("parameters", {}))
    arguments = _value(arguments) if isinstance(arguments, str) else arguments
    return (one["name"], arguments) if isinstance(arguments, dict) else None
