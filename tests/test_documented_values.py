"""What a document lists of the values of a flag is all that the flag takes, in its order."""

import re
from pathlib import Path

import pytest

from tools.export_gguf import TYPES
from vicuna.certificate.verdict import BOUNDS
from vicuna.prompt.templates import ALL_PROMPT_TYPES, PROMPT_TYPES
from vicuna.prompt.wordings import TEMPLATES

ROOT = Path(__file__).resolve().parent.parent
LANGUAGES = pytest.mark.parametrize("language", ["en", "zh"])


def read(language: str, page: str) -> str:
    return (ROOT / "docs" / language / f"{page}.md").read_text(encoding="utf-8")


def first_cells(text: str, head: str) -> list[str]:
    """What stands between backticks in the first cell of each row of the table below a line."""
    table = re.search(rf"^{re.escape(head)}\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)[1]
    return re.findall(r"^\| `(.+?)` \|", table, re.MULTILINE)


@LANGUAGES
def test_the_table_of_prompt_types_has_all(language):
    head = {"en": "| prompt type | prompt |", "zh": "| 模板 | 提示词 |"}[language]
    assert first_cells(read(language, "infer"), head) == list(ALL_PROMPT_TYPES)


@LANGUAGES
def test_where_a_flag_lists_the_prompt_types_it_lists_all(language):
    rows = re.findall(r"^\| `--prompt_type` \| .+? \| (.+) \|$", read(language, "flags"), re.MULTILINE)
    lists = [found for row in rows if len(found := re.findall(r"`(\w+)`", row)) > 3]

    assert len(lists) >= 2
    for one in lists:
        assert [name for name in one if name in PROMPT_TYPES] == list(PROMPT_TYPES)
        assert set(ALL_PROMPT_TYPES) <= set(one)


@LANGUAGES
def test_the_chat_page_names_the_types_with_a_place_for_a_system_message(language):
    sentence = re.search(r"(?:A system prompt needs|系统提示词需要) ([^;；，]+)", read(language, "chat"))[1]
    assert re.findall(r"`(\w+)`", sentence) == [name for name, one in TEMPLATES.items() if one.takes_system]


@LANGUAGES
def test_the_types_of_exports_are_those_of_the_flag_and_have_a_bound(language):
    rows = re.findall(r"^\| `--type` \| .+? \| (.+) \|$", read(language, "flags"), re.MULTILINE)
    listed = [re.findall(r"`(\w+)`", row)[: len(TYPES)] for row in rows if "q4_k_m" in row]
    bounds = re.findall(r"^\| `gguf (\w+)` \|", read(language, "certificate"), re.MULTILINE)

    assert listed == [list(TYPES)]
    assert bounds == [name.removeprefix("gguf ") for name in BOUNDS if name.startswith("gguf ")]
    assert sorted(bounds) == sorted(TYPES)
