"""The table of sentences: both languages say the same, and what a page refuses is in it."""

import ast
import copy
import re
from pathlib import Path
from string import Formatter

import pytest

from tests.pages.driven import ENGLISH
from tests.pages.test_conversation import MALFORMED_TALKS
from tests.pages.test_saved_chats import MALFORMED_FILES
from vicuna.errors import UserError
from vicuna.pages import conversation, saved_chats
from vicuna.sentences import SENTENCES, Sentence, refusal, told

ROOT = Path(__file__).resolve().parent.parent
# What answers on a page, or is shown on it.
TOLD_ON_PAGES = [*ROOT.glob("vicuna/pages/*.py"), *(ROOT / "vicuna/answer" / f"{n}.py" for n in ("history", "worker"))]
FOR_PROGRAMS = ("server.py", "front.py", "flags.py")  # of those, what is said before there is a page


def fields(pattern: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(pattern) if name}


@pytest.mark.parametrize("key", SENTENCES)
def test_both_languages_say_it_with_the_same_parts(key):
    english, chinese = SENTENCES[key]
    assert fields(chinese) <= fields(english)
    assert fields(english) - fields(chinese) <= {"reason"}
    assert re.search("[一-鿿]", chinese)
    assert not ENGLISH.search(re.sub(r"\{.*?\}", "", chinese))


def test_a_sentence_is_its_english_text_and_is_told_in_both():
    error = UserError(Sentence("no_text", what=Sentence("message_field", n=2, name="content"), found="int"))
    assert str(error) == told(error, "en") == "message 2: content is not a text: found int."
    assert told(error, "zh-CN") == "第 2 条消息的 content 不是文字：得到的是 int。"
    assert told(UserError("plain"), "zh") == "plain"
    again = copy.deepcopy(error.args[0])
    assert (again, again.told("zh")) == (error.args[0], told(error, "zh"))
    assert told(refusal(FileNotFoundError(2, "No such file or directory")), "zh") == "没有这个文件或文件夹"


def test_what_a_page_refuses_is_a_sentence_of_the_table():
    plain = []
    for file in TOLD_ON_PAGES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("UserError", "MessageTooLong"):
                said = node.args[0]
                name = getattr(getattr(said, "func", None), "id", "") or getattr(getattr(said, "value", None), "id", "")
                if name not in ("Sentence", "strings") and not ast.unparse(said).startswith("strings["):
                    plain.append(f"{file.name}: {ast.unparse(said)}")
    assert [one for one in plain if not one.startswith(FOR_PROGRAMS)] == []


def test_every_sentence_is_said_somewhere():
    files = [file for file in (*ROOT.glob("vicuna/**/*.py"), ROOT / "generate.py") if file.name != "sentences.py"]
    sources = "".join(file.read_text(encoding="utf-8") for file in files)
    unsaid = [key for key in SENTENCES if f'"{key}"' not in sources and not key.startswith("E")]
    assert unsaid == []


@pytest.mark.parametrize("talk", MALFORMED_TALKS)
def test_a_malformed_conversation_is_refused_in_chinese(talk):
    with pytest.raises(UserError) as refused:
        conversation.validate(talk)
    assert not ENGLISH.search(told(refused.value, "zh"))


@pytest.mark.parametrize("text", MALFORMED_FILES)
def test_a_malformed_file_is_refused_in_chinese(text):
    with pytest.raises(UserError) as refused:
        saved_chats.parse_last_chat(text)
    assert not ENGLISH.search(told(refused.value, "zh"))
