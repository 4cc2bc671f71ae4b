"""Conversations outside the model: what is let in, and what the browser keeps."""

import json

import pytest

from vicuna.errors import UserError
from vicuna.pages import conversation, saved_chats

TALK = [
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "你好！<b>&amp;\n```py\na<b\n```"},
    {"role": "user", "content": "继续"},
    {"role": "assistant", "content": ""},
]


def test_what_is_kept_comes_back_as_it_was():
    noted = [*TALK[:3], {**TALK[3], "note": "A · 3 tokens", "draw": 2}]
    way = [dict(TALK[0]), {**TALK[1], "after": [TALK[2:]]}]
    noted[0] = {**noted[0], "others": [way, TALK], "place": 1}
    text = conversation.serialize(noted, "草稿", aside=[way])
    assert conversation.deserialize(text) == (noted, "草稿", [way])
    assert conversation.serialize([]) == ""
    assert conversation.deserialize("") == conversation.deserialize(None) == ([], "", [])


def test_only_known_fields_are_let_in():
    extra = [{**TALK[0], "path": "/etc/passwd", "metadata": {"title": "x"}}, {**TALK[1], "note": "n" * 999, "html": 1}]
    user, assistant = conversation.validate(extra)
    assert user == TALK[0]
    assert assistant == {**TALK[1], "note": "n" * conversation.MAX_NOTE_CHARS}


def ways_within_ways(depth: int) -> list[dict]:
    return [{**TALK[0], **({"others": [ways_within_ways(depth - 1)]} if depth else {})}, TALK[1]]


WHY = [
    ({}, "a list of messages, found dict"),
    ([1], "message 1 is not one"),
    ([{"role": "tool", "content": "x"}], "message 1 is not one"),
    ([TALK[0], {"role": "assistant", "content": {"path": "/etc/passwd"}}], "message 2: content is not a text"),
    ([TALK[0], {"role": "assistant", "content": ["x"]}], "message 2: content is not a text: found list"),
    ([TALK[0], {"role": "assistant"}], "message 2: content is not a text: found NoneType"),
    ([{**TALK[0], "note": 3}, TALK[1]], "message 1: note"),
    ([TALK[0], {**TALK[1], "draw": -1}], "message 2: draw is not a number from 1"),
    ([TALK[0], {**TALK[1], "draw": 2**32}], "message 2: draw is not a number from 1"),
    ([TALK[0], {**TALK[1], "draw": "2"}], "message 2: draw is not a number from 1"),
    ([{"role": "user", "content": "\ud800"}, TALK[1]], "half of a surrogate pair"),
    ([TALK[0]], "found user"),
    ([{**TALK[0], "place": -1}, TALK[1]], "message 1: place is not a number"),
    ([{**TALK[0], "others": 3}, TALK[1]], "other ways of a conversation are not lists"),
    ([{**TALK[0], "others": [[]]}, TALK[1]], "other ways of a conversation are not lists"),
    ([{**TALK[0], "others": [[TALK[0]]]}, TALK[1]], "found user"),
    ([TALK[0], {**TALK[1], "after": [[{"role": "system", "content": "s"}]]}], "does not begin with a question"),
    (ways_within_ways(conversation.MAX_DEPTH + 1), "more than 60 ways within ways"),
    ([TALK[1], TALK[0]], "found assistant, user"),
    ([*TALK, {"role": "system", "content": "s"}], "at most one system"),
    ([*TALK[:2]] * 1001, "1001 turns, more than the 1000"),
]
MALFORMED_TALKS = [one for one, _ in WHY]


@pytest.mark.parametrize(
    ("messages", "named"),
    WHY,
)
def test_messages_that_are_no_conversation_are_refused_in_a_sentence(messages, named):
    with pytest.raises(UserError, match=named):
        conversation.validate(messages)


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"messages": 3}', "[" * 100_000, '{"messages": [], "draft": 4}'])
def test_what_a_browser_kept_is_not_trusted(text):
    with pytest.raises(UserError):
        conversation.deserialize(text)


def test_ways_within_ways_beyond_the_limit_are_not_kept():
    conversation.serialize(ways_within_ways(conversation.MAX_DEPTH))
    with pytest.raises(UserError, match="more than 60 ways within ways"):
        conversation.serialize(ways_within_ways(conversation.MAX_DEPTH + 1))


def test_a_conversation_beyond_the_limit_is_neither_kept_nor_read():
    long = [{"role": "user", "content": "长" * 800_000}, TALK[1]]
    with pytest.raises(UserError, match="larger than 2 MB"):
        conversation.serialize(long)
    with pytest.raises(UserError, match="larger than 2 MB"):
        conversation.deserialize(json.dumps({"messages": long}, ensure_ascii=False))
    with pytest.raises(UserError, match="larger than 2 MB"):
        saved_chats.parse_last_chat("x" * (conversation.MAX_BYTES + 1))
