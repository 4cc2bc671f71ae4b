"""One reader for each format of rows: a parsed row -> its messages, unchecked as to their order."""

import re
from collections.abc import Callable
from typing import Any

from vicuna.data.bad_row import BadRow
from vicuna.data.calls import joined, read_calls, read_reasoning, read_tool_message, read_tools, speaks_as_tool
from vicuna.data.marks import check_message, check_reasoning, is_learnt
from vicuna.data.values import blank, items, kind, message, parts, system, text
from vicuna.prompt.templates import Message

# Speakers by the names that the formats `conversations` and `messages` give them.
SPEAKERS = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bard", "bing", "bot", "model"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
FROM_VALUE, ROLE_CONTENT = ("from", "value"), ("role", "content")
_MOSS_BEGIN, _MOSS_END = re.compile(r"\s*<\|[\w ]+\|>:\s*"), re.compile(r"<eo\w>")
# What question and answer of a turn are called; `system` may stand beside them.
TURNS = (("human", "assistant"), ("user", "assistant"), ("input", "output"), ("query", "response"))


def read_instruction(row: dict, question: str = "instruction", answer: str = "output") -> list[Message]:
    """One question, with an input where it is an instruction, behind the turns of `history`."""
    if question == "instruction" and isinstance(row[question], list) and isinstance(row[answer], list):
        return read_parallel(row, question, answer)
    earlier = []
    for i, turn in enumerate(items(row, "history") if row.get("history") else []):
        earlier += _pair(turn, f"history[{i}]")
    asked: Message = {"role": "user", "content": text(row[question], question)}
    if question == "instruction" and not blank(row.get("input")):
        asked["input"] = text(row["input"], "input")
    if isinstance(row[answer], list) and not isinstance(row[question], list) and len(row[answer]) > 1:
        raise BadRow(
            f"field {answer} is a list of {len(row[answer])}, as preference sets have; expected one text",
            f"{answer} is not text",
        )
    return [*system(row), *earlier, asked, {"role": "assistant", "content": text(row[answer], answer)}]


def read_completion(row: dict, own: bool = False) -> list[Message]:
    """`prompt` and `completion`, both texts or both lists of messages."""
    if isinstance(row["prompt"], list) and isinstance(row["completion"], list):
        return read_spoken({"messages": [*row["prompt"], *row["completion"]]}, "messages", ROLE_CONTENT, own)
    return read_instruction(row, "prompt", "completion")


def read_parallel(row: dict, question: str = "input", answer: str = "output") -> list[Message]:
    """Two lists, of questions and of answers."""
    questions, answers = items(row, question), items(row, answer)
    if len(questions) != len(answers):
        raise BadRow(
            f"has {len(questions)} texts in {question} and {len(answers)} in {answer}; expected as many answers as "
            "questions",
            f"{question} and {answer} differ in length",
        )
    return [
        *system(row),
        *(
            message(role, value, f"{name}[{i}]")
            for i, pair in enumerate(zip(questions, answers, strict=True))
            for role, name, value in zip(("user", "assistant"), (question, answer), pair, strict=True)
        ),
    ]


def spoken(field: str, first: tuple[str, str], own: bool = False) -> Callable[[dict], list[Message]]:
    """Reader of a list of objects that each hold a speaker and what was said, `first` being what they mostly are."""
    return lambda row: read_spoken(row, field, first, own)


def read_spoken(row: dict, field: str, first: tuple[str, str], own: bool = False) -> list[Message]:
    """The messages of a list of objects that each hold a speaker and what was said.

    Args:
        own: they are for the base's own chat template, which may have a place for thinking and for tools.
    """
    names = (first, ROLE_CONTENT if first == FROM_VALUE else FROM_VALUE)
    masked = row.get("mask")
    if isinstance(masked, str) and SPEAKERS.get(masked.strip().lower()) == "assistant":
        raise BadRow(f"has mask {masked!r}, by which no answer is learnt", "no answer is to be learnt")
    messages, tools = system(row), []
    for i, item in enumerate(items(row, field)):
        name = f"{field}[{i}]"
        if own and isinstance(item, dict):
            tools = tools or read_tools(item)
            item = {"content": None, **item} if "role" in item and read_calls(item, name) else item
        keys = next((keys for keys in names if isinstance(item, dict) and set(keys) <= item.keys()), None)
        if keys is None:
            if isinstance(item, dict):
                check_message(item, name, str(item.get("role", item.get("from", ""))), own)
            found = ", ".join(map(repr, item)) if isinstance(item, dict) else f"a {kind(item)}"
            expected = ", or ".join(" and ".join(keys) for keys in names)
            raise BadRow(f"field {name} has {found or 'nothing'}; expected {expected}", "no speaker")
        one = _spoken(item, keys, name, own)
        if one is None or (own and joined(messages, one)):
            continue
        messages.append(one)
        if one["role"] == "assistant":
            _mark(one, item, name, own)
    if tools and messages:
        messages[0]["tools"] = tools
    return messages


