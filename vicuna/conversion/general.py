"""General sets: dialogues as they were exported, dialogues within one text, seed tasks, pairs of sentences."""

from typing import Any

from vicuna.conversion import speakers
from vicuna.conversion.found import Dialogues, Options
from vicuna.conversion.html_text import is_html, to_markdown
from vicuna.data.bad_row import BadRow
from vicuna.data.formats import to_messages
from vicuna.data.readers import SPEAKERS
from vicuna.data.values import blank, items, kind, message, text
from vicuna.prompt.templates import Message

TRANSLATE = {"zh-en": "把下面的句子翻译成英文。", "en-zh": "把下面的句子翻译成中文。"}


def read_known(row: Any, options: Options) -> Dialogues:
    """A row of any format that `finetune.py` reads."""
    yield to_messages(row, "chat"), ()


def read_sharegpt(row: Any, options: Options) -> Dialogues:
    """A dialogue as it was exported: HTML becomes Markdown, and it begins with a question and ends with an answer."""
    if isinstance(row, dict) and "items" in row:
        row = {**{name: value for name, value in row.items() if name != "items"}, "conversations": row["items"]}
    if not isinstance(row, dict) or not isinstance(row.get("conversations"), list):
        yield from read_known(row, options)
        return
    said, notes = [dict(one) if isinstance(one, dict) else one for one in row["conversations"]], []
    for one in said:
        if _speaker(one) == "assistant" and isinstance(one.get("value"), str) and is_html(one["value"]):
            one["value"] = to_markdown(one["value"])
            notes.append("HTML made Markdown")
    first = next((i for i, one in enumerate(said) if _speaker(one) != "system"), 0)
    # A part of a longer dialogue may begin with the rest of an answer.
    while first < len(said) and _speaker(said[first]) == "assistant":
        del said[first]
        notes.append("an answer without a question at the beginning left out")
    while said and _speaker(said[-1]) == "user":
        said.pop()
        notes.append("a question without an answer at the end left out")
    yield to_messages({**row, "conversations": said}, "chat"), tuple(dict.fromkeys(notes))


def _speaker(one: Any) -> str:
    name = one.get("from", one.get("role", "")) if isinstance(one, dict) else ""
    return SPEAKERS.get(str(name).strip().lower(), "")


def read_belle(row: Any, options: Options) -> Dialogues:
    """An instruction, a dialogue within one, or a seed task with its instances."""
    if isinstance(row, dict) and "instances" in row:
        for i, one in enumerate(items(row, "instances")):
            if not isinstance(one, dict):
                raise BadRow(f"field instances[{i}] is a {kind(one)}; expected input and output", "fields missing")
            yield to_messages({"instruction": row.get("instruction"), "input": "", "output": "", **one}, "chat"), ()
        return
    yield from read_guanaco(row, options)


def read_guanaco(row: Any, options: Options) -> Dialogues:
    """An instruction, whose `instruction` or `input` may be a dialogue up to its last question."""
    texts = [row.get(name) for name in ("instruction", "input")] if isinstance(row, dict) else []
    plain = ["" if blank(one) else one for one in texts]
    if not all(isinstance(one, str) for one in plain) or not any(speakers.is_dialogue(one) for one in plain):
        yield from read_known(row, options)
        return
    # Only the answer is read as it is anywhere; it refuses what is not to be learnt.
    answer = to_messages({**row, "instruction": "?", "input": ""}, "chat")[-1]
    yield [*speakers.with_question(*plain), answer], ("turns within one text taken apart",)


def read_kdconv(row: Any, options: Options) -> Dialogues:
    """KdConv: `message` by two speakers in turn, of whom the first asks."""
    said: list[Message] = []
    if not isinstance(row, dict) or "messages" not in row:
        raise BadRow(f"is a {kind(row)} without messages; expected a dialogue of KdConv", "fields missing")
    for i, one in enumerate(items(row, "messages")):
        if not isinstance(one, dict) or "message" not in one:
            raise BadRow(f"field messages[{i}] lacks message; expected a dialogue of KdConv", "fields missing")
        said.append(message(("user", "assistant")[i % 2], one["message"], f"messages[{i}].message"))
    if len(said) < 2:
        raise BadRow("has no answer; expected two messages or more", "no answer")
    notes = ("a question without an answer at the end left out",) if len(said) % 2 else ()
    yield said[: len(said) // 2 * 2], notes


def read_translation(row: Any, options: Options) -> Dialogues:
    """A pair of sentences, once in each direction that is wanted."""
    if not isinstance(row, dict) or not {"english", "chinese"} <= row.keys():
        has = ", ".join(map(repr, row)) if isinstance(row, dict) else f"a {kind(row)}"
        raise BadRow(f"has {has}; expected english and chinese", "fields missing")
    pairs = {name: text(row[name], name).strip() for name in ("english", "chinese")}
    for direction, given, wanted in (("zh-en", "chinese", "english"), ("en-zh", "english", "chinese")):
        if options.direction in (direction, "both"):
            asked: Message = {"role": "user", "content": TRANSLATE[direction], "input": pairs[given]}
            yield [asked, message("assistant", pairs[wanted], wanted)], ()
