"""Dialogues that stand in one text, each turn behind the name of who speaks: `Human:…\\nAssistant:…`."""

import re

from vicuna.data.bad_row import BadRow
from vicuna.prompt.templates import Message

SPEAKER = re.compile(r"^[ \t]*(Human|User|Assistant|System)[ \t]*[:：]", re.MULTILINE)
ROLES = {"Human": "user", "User": "user", "Assistant": "assistant", "System": "system"}


def is_dialogue(text: str) -> bool:
    """Whether a text begins with the name of a speaker."""
    return SPEAKER.match(text.lstrip()) is not None


def turns_of(text: str) -> list[Message]:
    """Who says what, an open `Assistant:` at the end left away; of the system what stands before a user's words.

    Raises:
        BadRow: a turn without words, or two of one speaker in a row.
    """
    text = text.lstrip()
    marks = list(SPEAKER.finditer(text))
    turns: list[Message] = []
    before: list[str] = []  # what the system says, which belongs to the question behind it
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        role = ROLES[mark[1]]
        said = text[mark.end() : following.start() if following else len(text)].strip()
        if not said and role == "assistant" and following is None:
            break
        if role == "system":
            before += [said] if said else []
            continue
        if not said:
            raise BadRow(
                f"has nothing behind {mark[1]}: in turn {len(turns) // 2 + 1} of the dialogue", "a turn is empty"
            )
        if role != ("user", "assistant")[len(turns) % 2]:
            raise BadRow(
                f"has a turn of the {role} in place {len(turns) + 1} of the dialogue within its text",
                "turns within the text do not alternate",
            )
        turns.append({"role": role, "content": "\n".join([*before, said])})
        before = []
    if before:
        raise BadRow("ends with words of the system in the dialogue within its text", "a dialogue without a question")
    return turns


def with_question(instruction: str, given: str) -> list[Message]:
    """The messages up to the question of a row whose `instruction` or `input` hold earlier turns.

    A plain text beside a dialogue is the question where the dialogue ends with an answer, and stands in front of what
    the user says first or last otherwise.

    Raises:
        BadRow: turns that do not alternate.
    """
    if is_dialogue(instruction) and is_dialogue(given):
        turns = turns_of(f"{_closed(instruction)}\n{given}")
    elif is_dialogue(instruction):
        turns = turns_of(instruction)
        if given.strip():
            _add_question(turns, given.strip(), -1)
    else:
        turns = turns_of(given)
        if instruction.strip():
            _add_question(turns, instruction.strip(), 0)
    if not turns or turns[-1]["role"] != "user":
        raise BadRow(
            "holds a dialogue that ends with an answer, and no question behind it", "a dialogue without a question"
        )
    return turns


def _closed(text: str) -> str:
    """A dialogue without an open `Assistant:` at its end, behind which another one goes on."""
    return re.sub(r"\n[ \t]*Assistant[ \t]*[:：]\s*\Z", "", text)


def _add_question(turns: list[Message], text: str, place: int) -> None:
    if not turns or turns[-1]["role"] == "assistant":
        turns.append({"role": "user", "content": text})
    elif place:
        turns[-1]["content"] += f"\n{text}"
    else:
        turns[0]["content"] = f"{text}\n{turns[0]['content']}"
