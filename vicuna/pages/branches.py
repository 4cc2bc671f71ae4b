"""The ways that a conversation went: what an edited question, another answer or a deletion put aside is kept.

A way is the rest of a conversation from a turn on. The one that is shown is part of the messages, others are kept in
the question that replaced them (`others`, with the shown one's `place` among them), or, where nothing stands in their
place yet, in the answer that they follow (`after`). A way holds its own ways alike.
"""

from collections.abc import Sequence

from vicuna.pages.conversation import Kept, StoredMessage, Way, before_turn, count_turns
from vicuna.prompt.templates import split_system


def ways_at(kept: Kept, turn: int) -> tuple[list[Way], int]:
    """All ways from a turn on, in the order in which they were gone; and the place of the one that is shown, or -1."""
    _, others = split_system(kept.messages)
    if not (shown := others[2 * turn :]):
        return list(others[-1].get("after", []) if others else kept.aside), -1
    first = {**shown[0]}
    ways, place = list(first.pop("others", [])), first.pop("place", 0)
    place = min(place, len(ways))
    return [*ways[:place], [first, *shown[1:]], *ways[place:]], place


def go(kept: Kept, turn: int, ways: Sequence[Way], place: int) -> Kept:
    """The conversation that goes on with one of the ways from a turn on, and keeps the others."""
    before = before_turn(kept.messages, turn)
    if not turn:
        kept = kept._replace(aside=[])
    elif before and "after" in before[-1]:
        before[-1] = {name: value for name, value in before[-1].items() if name != "after"}
    first, *rest = ways[place]
    others = [*ways[:place], *ways[place + 1 :]]
    if others:
        first = {**first, "others": others, **({"place": place} if place else {})}
    return kept._replace(messages=[*before, first, *rest])


def add(kept: Kept, turn: int, asked: StoredMessage, answer: StoredMessage) -> Kept:
    """The conversation with another question and answer in a turn's place; the same ones again are no other way."""
    ways, _ = ways_at(kept, turn)
    same = [i for i, way in enumerate(ways) if _texts(way) == _texts([asked, answer])]
    if same:
        place = same[0]
        old = ways[place][1]
        after = {"after": old["after"]} if "after" in old else {}
        ways[place] = [{**ways[place][0], **asked}, {**answer, **after}]
    else:
        place = len(ways)
        ways.append([asked, answer])
    return go(kept, turn, ways, place)


def step(kept: Kept, turn: int, by: int) -> Kept:
    """The conversation with the way before or behind the shown one; where none is shown, the last."""
    ways, place = ways_at(kept, turn)
    wanted = len(ways) - 1 if place < 0 else place + by
    return go(kept, turn, ways, wanted) if 0 <= wanted < len(ways) else kept


def cut(kept: Kept, turn: int) -> Kept:
    """The conversation up to a turn; what follows is put aside."""
    ways, _ = ways_at(kept, turn)
    before = before_turn(kept.messages, turn)
    if not turn:
        return kept._replace(messages=before, aside=ways)
    before[-1] = {**before[-1], "after": ways}
    return kept._replace(messages=before)


def put_aside(kept: Kept) -> int:
    """How many ways would go on from the end of a conversation."""
    return len(ways_at(kept, count_turns(kept.messages))[0])


def _texts(way: Way) -> list[str]:
    return [message["content"] for message in way]
