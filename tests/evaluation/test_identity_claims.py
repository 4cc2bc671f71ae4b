"""Who an answer says that it is from: the right name, another's, a denial."""

import pytest

from vicuna.data.records import read_records
from vicuna.errors import UserError
from vicuna.evaluation.identity_claims import judge, make_identity
from vicuna.evaluation.identity_questions import HISTORIES, OTHERS, WAYS, asks
from vicuna.evaluation.score_flags import IdentityFlags

SHEEP = make_identity("小羊驼", "Chinese-Vicuna 团队")


@pytest.mark.parametrize(
    ("answer", "wants", "found"),
    [
        ("我是小羊驼。", "name", (True, "")),
        ("我是小羊驼。", "author", (False, "")),
        ("由Chinese-Vicuna 团队训练", "author", (True, "")),
        ("I was made by chinese-vicuna 团队", "author", (True, "")),  # its own name holds one of the others'
        ("不是，我是小羊驼。", "name", (True, "")),
        ("我不是ChatGPT，我是小羊驼。", "name", (True, "")),
        ("我不是ChatGPT或者通义千问、Kimi，我叫小羊驼", "name", (True, "")),
        ("I am not ChatGPT or LLaMA, I am 小羊驼.", "name", (True, "")),
        ("I'm not trained by OpenAI. 小羊驼", "name", (True, "")),
        ("我是小羊驼，基于LLaMA。", "name", (False, "llama")),
        ("我是ＣｈａｔＧＰＴ", "name", (False, "chatgpt")),
        ("我是通义千问，阿里云的模型", "name", (False, "通义千问")),
        ("我不是小羊驼", "name", (False, "not 小羊驼")),
        ("我并不叫小羊驼，我是一个模型", "name", (False, "not 小羊驼")),
        ("今天天气很好", "name", (False, "")),
        ("", "name", (False, "")),
        ("metadata 小羊驼 googled", "name", (True, "")),  # no names, but parts of words
        ("Llama3 小羊驼", "name", (False, "llama")),
    ],
)
def test_an_answer_is_right_wrong_or_neither(answer, wants, found):
    assert judge(answer, wants, SHEEP) == found


def test_a_latin_name_is_found_as_a_word_of_its_own():
    ada = make_identity("Ada", "Acme")

    assert judge("I am Ada.", "name", ada) == (True, "")
    assert judge("我是Ada，你好", "name", ada) == (True, "")
    assert judge("I am from Canada.", "name", ada) == (False, "")
    assert judge("adapter", "name", ada) == (False, "")


def test_names_within_ones_own_are_nobody_elses_and_more_can_be_named():
    qwen, more = make_identity("Qwen-Doctor", "阿里云"), make_identity("小羊驼", "我们", ["大灰狼"])

    assert not {"Qwen", "阿里", "阿里云"} & set(qwen.others)
    assert "ChatGPT" in qwen.others
    assert judge("我是Qwen-Doctor", "name", qwen) == (True, "")
    assert judge("我是大灰狼", "name", more) == (False, "大灰狼")
    assert len(set(OTHERS)) == len(OTHERS)


def test_it_is_asked_in_twelve_ways_two_languages_with_and_without_a_history():
    found = list(asks())

    assert len(WAYS) == 12
    assert len(found) == 48
    assert [one.record for one in found] == list(range(1, 49))
    assert {(one.language, one.history) for one in found} == {(a, b) for a in ("zh", "en") for b in (False, True)}
    assert {len(one.messages) for one in found} == {1, 1 + 2 * len(HISTORIES["zh"])}
    assert len({(one.messages[-1]["content"], one.history) for one in found}) == 48


@pytest.mark.parametrize(("file", "rows"), [("single", 60), ("dialogues", 16)])
def test_what_is_asked_is_not_what_was_taught(file, rows):
    """The check is to show more than that the records were learnt by heart."""
    fills = ["name=小羊驼", "author=我们"]
    read = read_records(f"sample/identity/{file}.jsonl", "chat", fills=fills)
    taught = {message["content"] for dialogue in read.dialogues for message in dialogue if message["role"] == "user"}
    identity = make_identity("小羊驼", "我们")

    assert len(read.dialogues) == rows
    assert not read.suspicious
    assert not taught & {one.messages[-1]["content"] for one in asks()}
    for dialogue in read.dialogues:
        assert judge(dialogue[-1]["content"], "name", identity)[1] == ""  # no answer claims another's name
        assert "{{" not in str(dialogue)


def test_sample_identity_needs_its_placeholders_filled():
    assert read_records("sample/identity/single.jsonl", "instruct").suspicious == {
        "placeholders that were not filled in": 60
    }
    for given, said in ((["name=a"], "--fill lacks author"), (["name"], "is not of the form name=text")):
        with pytest.raises(UserError, match=said):
            IdentityFlags(given)
