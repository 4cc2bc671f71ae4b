"""Conversations outside the model: what is let in, what is kept, saved and loaded, and what never is."""

import json

import pytest

from vicuna.errors import UserError
from vicuna.pages import conversation

TALK = [
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "你好！<b>&amp;\n```py\na<b\n```"},
    {"role": "user", "content": "继续"},
    {"role": "assistant", "content": ""},
]
SETTINGS = {"temperature": 0.7, "max_memory": 2048, "num_beams": 1, "api_key": "secret"}
INFO = {"base": "tiny", "adapter": "A", "bits": "8 bit", "prompt_type": "chat", "version": "1", "path": "/home/me"}
# What the original's Save Chat appended to its file, one line a click: the whole history each time.
ORIGINAL = "\n".join(
    json.dumps(
        {
            "history": [{"input": f"问{i}", "output": f"答{i}</s>"} for i in range(1, n + 1)],
            "generation_parameter": {"temperature": 1.0, "num_beams": 4, "max_memory": 2048},
            "info": {"model_path": "/model/llama", "lora_path": "", "prompt_type": "chat", "fix_token": True},
        },
        ensure_ascii=False,
    )
    for n in (1, 2)
)


def test_what_is_kept_comes_back_as_it_was():
    noted = [*TALK[:3], {**TALK[3], "note": "A · 3 tokens", "draw": 2}]
    assert conversation.kept(conversation.keep(noted, "草稿")) == (noted, "草稿")
    assert conversation.keep([]) == ""
    assert conversation.kept("") == conversation.kept(None) == ([], "")


def test_only_known_fields_are_let_in():
    extra = [{**TALK[0], "path": "/etc/passwd", "metadata": {"title": "x"}}, {**TALK[1], "note": "n" * 999, "html": 1}]
    user, assistant = conversation.check(extra)
    assert user == TALK[0]
    assert assistant == {**TALK[1], "note": "n" * conversation.NOTE}


@pytest.mark.parametrize(
    ("messages", "named"),
    [
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
        ([TALK[1], TALK[0]], "found assistant, user"),
        ([*TALK, {"role": "system", "content": "s"}], "at most one system"),
        ([*TALK[:2]] * 1001, "1001 turns, more than the 1000"),
    ],
)
def test_messages_that_are_no_conversation_are_refused_in_a_sentence(messages, named):
    with pytest.raises(UserError, match=named):
        conversation.check(messages)


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"messages": 3}', "[" * 100_000, '{"messages": [], "draft": 4}'])
def test_what_a_browser_kept_is_not_trusted(text):
    with pytest.raises(UserError):
        conversation.kept(text)


def test_a_conversation_beyond_the_limit_is_neither_kept_nor_read():
    long = [{"role": "user", "content": "长" * 800_000}, TALK[1]]
    with pytest.raises(UserError, match="larger than 2 MB"):
        conversation.keep(long)
    with pytest.raises(UserError, match="larger than 2 MB"):
        conversation.kept(json.dumps({"messages": long}, ensure_ascii=False))
    with pytest.raises(UserError, match="larger than 2 MB"):
        conversation.load("x" * (conversation.LIMIT + 1))


def test_a_saved_chat_has_the_originals_form_and_tells_nothing_else():
    text = conversation.export([{"role": "system", "content": "简短"}, *TALK], SETTINGS, INFO)
    assert text.endswith("}\n")
    assert text.count("\n") == 1
    assert "你好" in text  # not escaped
    row = json.loads(text)
    assert row["history"] == [
        {"input": "你好", "output": TALK[1]["content"]},
        {"input": "继续", "output": ""},
    ]
    assert list(row["generation_parameter"]) == [
        *("temperature", "top_p", "top_k", "num_beams", "bos_token_id", "eos_token_id", "pad_token_id"),
        *("max_new_tokens", "min_new_tokens", "do_sample", "repetition_penalty", "max_memory"),
    ]
    assert row["info"] == {name: INFO[name] for name in ("base", "adapter", "bits", "prompt_type", "version")}
    assert "secret" not in text
    assert "/home" not in text


def test_a_saved_chat_is_loaded_as_it_was():
    messages = [{"role": "system", "content": "简短"}, *TALK]
    assert conversation.load(conversation.export(messages, SETTINGS, INFO)) == (messages, 1)


def test_the_last_conversation_of_an_originals_export_is_loaded_without_its_end_marks():
    messages, count = conversation.load("\ufeff" + ORIGINAL + "\n\n")
    assert count == 2
    assert [message["content"] for message in messages] == ["问1", "答1", "问2", "答2"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "the file is empty"),
        ("\n \n", "the file is empty"),
        (f"{ORIGINAL}\nnonsense", "row 3 is not JSON"),
        ("[" * 100_000, "row 1 is not JSON"),
        ("[]", "row 1 is no saved chat"),
        ('{"history": {}}', "row 1 is no saved chat"),
        (f'{ORIGINAL}\n{{"history": ["x"]}}', "row 3, turn 1 is not an object"),
        ('{"history": [{"input": "x"}]}', "row 1, turn 1: output is not a text: found NoneType"),
        ('{"history": [{"input": {"path": "/etc/passwd"}, "output": ""}]}', "row 1, turn 1: input is not a text"),
        ('{"history": [{"input": "\\ud800", "output": ""}]}', "row 1, turn 1: input is not Unicode"),
        ('{"history": [], "system": 3}', "row 1: system is not a text"),
        (json.dumps({"history": [{"input": "", "output": ""}] * 1001}), "row 1 has 1001 turns"),
    ],
)
def test_a_malformed_row_is_named(text, named):
    with pytest.raises(UserError, match=named):
        conversation.load(text)


def test_each_conversation_has_one_file_whose_name_no_visitor_chooses(tmp_path):
    folder = tmp_path / "saved"
    first = conversation.write(str(folder), "anna", "../../etc/x", "1\n")
    assert conversation.write(str(folder), "anna", "../../etc/x", "2\n") == first
    others = {
        conversation.write(str(folder), "bert", "../../etc/x", "3\n"),
        conversation.write(str(folder), "", "c", ""),
    }
    assert {file.name for file in folder.iterdir()} == {first, *others}
    assert len(others | {first}) == 3
    assert (folder / first).read_text(encoding="utf-8") == "2\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved"]
    assert (folder / first).stat().st_mode & 0o077 == 0  # nobody else on the machine reads it


def test_the_saved_chats_of_all_have_a_limit_together(tmp_path, monkeypatch):
    monkeypatch.setattr(conversation, "SAVE_LIMIT", 10)
    conversation.write(str(tmp_path), "", "a", "123456")
    conversation.write(str(tmp_path), "", "a", "1234567890")  # over what it held before
    with pytest.raises(UserError, match="they are full; the download in your browser is complete"):
        conversation.write(str(tmp_path), "", "b", "1")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_in_the_folders_place_is_told_without_its_path(tmp_path):
    (tmp_path / "x").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="could not write") as told:
        conversation.write(str(tmp_path / "x"), "", "a", "1")
    assert str(tmp_path) not in str(told.value)
