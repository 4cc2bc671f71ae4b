"""cMedQA2 in its published layout: ids with gaps, answers anywhere in their table, a hundred candidates a question."""

import csv
import zipfile

import pytest

from vicuna.errors import UserError

DOCTOR = "扮演一个专业的医生并回答病人的问题。"
QUESTIONS = {"10": "头痛怎么办？", "7": "失眠，\n“很久”了", "30": "没人答", "12": "咳嗽？"}
# In no order, and not by question.
ANSWERS = [
    ("501", "7", "少喝咖啡。"),
    ("90", "10", "多休息。"),
    ("77", "12", "多喝水。"),
    ("502", "7", "早睡。"),
    ("3", "10", "去医院。"),
]


def table(file, header, rows):
    with file.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows([header.split(","), *rows])


@pytest.fixture
def folder(tmp_path):
    """As published: train pairs right and wrong answers, dev lists a hundred; `cnt` is a place in that list."""
    made = tmp_path / "cMedQA2"
    made.mkdir()
    table(made / "question.csv", "question_id,content", QUESTIONS.items())
    table(made / "answer.csv", "ans_id,question_id,content", ANSWERS)
    pairs = [("10", right, wrong) for right in ("90", "3") for wrong in ("501", "77")]
    table(made / "train_candidates.txt", "question_id,pos_ans_id,neg_ans_id", pairs)
    wrong = [("7", str(1000 + at), at, 0) for at in range(98)]
    listed = [*wrong[:40], ("7", "501", 40, 1), *wrong[40:], ("7", "502", 99, 1)]
    table(made / "dev_candidates.txt", "question_id,ans_id,cnt,label", listed)
    return made


def test_all_answers_of_a_question_become_one_numbered_list(convert, folder):
    made = convert("--from", "cmedqa2", "--to", "instruct", "--data_path", folder)

    assert made.rows == [
        {"instruction": DOCTOR, "input": "病人：头痛怎么办？", "output": "1. 多休息。\n2. 去医院。"},
        {"instruction": DOCTOR, "input": "病人：失眠，\n“很久”了", "output": "1. 少喝咖啡。\n2. 早睡。"},
        {"instruction": DOCTOR, "input": "病人：咳嗽？", "output": "1. 多喝水。"},
    ]
    assert [(one["reason"], one["problem"]) for one in made.skipped] == [
        ("a question without an answer", "is question 30, which has no answer")
    ]
    assert "read      4 rows\n  usable    3\n  left out  1" in made.said


@pytest.mark.parametrize(("split", "asked"), [("train", ["头痛怎么办？"]), ("dev", ["失眠，\n“很久”了"])])
def test_a_part_has_the_questions_that_its_candidates_list(convert, folder, split, asked):
    made = convert("--from", "cmedqa2", "--to", "instruct", "--data_path", folder, "--split", split)

    assert [row["input"] for row in made.rows] == [f"病人：{one}" for one in asked]
    assert made.skipped == []


@pytest.mark.parametrize(
    ("how", "outputs"),
    [
        ("first", ["多休息。", "少喝咖啡。", "多喝水。"]),
        ("each", ["多休息。", "去医院。", "少喝咖啡。", "早睡。", "多喝水。"]),
    ],
)
def test_answers_can_be_taken_one_by_one(convert, folder, how, outputs):
    made = convert("--from", "cmedqa2", "--to", "instruct", "--data_path", folder, "--answers", how)

    assert [row["output"] for row in made.rows] == outputs
    assert "read      4 rows" in made.said


def test_the_three_ways_of_asking(convert, folder):
    none, mixed, again, own = (
        convert("--from", "cmedqa2", "--to", "instruct", "--data_path", folder, *more).rows
        for more in (
            ["--prompts", "none"],
            ["--prompts", "mixed", "--seed", 3],
            ["--prompts", "mixed", "--seed", 3],
            ["--instruction", "请回答。", "--asker", "问："],
        )
    )

    assert [(row["instruction"], row["input"]) for row in none] == [(QUESTIONS[i], "") for i in ("10", "7", "12")]
    assert mixed == again
    assert len({row["instruction"] for row in mixed}) > 1
    assert {row["instruction"] for row in own} == {"请回答。"}
    assert own[0]["input"] == "问：头痛怎么办？"


def test_rows_that_do_not_fit_together_are_explained(convert, folder):
    with (folder / "question.csv").open("a", encoding="utf-8") as file:
        file.write("10,又一次\n11, \n")
    with (folder / "answer.csv").open("a", encoding="utf-8") as file:
        file.write('90,10,又一次\n600,99,没有问题\n601,10,多休息。\n602,10,"a"b\n')
    made = convert("--from", "cmedqa2", "--to", "instruct", "--data_path", folder)

    assert sorted(one["reason"] for one in made.skipped) == [
        *("a question without an answer", "a question's id twice", "an answer without its question"),
        *("an answer's id twice", "content is empty", "not a row of the table"),
    ]
    # Equal words are one answer.
    assert made.rows[0]["output"] == "1. 多休息。\n2. 去医院。"
    assert "read      9 rows\n  usable    3\n" in made.said


def test_packed_tables_are_read_as_they_are_published(convert, folder):
    plain = convert("--from", "cmedqa2", "--to", "chat", "--data_path", folder, "--split", "dev").rows
    for file in list(folder.iterdir()):
        with zipfile.ZipFile(file.with_suffix(".zip"), "w") as packed:
            packed.write(file, file.name)
        file.unlink()

    assert convert("--from", "cmedqa2", "--to", "chat", "--data_path", folder, "--split", "dev").rows == plain
    (folder / "answer.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"answer\.zip is not a whole zip file"):
        convert("--from", "cmedqa2", "--to", "chat", "--data_path", folder)


@pytest.mark.parametrize(
    ("missing", "says"),
    [("answer.csv", r"has no answer\.csv, nor answer\.zip"), ("dev_candidates.txt", r"has no dev_candidates\.txt")],
)
def test_a_missing_table_is_named(convert, folder, missing, says):
    (folder / missing).unlink()

    with pytest.raises(UserError, match=says):
        convert("--from", "cmedqa2", "--to", "chat", "--data_path", folder, "--split", "dev")


def test_other_tables_and_files_are_refused(convert, folder):
    table(folder / "question.csv", "id,content", QUESTIONS.items())
    with pytest.raises(UserError, match="has the columns id, content; expected question_id, content"):
        convert("--from", "cmedqa2", "--to", "chat", "--data_path", folder)
    with pytest.raises(UserError, match=r"answer\.csv is no folder; expected the one with question\.csv"):
        convert("--from", "cmedqa2", "--to", "chat", "--data_path", folder / "answer.csv")


def test_a_candidate_of_no_question_is_explained(convert, folder):
    with (folder / "dev_candidates.txt").open("a", encoding="utf-8") as file:
        file.write("99,5,1,1\n98,5,1,0\n")
    made = convert("--from", "cmedqa2", "--to", "chat", "--data_path", folder, "--split", "dev")

    assert [(one["reason"], one["problem"]) for one in made.skipped] == [
        ("a candidate without its question", "lists question 99, which question.csv does not have")
    ]
