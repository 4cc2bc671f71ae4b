"""The published files themselves: every row is counted, and every one that is left out explained."""

from collections import Counter

import pytest

from vicuna.data.bad_row import BadRow
from vicuna.data.formats import to_messages

DOCTOR = "扮演一个专业的医生并回答病人的问题。"
# Set, file or folder, rows read, rows usable, rows left out by reason.
REAL = [
    ("huatuo", "med/huatuo/llama_data.json", 8658, 8658, {}),
    ("huatuo", "med/huatuo/infer.json", 5, 5, {}),
    ("promptcblue", "med/promptcblue", 160, 160, {}),
    ("lawyer-llama", "law/lawyer-llama/judical_examination.json", 2000, 2000, {}),
    ("lawyer-llama", "law/lawyer-llama/legal_advice.json", 5000, 5000, {}),
    ("lawyer-llama", "law/lawyer-llama/legal_counsel_with_article_v2.json", 1000, 1000, {}),
    ("lawyer-llama", "law/lawyer-llama/zixun_gpt4.json", 1000, 1000, {}),
    ("moss", "chat/moss", 1000, 500, {"fields missing": 500}),  # user_prompts/ and the like are questions alone
    ("firefly", "chat/firefly_dummy_data.jsonl", 33, 33, {}),
    ("sharegpt", "chat/fastchat_dummy_conversation.json", 500, 500, {}),
    ("kdconv", "chat/kdconv", 300, 300, {}),
    ("belle", "instruct/belle/zh_seed_tasks.json", 175, 175, {}),
    ("alpaca", "instruct/carbonz0", 10021, 10015, {"output is empty": 6}),
    ("alpaca", "instruct/hikariming", 25403, 25390, {"output is empty": 11, "instruction is empty": 2}),
    ("alpaca", "instruct/ruozhiba", 2449, 2449, {}),
]


@pytest.mark.parametrize(("name", "path", "found", "usable", "left_out"), REAL, ids=lambda one: str(one)[-32:])
def test_every_row_of_the_published_files_is_counted(convert, shared, name, path, found, usable, left_out):
    made = convert("--from", name, "--to", "chat", "--data_path", shared / path)

    assert f"read      {found:,} rows\n  usable    {usable:,}\n" in made.said
    assert len(made.rows) == usable
    assert Counter(one["reason"] for one in made.skipped) == left_out
    assert all(one["problem"] and one["line"] and one["file"].startswith(str(shared)) for one in made.skipped)


@pytest.mark.parametrize("to", ["instruct", "chat"])
def test_what_is_written_of_real_rows_is_read_back_by_finetune(convert, shared, to):
    paths = [shared / "chat/moss/helpful_code_conversations", shared / "chat/moss/harmless_conversations"]
    made = convert("--from", "moss", "--to", to, "--data_path", *paths)

    assert len(made.rows) == 200
    for row in made.rows:
        messages = to_messages(row, to)
        assert ("system" in {one["role"] for one in messages}) == (to == "chat")
        # Five keys a turn, of which these are nobody's words.
        assert not any(mark in str(messages) for mark in ("<|Results|>", "<|Human|>", "<eom>", "<|Commands|>"))
    assert ("mended    200 (a system message left out)" in made.said) == (to == "instruct")


def test_a_medical_set_is_asked_under_one_instruction(convert, shared):
    rows = convert("--from", "huatuo", "--to", "instruct", "--data_path", shared / "med/huatuo/infer.json").rows

    assert {row["instruction"] for row in rows} == {DOCTOR}
    assert rows[2]["input"] == "病人：麻风病和儿童哮喘的病因是否一致？"


def test_the_articles_of_counsel_stand_behind_the_question(convert, shared):
    path = shared / "law/lawyer-llama/zixun_gpt4.json"
    with_laws, without = (
        convert("--from", "lawyer-llama", "--to", "instruct", "--data_path", path, *more).rows[0]
        for more in ([], ["--drop_laws"])
    )

    question = "客户：我跟我老公离婚需要我娘家的户口薄吗？"
    assert with_laws["input"].startswith(f"{question}\n参考法条：\n1. 《民法典》第一千零七十六条：")
    assert "\n3. 《民法典》第一千零八十条：" in with_laws["input"]
    assert without["input"] == question
    assert with_laws["output"] == without["output"]


def test_the_charges_of_cail_are_those_of_its_list(convert, shared, tmp_path):
    """accu.txt, as published, names the charges without brackets; its rows have them."""
    from tests.conversion.test_legal import case
    from tests.data.record_files import write

    names = (shared / "law/cail/accu.txt").read_text(encoding="utf-8").split()
    rows = [case(accusation=[f"[{name[:2]}]{name[2:]}"]) for name in names]
    made = convert("--from", "cail", "--to", "instruct", "--data_path", write(tmp_path / "a.json", rows))

    assert len(names) == 202
    assert [row["output"].split("\n")[0] for row in made.rows] == [f"1. 罪名：{name}" for name in names]


def test_no_dialogue_of_the_samples_is_lost_on_its_way(shared, convert):
    made = convert("--from", "firefly", "--to", "instruct", "--data_path", shared / "chat/firefly_dummy_data.jsonl")

    for row in made.rows:
        try:
            assert len(to_messages(row, "instruct")) == 2 * (1 + len(row.get("history", [])))
        except BadRow as problem:
            pytest.fail(str(problem))
