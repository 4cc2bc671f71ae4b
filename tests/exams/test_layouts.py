"""The three published layouts, and the defects of their files: labels, letters, rows without an answer."""

import pytest

from tests.exams.planting import write_csv, write_jsonl
from vicuna.errors import UserError
from vicuna.exams.layouts import option_letters, read_label, read_suite
from vicuna.exams.prompts import Style, letter_sets, style_of
from vicuna.exams.scores import credit

HEADS = ["id", "question", "A", "B", "C", "D", "answer"]
ROW = ["0", "光合作用在哪里进行？", "叶绿体", "线粒体", "细胞核", "液泡", "A"]
JSON_ROW = {"passage": None, "question": "谁？", "options": ["(A)甲", "(B)乙", "(C)丙", "(D)丁"], "label": "B"}


def doc(question) -> dict:
    names = ("name", "stem", "passage", "letters", "right", "options")
    return {name: getattr(question, name) for name in names}


@pytest.mark.parametrize(
    ("label", "letters"),
    [("A", "A"), ("A B D", "ABD"), ("ACD", "ACD"), ("B，A", "AB"), (["C", "A"], "AC"), (["D"], "D"), ([], ""),
     ("", ""), (None, "")],
)  # fmt: skip
def test_labels_are_read_in_every_spelling(label, letters):
    assert read_label(label) == letters


@pytest.mark.parametrize(
    ("options", "letters"),
    [
        (("(A)甲", "(B)乙", "(C)丙", "(D)丁"), "ABCD"),
        (("A．甲", "  B 乙", "（C）丙", " D．丁"), "ABCD"),
        (("(A) 甲", "(C) 丙", "(B) 乙", "D．丁"), "ACBD"),  # in the order of two columns: the label means the letter
        (("AB型血", "(B)乙", "(C)丙", "(D)丁"), "ABCD"),  # no letter in front of all
        (("甲", "乙", "丙"), "ABC"),
        (("(A)1", "(B)2", "(C)3", "(D)4", "(E)5"), "ABCDE"),
    ],
)
def test_an_option_goes_by_the_letter_that_it_begins_with(options, letters):
    assert option_letters(options) == letters


def test_the_real_files_are_read_whole(shared):
    cmmlu, agieval = (read_suite(shared / "eval" / name) for name in ("cmmlu", "agieval"))

    assert (cmmlu.name, len(cmmlu.subjects)) == ("CMMLU", 59)
    assert sum(len(one.questions) for one in cmmlu.subjects) == 9623
    assert all(len(one.examples) == 5 and not one.left_out for one in cmmlu.subjects)
    questions = {one.name: one.questions for one in agieval.subjects}
    assert {name: len(of) for name, of in questions.items()} == {
        "gaokao-biology": 210, "gaokao-chinese": 246, "gaokao-geography": 199, "gaokao-mathqa": 351, "logiqa-zh": 651,
    }  # fmt: skip
    several = [one.right for one in questions["gaokao-mathqa"] if len(one.right) > 1]
    assert sorted(several) == ["ABD", "AC", "AC", "ACD", "AD", "BCD", "CD"]
    logiqa = questions["logiqa-zh"]
    odd = [one for one in logiqa if [option[:3] for option in one.options] != ["(A)", "(B)", "(C)", "(D)"]]
    assert len(odd) == 368
    assert sum(one.letters != "ABCD" for one in logiqa) == 19
    # Valve 1 opens valve 2, which shuts 4, so 3 is open: the label B means the option that is called B, the third.
    valves = next(one for one in logiqa if "要打开1号阀" in one.stem)
    (place,) = Style("AGIEval", True).right(doc(valves))
    assert valves.options[place] == "(B) 2号阀和3号阀。"


