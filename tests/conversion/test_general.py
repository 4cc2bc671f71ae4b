"""General sets: dialogues within one text, exports of ShareGPT, MOSS's turns, seed tasks, pairs of sentences."""

import pytest

from tests.data.record_files import write
from vicuna.conversion.html_text import is_html, to_markdown
from vicuna.conversion.writing import mostly_chinese
from vicuna.data.formats import to_messages


def rows_of(convert, tmp_path, name, rows, *more, to="chat"):
    return convert("--from", name, "--to", to, "--data_path", write(tmp_path / "a.jsonl", rows), *more)


TALK = "Human:你好\nAssistant:你好！\nHuman:写一首诗：\n第一行\nAssistant:"


def test_a_dialogue_of_belle_in_one_field_is_taken_apart(convert, tmp_path):
    rows = [
        {"instruction": TALK, "input": "", "output": "好的。"},
        {"instruction": "你好", "input": "", "output": "好"},
    ]
    made = rows_of(convert, tmp_path, "belle", rows)

    assert made.rows == [
        {"input": ["你好", "写一首诗：\n第一行"], "output": ["你好！", "好的。"]},
        {"input": ["你好"], "output": ["好"]},
    ]
    assert "mended    1 (turns within one text taken apart)" in made.said


def test_earlier_turns_are_the_history_of_an_instruction(convert, tmp_path):
    (row,) = rows_of(convert, tmp_path, "belle", [{"instruction": TALK, "output": "好的。"}], to="instruct").rows

    assert row == {
        "instruction": "写一首诗：\n第一行",
        "input": "",
        "output": "好的。",
        "history": [["你好", "你好！"]],
    }
    assert [one["content"] for one in to_messages(row, "instruct")] == [
        "你好",
        "你好！",
        "写一首诗：\n第一行",
        "好的。",
    ]


@pytest.mark.parametrize(
    ("instruction", "given", "asked", "answers"),
    [
        ("继续对话。", "User:你好\nAssistant:你好！\nUser:再见", ["继续对话。\n你好", "再见"], ["你好！"]),
        ("它多大？", "User:最近的行星？\nAssistant:水星。", ["最近的行星？", "它多大？"], ["水星。"]),
        (
            "User:最近的行星？\nAssistant:水星。",
            "System:答得短些。\nUser:它多大？",
            ["最近的行星？", "答得短些。\n它多大？"],
            ["水星。"],
        ),
        ("User:你好\nAssistant:", "", ["你好"], []),
        ("User:读一下", "一段文字", ["读一下\n一段文字"], []),
        ("User：你好\nAssistant：你好！", "再见", ["你好", "再见"], ["你好！"]),
        ("", "User: 你好\nAssistant: ", ["你好"], []),
    ],
)
def test_turns_of_guanaco_stand_in_either_field(convert, tmp_path, instruction, given, asked, answers):
    made = rows_of(convert, tmp_path, "guanaco", [{"instruction": instruction, "input": given, "output": "完。"}])

    assert made.rows == [{"input": asked, "output": [*answers, "完。"]}]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": "Human:a\nHuman:b\nAssistant:", "output": "c"}, "turns within the text do not alternate"),
        ({"instruction": "Assistant:a\nHuman:b", "output": "c"}, "turns within the text do not alternate"),
        ({"instruction": "Human:a\nAssistant:b", "output": "c"}, "a dialogue without a question"),
        ({"instruction": "Human:\nAssistant:", "output": "c"}, "a turn is empty"),
        ({"instruction": "Human:a\nAssistant:", "output": " "}, "output is empty"),
        ({"instruction": "a", "input": "User:b\nSystem:c", "output": "d"}, "a dialogue without a question"),
    ],
)
def test_turns_that_are_none_are_left_out_and_explained(convert, tmp_path, row, reason):
    made = rows_of(convert, tmp_path, "guanaco", [row, {"instruction": "a", "output": "b"}])

    assert (len(made.rows), [one["reason"] for one in made.skipped]) == (1, [reason])


def test_names_within_a_text_make_no_dialogue_of_it(convert, tmp_path):
    row = {"instruction": "解释：\nUser: 是什么意思？", "input": "", "output": "用户。"}
    assert rows_of(convert, tmp_path, "guanaco", [row], to="instruct").rows == [row]


def test_a_seed_task_of_belle_becomes_a_row_for_each_instance(convert, tmp_path):
    task = {"id": "s", "name": "n", "instruction": "翻译", "is_classification": False}
    instances = [{"input": "你好", "output": "Hello"}, {"input": "", "output": "Bye"}]
    made = rows_of(convert, tmp_path, "belle", [{**task, "instances": instances}], to="instruct")

    assert made.rows == [{"instruction": "翻译", **one} for one in instances]
    assert "read      1 rows\n  usable    2" in made.said


def moss_turn(command="None", result="None"):
    return {
        "Human": "<|Human|>: 一加一？<eoh>\n",
        "Inner Thoughts": "<|Inner Thoughts|>: None<eot>\n",
        "Commands": f"<|Commands|>: {command}<eoc>\n",
        "Tool Responses": f"<|Results|>: {result}<eor>\n",
        "MOSS": "<|MOSS|>: 二。<eom>\n",
    }


def test_a_dialogue_of_moss_with_a_plugin_is_left_out_one_with_its_markers_alone_is_not(convert, tmp_path):
    rows = [
        {"meta_instruction": "你是助手。", "chat": {"turn_1": moss_turn()}},
        {"meta_instruction": "你是助手。", "chat": {"turn_1": moss_turn('Calculate("1+1")', "Calculate => 2")}},
    ]
    made = rows_of(convert, tmp_path, "moss", rows)

    assert made.rows == [{"system": "你是助手。", "input": ["一加一？"], "output": ["二。"]}]
    assert [one["reason"] for one in made.skipped] == ["calls a tool"]
    assert rows_of(convert, tmp_path, "moss", rows, "--drop_system").rows == [
        {"input": ["一加一？"], "output": ["二。"]}
    ]


