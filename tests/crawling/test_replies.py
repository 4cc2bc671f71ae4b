"""What is taken from a model's reply, and what is refused."""

import json

import pytest

from vicuna.crawling.collection import open_collection
from vicuna.crawling.replies import read_reply

ONE = {"instruction": "写一句问候。", "input": "", "output": "你好！"}
TWO = {"instruction": "概括材料。", "input": "春天来了。\n花开了。", "output": "春天花开。"}
BOTH = json.dumps([ONE, TWO], ensure_ascii=False)


@pytest.mark.parametrize(
    "text",
    [
        BOTH,
        json.dumps([ONE, TWO]),
        f"好的，以下是数据：\n```json\n{BOTH}\n```\n希望有帮助 {{笑}}。"[:-8],
        "\n".join(json.dumps(one, ensure_ascii=False) for one in (ONE, TWO)),
        json.dumps({"records": [ONE, TWO]}, ensure_ascii=False),
        BOTH.replace('"}', '",}').replace("]", ",]"),  # commas too many
        BOTH.replace('"instruction"', "'instruction'").replace('"output"', "output"),
        BOTH.replace("\\n", "\n"),
        BOTH.replace('"input": "", ', ""),
        BOTH.replace('"input": ""', '"input": null'),
        BOTH.replace('"input": ""', '"input": "无"'),
        BOTH.replace("}, {", "} {"),
    ],
)
def test_records_are_taken_from_what_is_nearly_json(text):
    assert read_reply(text) == ([ONE, TWO], [])


@pytest.mark.parametrize("end", range(len(BOTH) // 2 + 12, len(BOTH) - 2))
def test_a_record_that_was_cut_off_is_never_taken(end):
    records, refused = read_reply(BOTH[:end])

    assert records == [ONE]
    assert [one.reason for one in refused] == ["cut off"]


@pytest.mark.parametrize("text", [json.dumps({"data": [ONE, TWO]}, ensure_ascii=False)[:-14], f"[{BOTH[1:-30]}"])
def test_the_whole_records_before_a_cut_are_taken(text):
    records, refused = read_reply(text)

    assert (records, [one.reason for one in refused]) == ([ONE], ["cut off"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("抱歉，我不能这样做。", "no JSON object"),
        ("<html><body>502</body></html>", "no JSON object"),
        (json.dumps([{**ONE, "output": ""}]), "output is empty"),
        (json.dumps([{**ONE, "output": "……"}], ensure_ascii=False), "output is empty"),
        (json.dumps([{**ONE, "instruction": None}]), "no instruction"),
        (json.dumps([{"input": "a", "output": "b"}]), "no instruction"),
        (json.dumps([{**ONE, "output": ["a"]}]), "output is no text"),
        (json.dumps([{**ONE, "output": True}]), "output is no text"),
        (json.dumps([{**ONE, "input": {"a": 1}}]), "input is no text"),
        (json.dumps([{**ONE, "output": "好\ufffd"}]), "broken characters"),
        ('[{"instruction": "a", "output": "\\ud83d"}]', "broken characters"),
        ('[{"instruction": "a", "output": NaN}]', "output is no text"),
        (json.dumps({"records": ["text", 1]}), "not an object"),
    ],
)
def test_what_can_not_be_used_is_refused_with_its_reason(text, reason):
    records, refused = read_reply(text)

    assert records == []
    assert {one.reason for one in refused} == {reason}
    assert all(one.text for one in refused)


def test_numbers_are_texts():
    assert read_reply(json.dumps([{**ONE, "output": 42}])) == ([{**ONE, "output": "42"}], [])


def test_a_reply_that_is_nested_deeply_is_refused():
    records, refused = read_reply('{"instruction": ' + "[" * 100_000)

    assert records == []
    assert len(refused) == 1


def test_half_a_character_is_refused_and_written_down(tmp_path):
    reply = '[{"instruction": "a", "output": "\\ud83d"}] {"instruction": "\ud83d'
    with open_collection(tmp_path / "records.jsonl", 70) as collection:
        for one in read_reply(reply)[1]:
            collection.refuse(one, 0)
    lines = (tmp_path / "records.refused.jsonl").read_text(encoding="utf-8").splitlines()

    assert [json.loads(line)["reason"] for line in lines] == ["broken characters", "cut off"]
