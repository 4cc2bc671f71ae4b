"""Conversations in a stranger's file, or in a browser: every value that they have is replaced by every odd value."""

import json
from typing import get_type_hints

import pytest

from tests.foreign.odd_values import ODD, odd_texts, refusal
from vicuna.pages import conversation, saved_chats
from vicuna.prompt.templates import Message

WAY = [{"role": "user", "content": "又"}, {"role": "assistant", "content": "又答", "adapter": "B", "note": "B"}]
TALK = [
    {"role": "system", "content": "简短"},
    {"role": "user", "content": "你好", "others": [WAY, WAY], "place": 1, "draw": 2},
    {"role": "assistant", "content": "你好！", "reasoning_content": "想", "adapter": "A", "note": "A", "after": [WAY]},
]
SETTINGS = {**dict.fromkeys(saved_chats.SETTINGS, 1), **dict.fromkeys(saved_chats.PAGE, "keep")}
INFO = dict.fromkeys(saved_chats.INFO, "tiny")
SAVED = json.loads(saved_chats.format_chat(TALK, SETTINGS, INFO, [WAY]))
KEPT = json.loads(conversation.serialize(TALK, "草稿", aside=[WAY]))


def through_file(text: str) -> None:
    """Load, show, save and load again."""
    loaded = saved_chats.parse_last_chat(text)
    kept = conversation.deserialize(conversation.serialize(loaded.messages, aside=loaded.aside))
    assert len(kept.messages) == len(loaded.messages)
    assert json.loads(json.dumps(loaded.settings, allow_nan=False)) == loaded.settings  # as the browser keeps them
    again = saved_chats.parse_last_chat(saved_chats.format_chat(loaded.messages, loaded.settings, INFO, loaded.aside))
    assert (again.messages, again.aside) == (loaded.messages, loaded.aside)


def through_browser(text: str) -> None:
    kept = conversation.deserialize(text)
    text = conversation.serialize(kept.messages, kept.draft, aside=kept.aside)
    assert conversation.deserialize(text) == kept


@pytest.mark.parametrize(("example", "read"), [(SAVED, through_file), (KEPT, through_browser)], ids=["file", "browser"])
def test_every_odd_value_in_a_conversation_is_a_sentence_or_a_conversation(example, read):
    assert refusal(lambda: read(json.dumps(example))) == ""
    said = {what: refusal(lambda text=text: read(text)) for what, text in odd_texts(example)}

    assert len(said) > 20 * len(ODD)
    assert any(said.values())


def test_an_example_has_every_field_so_that_each_is_tried():
    own = get_type_hints(conversation.StoredMessage).keys() - get_type_hints(Message).keys()
    text = json.dumps(KEPT)
    assert {name for name in (*own, *conversation.Kept._fields) if f'"{name}":' not in text} == set()
    assert [*SAVED] == ["history", "generation_parameter", "info", "settings", "system", "aside"]
    assert [*SAVED["history"][0]] == ["input", "output", "reasoning_content", "adapter", "others", "place", "after"]


def test_a_number_that_json_does_not_have_is_no_setting():
    row = {**SAVED, "generation_parameter": {"temperature": float("nan"), "top_p": float("inf"), "top_k": 4}}
    assert saved_chats.parse_last_chat(json.dumps(row)).settings == {
        **{name: SETTINGS[name] for name in saved_chats.PAGE}, "adapter": "tiny", "prompt_type": "tiny", "top_k": 4,
    }  # fmt: skip
