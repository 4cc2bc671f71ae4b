"""CAIL's verdicts and lawyer-llama's counsel, in their published layout."""

import pytest

from tests.data.record_files import write

FACT = "公诉机关指控，2015年3月，被告人甲某在某镇销售某药品，经鉴定为假药。"


def case(fact: str = FACT, **meta: object) -> dict:
    """A row of CAIL2018's data_train.json."""
    term = {"death_penalty": False, "imprisonment": 14, "life_imprisonment": False}
    whole = {
        "relevant_articles": [141], "accusation": ["[生产、销售]假药"], "punish_of_money": 2000, "criminals": ["甲某"],
        "term_of_imprisonment": term,
    }  # fmt: skip
    return {"fact": fact, "meta": whole | meta}


def term(**flags: object) -> dict:
    return {"term_of_imprisonment": {"death_penalty": False, "imprisonment": 0, "life_imprisonment": False} | flags}


def test_a_verdict_is_a_numbered_list_under_one_instruction(convert, tmp_path):
    made = convert("--from", "cail", "--to", "instruct", "--data_path", write(tmp_path / "data_train.json", [case()]))

    assert made.rows == [
        {
            "instruction": "扮演一个专业的法官，根据案情写出罪名、相关法条和刑期。",
            "input": f"案情：{FACT}",
            "output": "1. 罪名：生产、销售假药\n2. 相关法条：《中华人民共和国刑法》第141条\n3. 刑期：1年2个月\n"
            "4. 罚金：2000元",
        }
    ]


@pytest.mark.parametrize(
    ("meta", "line"),
    [
        (term(imprisonment=0), "刑期：未判处监禁"),
        (term(imprisonment=6), "刑期：6个月"),
        (term(imprisonment=36), "刑期：3年"),
        (term(imprisonment=25), "刑期：2年1个月"),
        (term(death_penalty=True), "刑期：死刑"),
        (term(life_imprisonment=True), "刑期：无期徒刑"),
        (term(life_imprisonment=True, imprisonment=300), "刑期：无期徒刑"),
        (
            {"relevant_articles": [264, 264, 65, 264]},
            "相关法条：《中华人民共和国刑法》第264条、《中华人民共和国刑法》第65条",
        ),
        ({"relevant_articles": ["264"]}, "相关法条：《中华人民共和国刑法》第264条"),
        ({"accusation": ["[走私、贩卖、运输、制造]毒品", "盗窃"]}, "罪名：走私、贩卖、运输、制造毒品；盗窃"),
        ({"accusation": ["盗窃", "盗窃"]}, "罪名：盗窃"),
    ],
)  # fmt: skip
def test_what_a_verdict_holds_is_told(convert, tmp_path, meta, line):
    rows = [case(**meta), case(**meta)]
    made = convert("--from", "cail", "--to", "chat", "--data_path", write(tmp_path / "a.json", rows))

    assert len(made.rows) == 2
    assert line in [one.split(". ", 1)[1] for one in made.rows[0]["output"][0].split("\n")]


def test_repeated_articles_and_a_fine_of_nothing_are_said(convert, tmp_path):
    rows = [case(relevant_articles=[264, 264], punish_of_money=0), case(relevant_articles=[])]
    made = convert("--from", "cail", "--to", "chat", "--data_path", write(tmp_path / "a.json", rows))

    assert "罚金" not in made.rows[0]["output"][0]
    assert "法条" not in made.rows[1]["output"][0]
    assert "mended    1 (articles listed twice, kept once)" in made.said


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"fact": FACT}, "fields missing"),
        ({"fact": FACT, "meta": {"accusation": ["盗窃"]}}, "fields missing"),
        (case(accusation=[]), "no charge"),
        (case(fact=" "), "fact is empty"),
        (case(relevant_articles=["第一条"]), "meta.relevant_articles is no number"),
        (case(**term(imprisonment=-1)), "a term that is none"),
        (case(term_of_imprisonment=12), "fields missing"),
    ],
)
def test_a_verdict_that_is_none_is_left_out_and_explained(convert, tmp_path, row, reason):
    made = convert("--from", "cail", "--to", "chat", "--data_path", write(tmp_path / "a.json", [case(), row]))

    assert len(made.rows) == 1
    assert [(one["reason"], one["line"], one["set"]) for one in made.skipped] == [(reason, 2, "cail")]
    assert f"left out  1 ({reason})" in made.said


def test_laws_that_are_no_list_of_texts_are_refused(convert, tmp_path):
    rows = [{"query": "问", "laws": "一", "response": "答"}, {"query": "问", "laws": [], "response": "答"}]
    made = convert("--from", "lawyer-llama", "--to", "instruct", "--data_path", write(tmp_path / "a.jsonl", rows))

    assert [row["input"] for row in made.rows] == ["客户：问"]
    assert [one["reason"] for one in made.skipped] == ["laws is no list"]