def _spoken(item: dict, keys: tuple[str, str], name: str, own: bool) -> Message | None:
    """One message; None for a system message that says nothing."""
    speaker, said = item[keys[0]], f"{name}.{keys[1]}"
    if own and speaks_as_tool(speaker):
        return read_tool_message(item, speaker, keys[1], name)
    content = parts(item[keys[1]], said)
    check_message(item, name, str(speaker), own)
    role = SPEAKERS.get(str(speaker).strip().lower())
    if role is None:
        known = ", ".join(SPEAKERS)
        raise BadRow(f"field {name}.{keys[0]} is {speaker!r}; expected {known}", "unknown speaker")
    if role == "system" and blank(content):
        return None
    calls = read_calls(item, name) if own and role == "assistant" else []
    if calls:
        return {"role": role, "content": "" if blank(content) else text(content, said).strip(), "tool_calls": calls}
    return message(role, content, said)


def _mark(answer: Message, item: dict, name: str, own: bool) -> None:
    """Say of an answer whether it is learnt, and what was thought before it."""
    if not is_learnt(item, name):
        answer["learnt"] = False
    elif not own:
        check_reasoning(item, name)
    if own and (thought := read_reasoning(item, name)):
        answer["reasoning_content"] = thought


def read_conversation(row: dict, own: bool = False) -> list[Message]:
    """A list of turns, or of messages."""
    turns = items(row, "conversation")
    if (
        turns
        and isinstance(turns[0], dict)
        and any(set(keys) <= turns[0].keys() for keys in (FROM_VALUE, ROLE_CONTENT))
    ):
        return read_spoken(row, "conversation", ROLE_CONTENT, own)
    messages = system(row)
    for i, turn in enumerate(turns):
        name = f"conversation[{i}]"
        keys = next((keys for keys in TURNS if isinstance(turn, dict) and set(keys) <= turn.keys()), None)
        if keys is None:
            raise BadRow(f"field {name} is {str(turn)[:40]!r}; expected human and assistant", "fields missing")
        messages += system(turn) if i == 0 and not messages else []
        for role, key in zip(("user", "assistant"), keys, strict=True):
            messages.append(message(role, turn[key], f"{name}.{key}"))
    return messages


def read_moss(row: dict) -> list[Message]:
    """The turns of a dialogue of MOSS, numbered from 1."""
    turns, messages = row["chat"], system(row, "meta_instruction")
    for number in range(1, len(turns) + 1):
        name = f"turn_{number}"
        turn = turns.get(name)
        if not isinstance(turn, dict) or not {"Human", "MOSS"} <= turn.keys():
            raise BadRow(
                f"field chat.{name} lacks Human or MOSS; expected turns numbered from turn_1", "fields missing"
            )
        command = _unmarked(turn.get("Commands") or "None", f"chat.{name}.Commands")
        if command != "None":
            raise BadRow(f"field chat.{name}.Commands calls a tool: {command[:40]!r}; expected None", "calls a tool")
        for role, key in (("user", "Human"), ("assistant", "MOSS")):
            messages.append(message(role, _unmarked(turn[key], f"chat.{name}.{key}"), f"chat.{name}.{key}"))
    return messages


def _unmarked(value: Any, name: str) -> str:
    """A text of MOSS without `<|Human|>:` in front of it and `<eoh>` behind."""
    said = text(value, name)
    if begin := _MOSS_BEGIN.match(said):
        said = said[begin.end() :]
    shown = said.rstrip()
    return shown[:-5].rstrip() if _MOSS_END.fullmatch(shown[-5:]) else said


def read_text(row: dict) -> list[Message]:
    """A document, which is learnt as it is."""
    return [{"role": "assistant", "content": text(row["text"], "text")}]


def read_list(row: list, own: bool = False) -> list[Message]:
    """[question, answer], a list of them, or of messages."""
    if row and all(isinstance(item, str) for item in row):
        return _pair(row, "row")
    if row and all(isinstance(item, dict) for item in row):
        return read_spoken({"messages": row}, "messages", ROLE_CONTENT, own)
    return [one for i, turn in enumerate(row) for one in _pair(turn, f"row[{i}]")]


def _pair(turn: Any, name: str) -> list[Message]:
    if not (isinstance(turn, list | tuple) and len(turn) == 2):
        what = "history is not of pairs" if name.startswith("history") else "not of pairs"
        raise BadRow(f"field {name} is {str(turn)[:40]!r}; expected [question, answer]", what)
    return [message("user", turn[0], f"{name}[0]"), message("assistant", turn[1], f"{name}[1]")]