def said(*values):
    return [{"from": ("human", "gpt")[at % 2], "value": value} for at, value in enumerate(values)]


def test_exports_of_sharegpt_are_made_whole(convert, tmp_path):
    html = '<div class="markdown prose"><p>用 <code>ls</code>：</p><pre>ls -l</pre></div>'
    rows = [
        {"id": "a_0", "conversations": said("怎么列出文件？", html)},
        {"id": "a_1", "conversations": [*said("", "接着说。")[1:], *said("好", "好的。", "再见")]},
        {"id": "b", "items": said("你好", "你好！")},
        {"id": "c", "conversations": said("只有问题")},
        {"id": "d", "conversations": [*said("a"), *said("b", "c")]},
    ]
    made = rows_of(convert, tmp_path, "sharegpt", rows)

    assert made.rows == [
        {"input": ["怎么列出文件？"], "output": ["用 `ls`：\n\n```\nls -l\n```"]},
        {"input": ["好"], "output": ["好的。"]},
        {"input": ["你好"], "output": ["你好！"]},
    ]
    assert [one["reason"] for one in made.skipped] == ["no messages", "messages do not alternate"]
    for what in ("HTML made Markdown", "an answer without a question", "a question without an answer"):
        assert f"mended    1 ({what}" in made.said


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>一</p><p>二<br>三</p>", "一\n\n二\n三"),
        ("<ol><li><p>一</p></li><li>二<ul><li>甲</li></ul></li></ol>", "1. 一\n2. 二\n   - 甲"),
        ("<div><h2>题</h2><p><strong>粗</strong>、<em>斜</em></p></div>", "## 题\n\n**粗**、*斜*"),
        ("<div>1 / 2</div><div><p>a &lt; b &amp; c</p></div>", "a < b & c"),
        (
            '<pre><div class="bg">pythonCopy code</div><code>if a &lt; 1:\n    b()\n</code></pre>',
            "```python\nif a < 1:\n    b()\n```",
        ),
        (
            "<table><thead><tr><th>甲</th><th>乙</th></tr></thead><tr><td>1</td><td>2</td></tr></table>",
            "| 甲 | 乙 |\n| --- | --- |\n| 1 | 2 |",
        ),
        ("<p>未合上<b>粗</p>", "未合上**粗"),
    ],
)
def test_html_becomes_the_markdown_it_was_shown_from(html, text):
    assert is_html(html)
    assert to_markdown(html) == text


@pytest.mark.parametrize(
    "text", ["用 <p> 标签写一段。", "<p>是段落标签", "```html\n<p>a</p>\n```", "a < b", "<b>粗</b>"]
)
def test_text_about_html_stays(convert, tmp_path, text):
    assert not is_html(text)
    made = rows_of(convert, tmp_path, "sharegpt", [{"conversations": said("问", text)}])
    assert made.rows == [{"input": ["问"], "output": [text]}]


def test_what_a_user_wrote_in_html_stays(convert, tmp_path):
    made = rows_of(convert, tmp_path, "sharegpt", [{"conversations": said("<p>改一下</p>", "好")}])
    assert made.rows[0]["input"] == ["<p>改一下</p>"]


@pytest.mark.parametrize(("direction", "count"), [("both", 2), ("zh-en", 1), ("en-zh", 1)])
def test_a_pair_of_sentences_is_translated_in_the_directions_wanted(convert, tmp_path, direction, count):
    rows = [{"english": "Hello.", "chinese": "你好。"}, {"english": "", "chinese": "空"}, {"en": "a"}]
    made = rows_of(convert, tmp_path, "translation", rows, "--direction", direction, to="instruct")

    pairs = {"zh-en": ("英", "你好。", "Hello."), "en-zh": ("中", "Hello.", "你好。")}
    chosen = pairs.values() if direction == "both" else [pairs[direction]]
    assert made.rows == [
        {"instruction": f"把下面的句子翻译成{word}文。", "input": given, "output": wanted}
        for word, given, wanted in chosen
    ]
    assert len(made.rows) == count
    assert [one["reason"] for one in made.skipped] == ["english is empty", "fields missing"]


def test_pclue_is_question_and_target(convert, tmp_path):
    row = {"input": "这是哪类新闻？\n答案：", "target": "体育", "answer_choices": ["体育", "财经"], "type": "classify"}
    assert rows_of(convert, tmp_path, "pclue", [row], to="instruct").rows == [
        {"instruction": "这是哪类新闻？\n答案：", "input": "", "output": "体育"}
    ]


@pytest.mark.parametrize(
    ("text", "chinese"),
    [
        ("你好，world！", True),
        ("Please translate this sentence into 中文", False),
        ("看这段代码：\n```python\nfor name in names: print(name, end=several_words)\n```", True),
        ("123", False),
    ],
)
def test_what_is_chinese(text, chinese):
    assert mostly_chinese([{"role": "user", "content": text}]) == chinese


def test_an_answer_that_is_not_to_be_learnt_has_no_place_in_a_row(convert, tmp_path):
    talk = [*said("一", "二", "三", "四")]
    talk[1]["loss"] = False
    made = rows_of(convert, tmp_path, "sharegpt", [{"conversations": talk}, {"conversations": said("一", "二")}])

    assert [one["reason"] for one in made.skipped] == ["an answer is not to be learnt"]
