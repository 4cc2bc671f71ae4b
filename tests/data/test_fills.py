"""--fill: placeholders of records, and what stays as it is."""

import json

import pytest

from vicuna.data.cache import cache_key
from vicuna.data.fills import fill, parse_fills
from vicuna.data.flags import DataFlags
from vicuna.data.records import open_sources, read_records
from vicuna.errors import UserError
from vicuna.prompt.tokenizer import TextTokenizer

FILLS = {"name": "小羊驼", "author": "我们"}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("我是{{name}}，{{author}}训练的。", "我是小羊驼，我们训练的。"),
        ("{{NAME}} {{ Author }}", "小羊驼 我们"),  # as ms-swift writes them
        ("{name} {{{name}}} {{other}}", "{name} {小羊驼} {{other}}"),
        ("用 `{{name}}` 写 {{name}}", "用 `{{name}}` 写 小羊驼"),
        ("```\n{{name}}\n```", "```\n{{name}}\n```"),
        ("{{na me}} {{}}", "{{na me}} {{}}"),
    ],
)
def test_only_double_braces_outside_of_code_are_filled(text, filled):
    assert fill({"messages": [{"content": text}], "n": 1}, FILLS, set()) == {"messages": [{"content": filled}], "n": 1}


def test_a_text_with_braces_is_not_filled_again():
    assert fill("{{name}}", {"name": "{{author}}", "author": "x"}, set()) == "{{author}}"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["name"], "--fill name is not of the form name=text"),
        (["=x"], "is not of the form"),
        (["name= "], "is not of the form"),
        (["na me=x"], "is not of the form"),
        (["name=a", "NAME=b"], "--fill names NAME twice"),
    ],
)
def test_what_is_no_fill_is_refused(given, said):
    with pytest.raises(UserError, match=said):
        DataFlags(fill=given)
    assert parse_fills(["name=a=b"]) == {"name": "a=b"}


def test_records_are_filled_in_every_field_and_one_without_use_is_refused(tmp_path):
    own, other = tmp_path / "own.jsonl", tmp_path / "other.jsonl"
    own.write_text(json.dumps({"instruction": "{{name}}？", "input": "", "output": "我是{{name}}。"}), "utf-8")
    other.write_text(json.dumps({"instruction": "写 f-string", "input": "", "output": "f'{name}'"}), "utf-8")
    found = read_records([str(own), f"{other}:0.2"], "instruct", fills=["name=小羊驼"])

    assert [one["content"] for one in found.dialogues[0]] == ["小羊驼？", "我是小羊驼。"]
    assert found.dialogues[1][-1]["content"] == "f'{name}'"
    with pytest.raises(UserError, match=r"--fill author=我们: no record holds \{\{author\}\}"):
        read_records(str(own), "instruct", fills=["name=小羊驼", "author=我们"])


def test_rows_of_another_name_are_another_entry_of_the_cache(tiny_base, tmp_path):
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps({"instruction": "谁？", "input": "", "output": "我是{{name}}。"}), "utf-8")
    tokenizer = TextTokenizer(tiny_base)
    sources = open_sources([str(own)])
    keys = [cache_key(DataFlags([str(own)], fill=fills), sources, tokenizer) for fills in ([], ["name=a"], ["name=b"])]

    assert len(set(keys)) == 3


def test_check_data_fills_too(program, tmp_path):
    done = program("tools/check_data.py", "sample/identity/single.jsonl", "--fill", "name=小羊驼", "author=我们")

    assert done.returncode == 0, done.stderr
    assert "60 good, 0 malformed" in done.stdout
    assert "placeholders" not in done.stdout
    lacking = program("tools/check_data.py", "sample/identity/single.jsonl", "--fill", "nmae=小羊驼")
    assert "--fill nmae=小羊驼: no record holds {{nmae}}" in lacking.stderr
    assert lacking.returncode == 1
