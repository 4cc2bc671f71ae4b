"""Conversations as files: what is saved and loaded, and what never is."""

import json

import pytest

from tests.pages.test_conversation import TALK
from vicuna.errors import UserError
from vicuna.pages import conversation, saved_chats
from vicuna.pages.strings import STRINGS

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


def test_a_saved_chat_has_the_originals_form_and_tells_nothing_else():
    text = saved_chats.format_chat([{"role": "system", "content": "简短"}, *TALK], SETTINGS, INFO)
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
    settings = {**SETTINGS, "thinking": "keep", "preset": "creative", "show_beam": True}
    way = [{"role": "user", "content": "又"}, {"role": "assistant", "content": "又答", "adapter": "B", "note": "B"}]
    messages[1] = {**messages[1], "others": [way, TALK[:2]], "place": 1}
    messages[4] = {**messages[4], "after": [way]}
    loaded = saved_chats.parse_last_chat(saved_chats.format_chat(messages, settings, INFO, [way]))
    assert (loaded.messages, loaded.count, loaded.aside) == (messages, 1, [way])
    del settings["api_key"]
    assert loaded.settings == {**settings, "adapter": "A", "prompt_type": "chat"}


def test_settings_that_no_control_could_show_are_left_out():
    row = {"history": [], "info": {"adapter": ["x"], "prompt_type": "\ud800"}, "generation_parameter": 3}
    loaded = saved_chats.parse_last_chat(json.dumps({**row, "settings": {"thinking": None, "preset": {}, "top_k": 4}}))
    assert loaded.settings == {"top_k": 4}


def test_a_conversation_is_written_to_be_read():
    messages = [{"role": "system", "content": "简短"}, *TALK[:3], {**TALK[3], "content": "好", "adapter": "A"}]
    kept = conversation.Kept(messages)
    expected = ["题目", "你", "继续", "回复 · A", "好"]
    text = saved_chats.as_text(STRINGS["zh"], kept, "题目", markdown=False)
    assert [line for line in text.split("\n") if line in expected] == ["题目", "你", "你", "继续", "回复 · A", "好"]
    text = saved_chats.as_text(STRINGS["en"], kept, "题目", markdown=True)
    assert text.startswith("# 题目\n\n### System prompt\n\n简短\n\n### You\n\n你好\n\n### Answer\n\n你好！<b>")


def test_the_last_conversation_of_an_originals_export_is_loaded_without_its_end_marks():
    messages, count, *_ = saved_chats.parse_last_chat("\ufeff" + ORIGINAL + "\n\n")
    assert count == 2
    assert [message["content"] for message in messages] == ["问1", "答1", "问2", "答2"]


WHY = [
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
    ('{"history": [{"input": "", "output": "", "others": [3]}]}', "row 1: the other ways of the conversation"),
    ('{"history": [], "aside": {"x": 1}}', "row 1: the other ways of the conversation"),
    ('{"history": [{"input": "", "output": "", "adapter": 3}]}', "row 1, turn 1: adapter is not a text"),
]
MALFORMED_FILES = [one for one, _ in WHY]


@pytest.mark.parametrize(
    ("text", "named"),
    WHY,
)
def test_a_malformed_row_is_named(text, named):
    with pytest.raises(UserError, match=named):
        saved_chats.parse_last_chat(text)


def test_each_conversation_has_one_file_whose_name_no_visitor_chooses(tmp_path):
    folder = tmp_path / "saved"
    first = saved_chats.write_chat(str(folder), "anna", "../../etc/x", "1\n")
    assert saved_chats.write_chat(str(folder), "anna", "../../etc/x", "2\n") == first
    others = {
        saved_chats.write_chat(str(folder), "bert", "../../etc/x", "3\n"),
        saved_chats.write_chat(str(folder), "", "c", ""),
    }
    assert {file.name for file in folder.iterdir()} == {first, *others}
    assert len(others | {first}) == 3
    assert (folder / first).read_text(encoding="utf-8") == "2\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved"]
    assert (folder / first).stat().st_mode & 0o077 == 0  # nobody else on the machine reads it


def test_the_saved_chats_of_all_have_a_limit_together(tmp_path, monkeypatch):
    monkeypatch.setattr(saved_chats, "MAX_SAVED_BYTES", 10)
    saved_chats.write_chat(str(tmp_path), "", "a", "123456")
    saved_chats.write_chat(str(tmp_path), "", "a", "1234567890")  # over what it held before
    with pytest.raises(UserError, match="they are full; the download in your browser is complete"):
        saved_chats.write_chat(str(tmp_path), "", "b", "1")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_in_the_folders_place_is_told_without_its_path(tmp_path):
    (tmp_path / "x").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="could not write") as told:
        saved_chats.write_chat(str(tmp_path / "x"), "", "a", "1")
    assert str(tmp_path) not in str(told.value)
