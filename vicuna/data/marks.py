"""Fields by which a row itself says that it is not to be learnt as it stands.

They are those of the formats that people have: preference sets (KTO, DPO), calls of tools, reasoning that stands apart
from the answer, pictures, and answers that are left out of the loss. Each is honoured, or refused by its name.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from vicuna.data.bad_row import BadRow
from vicuna.data.values import blank

# Two answers to one question, of which only the first is good.
PREFERENCES = (
    ("chosen", "rejected"),
    ("chosen_response", "rejected_response"),
    ("preferred_output", "non_preferred_output"),
)
BAD_EXAMPLE = ("label", "kto_tag")  # where false: TRL and LLaMA-Factory
TOOLS = ("tools", "functions")
CALLS = ("tool_calls", "function_call", *TOOLS)
TOOL_SPEAKERS = (
    *("tool", "function", "observation", "ipython", "function_call", "function-call", "function_response"),
    *("tool_call", "tool_response", "tool_result"),
)
REASONING = ("reasoning_content", "reasoning", "thinking")
MEDIA = ("image", "images", "video", "videos", "audio", "audios")
MEDIA_PLACES = ("<image>", "<video>", "<audio>")
TRAINED = ("loss", "train", "training")  # true or false: Swift, XTuner, axolotl
TRAINED_PARTS = ("train_detail", "training_detail")
# What says how answers are learnt, and nothing of what is asked.
OF_LEARNING = {*BAD_EXAMPLE, *chain(*PREFERENCES), *REASONING, *TRAINED, *TRAINED_PARTS, "weight", "mask"}


def check_row(row: dict, chosen: bool = False, own: bool = False) -> None:
    """Refuse a row that is a bad example, a pair of which one is, or lacks what its dialogue is about.

    Args:
        chosen: of a pair the user has said which one to learn.
        own: it is for the base's own chat template, which may have a place for thinking and for tools.

    Raises:
        BadRow: which field says so.
    """
    for name in BAD_EXAMPLE:
        if row.get(name) is False:
            raise BadRow(
                f"has {name} false, which marks its answer as a bad one; leave the row out, or drop the field if it "
                "means something else",
                f"{name} false",
            )
    for good, bad in PREFERENCES:
        if not chosen and good in row and bad in row and not _learns_only(row, row[good]):
            raise BadRow(
                f"has {good} and {bad}, as preference sets have, of which nothing is learnt here; to learn the "
                f"{good} ones: --fields instruction=… output={good}, or messages={good} where it holds messages",
                "a preference set",
            )
    for name in () if own else TOOLS:
        if not holds_nothing(row.get(name)):
            raise BadRow(f"has {name}, for which no prompt type has a place; remove such rows", "tools")
    if any(not holds_nothing(row.get(name)) for name in MEDIA) and any(
        place in text for text in _texts(row) for place in MEDIA_PLACES
    ):
        raise BadRow("is about a picture, a video or a sound; expected text alone", "not text alone")
    if not own and not holds_nothing(row.get(REASONING[0])):
        raise BadRow(_reasoning(REASONING[0]), "reasoning apart from the answer")


def unmarked(row: Any, own: bool = False) -> Any:
    """A row, or its messages, without what says how answers are learnt, for who only asks what it asks.

    Args:
        own: it is for the base's own chat template, which may show the thinking of earlier answers.
    """
    left_away = OF_LEARNING - set(REASONING) if own else OF_LEARNING
    if isinstance(row, list):
        return [_without(item, left_away) for item in row]
    if not isinstance(row, dict):
        return row
    return {
        name: [_without(item, left_away) for item in value] if isinstance(value, list) else value
        for name, value in _without(row, left_away).items()
    }


def _without(item: Any, names: set[str]) -> Any:
    if not isinstance(item, dict):
        return item
    return {name: value for name, value in item.items() if name not in names}


def check_message(item: dict, name: str, speaker: str, own: bool = False) -> None:
    """Refuse a message of a tool, or that calls or declares one, or declines to answer.

    Args:
        own: as in `check_row`; messages of tools are then none to refuse.

    Raises:
        BadRow: which field says so.
    """
    if not own and speaker.strip().lower() in TOOL_SPEAKERS:
        raise BadRow(f"field {name} is of the speaker {speaker!r}, a tool's; expected a dialogue without", "tools")
    for field in () if own else CALLS:
        if not holds_nothing(item.get(field)):
            raise BadRow(f"field {name}.{field} is of tools, which are not learnt; remove such rows", "tools")
    if not holds_nothing(item.get("refusal")):
        raise BadRow(f"field {name}.refusal stands apart from the content; put it there", "a refusal apart")
    for field in TRAINED_PARTS:
        if not holds_nothing(item.get(field)):
            raise BadRow(
                f"field {name}.{field} says which parts are learnt; only whole answers can be", "parts of answers"
            )


def check_reasoning(item: dict, name: str) -> None:
    """Refuse an answer to learn whose reasoning would be lost.

    Raises:
        BadRow: in which field it stands.
    """
    for field in REASONING:
        if not holds_nothing(item.get(field)):
            raise BadRow(_reasoning(f"{name}.{field}"), "reasoning apart from the answer")


def is_learnt(item: dict, name: str) -> bool:
    """Whether an answer counts, by OpenAI's and Mistral's `weight` and by what others call it.

    Raises:
        BadRow: a weight between.
    """
    weight = item.get("weight")
    if weight is not None and weight not in (0, 1):
        raise BadRow(f"field {name}.weight is {weight!r}; expected 0 or 1", "weight is not 0 or 1")
    return weight != 0 and all(item.get(field) is not False for field in TRAINED)


def _reasoning(name: str) -> str:
    return (
        f"field {name} stands apart from the answer and would not be learnt; put it into the answer as "
        "<think>…</think>, or remove it"
    )


def holds_nothing(value: Any) -> bool:
    """Whether a field is empty, also where its JSON is written as text."""
    return blank(value) or value in ([], {}, "[]", "{}", "null", False)


def _learns_only(row: dict, good: Any) -> bool:
    """Whether the row's own answer is the good one of the pair, as in sets for both kinds of training."""
    while isinstance(good, list | dict) and good:
        good = good[-1] if isinstance(good, list) else good.get("content", good.get("value"))
    own = row.get("messages") or row.get("conversations") or row.get("output")
    while isinstance(own, list | dict) and own:
        own = own[-1] if isinstance(own, list) else own.get("content", own.get("value"))
    return isinstance(good, str) and isinstance(own, str) and own.strip() == good.strip()


def _texts(value: Any) -> Iterator[str]:
    """Every text within a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)
