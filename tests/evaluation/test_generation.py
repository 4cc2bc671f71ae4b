"""tools/evaluate.py generation: answers in files against their references."""

import json

import pytest

from vicuna.errors import UserError
from vicuna.evaluation.flags import OutputFlags
from vicuna.evaluation.generation import evaluate_generation
from vicuna.evaluation.score_flags import GenerationFlags
from vicuna.evaluation.text_metrics import NEEDS

pytest.importorskip("sacrebleu", reason=NEEDS)
pytest.importorskip("rouge_score", reason=NEEDS)


def answers(file, said, references, **more):
    rows = [
        {"row": n, "record": {"instruction": f"问题{n}", "output": ref}, "answer": answer, "reference": ref, **more}
        for n, (answer, ref) in enumerate(zip(said, references, strict=True), 1)
    ]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def results(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_models_stand_side_by_side_and_a_second_run_computes_nothing_anew(tmp_path, capsys):
    references = ["北京是首都。", "水在零度结冰。", None]
    first = answers(tmp_path / "a.jsonl", ["北京是首都。", "水结冰。", "没有参考"], references)
    second = answers(tmp_path / "b.jsonl", ["", "水在零度结冰。", "没有参考"], references)
    flags, out = GenerationFlags([first, second]), tmp_path / "out"
    evaluate_generation(flags, OutputFlags(str(out)))
    shown, written = capsys.readouterr().out, results(out)
    rows = (out / "rows.jsonl").read_bytes()
    evaluate_generation(flags, OutputFlags(str(out)))

    assert [one["rows"] for one in written["models"]] == [2, 2]
    assert [one["means"]["exact"] for one in written["models"]] == [50, 50]
    assert [one["empty"] for one in written["models"]] == [0, 1]
    assert (out / "rows.jsonl").read_bytes() == rows
    assert results(out) == written
    assert capsys.readouterr().out == shown
    page = (out / "results.md").read_text(encoding="utf-8")
    assert shown.strip() in page
    assert written["signatures"]["bleu"] in page


def test_a_run_that_was_cut_goes_on(tmp_path):
    file = answers(tmp_path / "a.jsonl", ["一二三", "四五六"], ["一二三", "四五"])
    flags, out = GenerationFlags([file]), tmp_path / "out"
    evaluate_generation(flags, OutputFlags(str(out)))
    whole, rows = results(out), (out / "rows.jsonl").read_bytes()
    (out / "rows.jsonl").write_bytes(rows[:-20])
    evaluate_generation(flags, OutputFlags(str(out)))

    assert (out / "rows.jsonl").read_bytes() == rows
    assert results(out) == whole


def test_answers_under_other_names_are_found(tmp_path):
    file = tmp_path / "other.jsonl"
    file.write_text('{"row": 1, "response": "好的", "target": "好的"}\n', encoding="utf-8")
    evaluate_generation(GenerationFlags([str(file)], "response", "target"), OutputFlags(str(tmp_path / "out")))

    assert results(tmp_path / "out")["models"][0]["means"]["exact"] == 100


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", "holds no answers"),
        ("no json", r"a\.jsonl is not JSON"),
        ('{"row": 1, "text": "a"}', "line 1 has no text in answer; it has row, text. Name its field by --answer_field"),
        ('{"answer": "a", "reference": "b"}', "line 1 has no number in row or record"),
        ('{"row": 1, "answer": "a"}', "has no reference: answer records that have an answer of their own"),
        ('{"row": 1, "answer": "a"}\n{"row": 1, "answer": "b"}', "answers a record twice"),
    ],
)
def test_files_that_can_not_be_scored_are_refused(tmp_path, lines, said):
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")

    with pytest.raises(UserError, match=said):
        evaluate_generation(GenerationFlags([str(tmp_path / "a.jsonl")]), OutputFlags(str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_models_that_were_asked_other_questions_are_refused(tmp_path):
    first = answers(tmp_path / "a.jsonl", ["甲"], ["甲"])
    second = answers(tmp_path / "b.jsonl", ["甲"], ["乙"])

    with pytest.raises(UserError, match=r"record 1 has one reference in .*a.jsonl and another in .*b.jsonl"):
        evaluate_generation(GenerationFlags([first, second]), OutputFlags(str(tmp_path / "out")))
    with pytest.raises(UserError, match="--answers is missing"):
        GenerationFlags([])
    with pytest.raises(UserError, match=r"--answers names .*a.jsonl twice"):
        evaluate_generation(GenerationFlags([first, first]), OutputFlags(str(tmp_path / "out")))
