"""The messages of a chat request, as the prompt type that is asked can take them."""

from typing import Any

from vicuna.api.calls import read_calls
from vicuna.api.error_body import APIError
from vicuna.api.fields import check_type
from vicuna.prompt.own_template import ChatTemplate
from vicuna.prompt.templates import Message
from vicuna.prompt.traits import takes_system

MAX_MESSAGES = 1000
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def read_messages(
    given: list, prompt_type: str, chat: ChatTemplate | None, system: str
) -> tuple[list[Message], str, list[str]]:
    """The conversation up to the last question; the beginning of its answer, "" for none; and what was done to it.

    Clients send what OpenAI's models take: a system message always, questions behind one another, an answer to go on
    with at the end. A system message for a template without a place for one becomes a line of the next question, and
    questions behind one another become one, a line each. Of the base's own template, which says itself what it
    takes, only the first is done.

    Args:
        chat: the base's own template, None of other prompt types.
        system: fold or refuse, what is done with a system message without a place.

    Raises:
        APIError: what is wrong with it.
    """
    if not 0 < len(given) <= MAX_MESSAGES:
        raise APIError(400, f"messages has {len(given)} items, expected 1 to {MAX_MESSAGES}.", "messages")
    messages = [_message(one, f"messages[{i}]", chat) for i, one in enumerate(given)]
    notices = []
    if system == "fold" and not takes_system(prompt_type, chat):
        messages, folded = _fold(messages)
        if folded:
            notices.append(f"the template has no place for a system message: {folded} became lines of the question")
    if chat is None:
        messages, joined = _join(messages)
        if joined:
            notices.append(f"{joined} user messages that follow another were joined with it")
    begun = ""
    if len(messages) > 1 and messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls"):
        *messages, last = messages
        begun = last["content"]
        notices.append("the answer goes on with the last message")
    return messages, begun, notices


def _fold(messages: list[Message]) -> tuple[list[Message], int]:
    """System messages as lines of the questions behind them, and how many there were."""
    kept: list[Message] = []
    waiting: list[str] = []
    folded = 0
    for message in messages:
        if message["role"] == "system":
            waiting.append(message["content"])
            folded += 1
        elif message["role"] == "user" and waiting:
            kept.append({**message, "content": "\n".join([*waiting, message["content"]])})
            waiting = []
        else:
            kept.append(message)
    if waiting:  # behind the last question
        at = max((at for at, message in enumerate(kept) if message["role"] == "user"), default=None)
        if at is None:
            kept.append({"role": "user", "content": "\n".join(waiting)})
        else:
            kept[at] = {**kept[at], "content": "\n".join([kept[at]["content"], *waiting])}
    return kept, folded


def _join(messages: list[Message]) -> tuple[list[Message], int]:
    """Questions that follow one another as one, and how many were put to another."""
    kept: list[Message] = []
    for message in messages:
        if kept and message["role"] == kept[-1]["role"] == "user":
            kept[-1] = {**kept[-1], "content": f"{kept[-1]['content']}\n{message['content']}"}
        else:
            kept.append(message)
    return kept, len(messages) - len(kept)


def _message(given: Any, where: str, chat: ChatTemplate | None) -> Message:
    """A message; of functions too, where the base's own template `chat` knows them, and with its thinking."""
    check_type(given, where, "an object")
    role, with_tools = given.get("role"), chat is not None and chat.knows_tools
    roles = {**ROLES, "tool": "tool"} if with_tools else ROLES
    if not isinstance(role, str) or role not in roles:
        raise APIError(400, f"{where}.role is {str(role)[:80]!r}, expected one of {', '.join(roles)}.", f"{where}.role")
    for name in ("tool_calls", "function_call"):
        if given.get(name) and not (with_tools and role == "assistant" and name == "tool_calls"):
            raise APIError(400, f"{where}.{name} is not supported here.", f"{where}.{name}")
    calls = read_calls(given["tool_calls"], f"{where}.tool_calls") if given.get("tool_calls") else []
    content = given.get("content")
    message: Message = {
        "role": roles[role],
        "content": "" if calls and content is None else _content(content, f"{where}.content"),
    }
    if calls:
        message["tool_calls"] = calls
    names = {"tool": ("tool_call_id", "name"), "assistant": ("reasoning_content",)}.get(role, ()) if chat else ()
    for name in names:
        if given.get(name):
            message[name] = check_type(given[name], f"{where}.{name}", "text")
    return message


def _content(given: Any, where: str) -> str:
    """The text of a message: a text, or a list of parts, which are put below each other."""
    if isinstance(given, str):
        return check_type(given, where, "text")
    texts = []
    for i, part in enumerate(check_type(given, where, "text or a list")):
        check_type(part, f"{where}[{i}]", "an object")
        if part.get("type") != "text":
            raise APIError(400, f"{where}[{i}].type is {str(part.get('type'))[:80]!r}, expected text.", where)
        texts.append(check_type(part.get("text"), f"{where}[{i}].text", "text"))
    return "\n".join(texts)