def test_agieval_is_asked_in_its_own_words_and_chance_comes_from_the_labels(tmp_path):
    """jec-qa and physics as they are published: labels are lists, one of them empty."""
    rows = [{**JSON_ROW, "label": ["A", "C"]}, {**JSON_ROW, "label": []}, {**JSON_ROW, "label": ["B"]}]
    write_jsonl(tmp_path / "jec-qa-kd.jsonl", *rows)
    write_jsonl(tmp_path / "gaokao-physics.jsonl", {**JSON_ROW, "passage": "读图。", "label": ["D"]})
    write_jsonl(tmp_path / "sat-math.jsonl", JSON_ROW)
    write_jsonl(tmp_path / "gaokao-mathcloze.jsonl", {**JSON_ROW, "options": None, "label": None, "answer": "3"})

    suite = read_suite(tmp_path)

    physics, law, english = suite.subjects
    assert suite.no_choice == ("gaokao-mathcloze",)
    assert dict(law.left_out) == {"no right answer is given": 1}
    assert [one.right for one in law.questions] == ["AC", "B"]
    style = style_of("AGIEval", "gaokao-physics", "published", "any", False)
    asked = "读图。问题：谁？ 选项：(A)甲 (B)乙 (C)丙 (D)丁\n答案：从A到D, 我们应选择"
    assert style.text(doc(physics.questions[0])) == asked
    assert style.choices(doc(physics.questions[0])) == list("ABCD")
    style = style_of("AGIEval", "sat-math", "lm-eval", "any", False)
    assert style.text(doc(english.questions[0])).endswith("(D)丁\nA: Among A through D, the answer is")
    assert style.choices(doc(english.questions[0])) == JSON_ROW["options"]
    style = style_of("AGIEval", "jec-qa-kd", "published", "exact", True)
    assert style.choices(doc(law.questions[0])) == [f"{one}\n" for one in letter_sets("ABCD")]
    assert style.right(doc(law.questions[0])) == [letter_sets("ABCD").index("AC")]


def test_ceval_is_read_from_its_three_folders(tmp_path):
    write_csv(tmp_path / "val/law_val.csv", HEADS, [ROW, [*ROW[:-1], "E"], [*ROW[:-1], ""]])
    write_csv(tmp_path / "dev/law_dev.csv", [*HEADS, "explanation"], [[*ROW, "因为。"]] * 5)
    write_csv(tmp_path / "test/law_test.csv", HEADS[:-1], [ROW[:-1]])

    suite = read_suite(tmp_path)

    (law,) = suite.subjects
    assert (suite.name, suite.split, len(law.questions), len(law.examples)) == ("C-Eval", "val", 1, 5)
    assert dict(law.left_out) == {"the right answer is none of the options": 1, "no right answer is given": 1}
    assert Style("C-Eval", True).text(doc(law.questions[0])) == (
        "光合作用在哪里进行？\nA. 叶绿体\nB. 线粒体\nC. 细胞核\nD. 液泡\n答案："
    )
    with pytest.raises(UserError, match=r"law_test\.csv has no answers, as C-Eval's test files had none until 2025"):
        read_suite(tmp_path, "test")
    write_csv(tmp_path / "test/law_test.csv", HEADS, [ROW, ROW])
    assert len(read_suite(tmp_path, "test").subjects[0].questions) == 2


def test_both_benchmarks_of_subjects_are_introduced_as_their_scripts_do():
    from vicuna.exams.prompts import introduction
    from vicuna.exams.tasks import known_subjects

    cmmlu, ceval = known_subjects("CMMLU"), known_subjects("C-Eval")

    assert (len(cmmlu), len(ceval), len(known_subjects("AGIEval"))) == (67, 52, 19)
    said = "以下是关于农学的单项选择题，请直接给出正确答案的选项。\n\n"
    assert introduction("CMMLU", True, "agronomy", cmmlu) == said
    assert introduction("CMMLU", False, "agronomy", cmmlu) == said
    said = "以下是中国关于{}的单项选择题，请选出其中的正确答案。\n\n"
    assert introduction("C-Eval", True, "accountant", ceval) == said.format("注册会计师考试")
    assert introduction("C-Eval", False, "accountant", ceval) == said.format("注册会计师")
    assert introduction("C-Eval", False, "我的科目", ceval) == said.format("我的科目")


def test_files_of_another_shape_are_named_with_the_line(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", JSON_ROW, {"question": "谁？", "options": ["(A)甲"]})
    with pytest.raises(UserError, match=r"a\.jsonl line 2 lacks a question, its options or its answer"):
        read_suite(tmp_path)
    (tmp_path / "a.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.jsonl line 1 is not JSON"):
        read_suite(tmp_path)
    (tmp_path / "a.jsonl").write_text("[" * 3000, encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.jsonl line 1 has 3,000 lists and objects, nested 3000 deep"):
        read_suite(tmp_path)
    write_csv(
        tmp_path / "test/law.csv", ["", "Question", "A", "B", "C", "Answer"], [["0", "谁？", "甲", "乙", "丙", "A"]]
    )
    with pytest.raises(UserError, match=r"law\.csv line 2 lacks"):
        read_suite(tmp_path)


@pytest.mark.parametrize(
    ("values", "right", "point"),
    [([-1, -2, -3, -4], [0], 1), ([-1, -2, -3, -4], [1, 2], 0), ([-1, -1, -3, -4], [1], 0.5),
     ([-1, -1, -1, -1], [0, 3], 0.5), ([-4, -3, -2, -1], [0, 3], 1)],
)  # fmt: skip
def test_of_options_that_tie_each_has_its_share(values, right, point):
    assert credit(values, right) == point
