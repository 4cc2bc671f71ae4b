"""What good rows hold that no one wants to teach: named with counts by check_data.py and the plan."""

import pytest

from tests.data.record_files import GOOD, write
from vicuna.data.records import read_records
from vicuna.data.suspicions import suspicions

DIALOGUE, HTML, PLACEHOLDERS, DAMAGED = (
    "a dialogue within one text",
    "HTML",
    "placeholders that were not filled in",
    "damaged characters",
)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Human:你好\nAssistant:你好！\nHuman:再见\nAssistant:", [DIALOGUE]),
        ("下面是对话。\nhuman：你好\n\n assistant：", [DIALOGUE]),
        ("用户：你好\n助手：", [DIALOGUE]),
        ("<|im_start|>user\n你好", [DIALOGUE]),
        ("[INST] 你好 [/INST] 你好！", [DIALOGUE]),
        ("### Instruction:\n你好\n\n### Response:", [DIALOGUE]),
        ('<div class="markdown prose">\n<p>你好</p></div>', [HTML]),
        ("一<br>二", [HTML]),
        ("a &lt; b &amp;&amp; c", [HTML]),
        ("我是{{name}}，由 {{ author }} 训练。", [PLACEHOLDERS]),
        ("锟斤拷锟斤拷", [DAMAGED]),
        ("你好\ufffd", [DAMAGED]),
        ("ä½\xa0å¥½", [DAMAGED]),
        ("<p>{{name}}</p>", [HTML, PLACEHOLDERS]),
        ("Human: you are one", []),
        ("患者：头疼\n医生：多久了？", []),
        ("写一段 HTML：```html\n<p>{{name}}</p>\n```，`<br>` 是换行。", []),
        ("x < y，z > y；AT&T；{a}、{{}}；naïve Übung; très \xe0 propos", []),
        ("天空是什么颜色？", []),
    ],
)
def test_each_kind_is_told_by_its_signs(text, kinds):
    assert list(suspicions([{"role": "user", "content": text}])) == kinds
    assert list(suspicions([{"role": "user", "content": "问", "input": text}])) == kinds


def test_rows_are_counted_once_a_kind_and_stay_good(tmp_path):
    rows = [GOOD, {**GOOD, "input": "<p>一</p><p>二</p>", "output": "<p>三</p>"}, {**GOOD, "output": "我是{{name}}。"}]
    records = read_records(write(tmp_path / "a.jsonl", rows), "instruct")

    assert len(records.dialogues) == 3
    assert records.suspicious == {HTML: 1, PLACEHOLDERS: 1}
    assert records.sources[0].as_json()["suspicious"] == {HTML: 1, PLACEHOLDERS: 1}


def test_real_files_are_counted(shared):
    found = read_records(shared / "instruct/llama-factory/identity.json", "instruct").suspicious

    assert found == {PLACEHOLDERS: 85}
    assert not read_records(shared / "instruct/ruozhiba/ruozhiba_qa2449_gpt4t.json", "instruct").suspicious
