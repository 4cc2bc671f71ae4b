"""tools/evaluate.py choice: planted answers score what was planted, however they are asked, and a run goes on."""

import importlib.util
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.exams.planting import write_jsonl
from vicuna.errors import Stopped, UserError
from vicuna.evaluation.flags import ModelsFlags, OutputFlags
from vicuna.evaluation.runners import HFRunner
from vicuna.evaluation.score_flags import VerdictFlags
from vicuna.evaluation.verdict import give_verdict
from vicuna.exams import choice
from vicuna.exams.flags import ChoiceFlags
from vicuna.prompt.tokenizer import TextTokenizer

_log_probs = HFRunner.log_probs


def evaluate(folder: Path, data: Path, *model_path: Path, **flags: Any) -> dict:
    """What results.json says."""
    models = ModelsFlags(model_path=list(map(str, model_path)), bits=[32])
    output = OutputFlags(output_path=str(folder), overwrite=flags.pop("overwrite", False))
    choice.evaluate_choice(models, ChoiceFlags(data_path=str(data), **flags), output)
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("style", ["published", "lm-eval"])
@pytest.mark.parametrize(("num_fewshot", "micro_batch"), [(0, 1), (0, 3), (0, 64), (5, 1), (5, 8)])
def test_planted_answers_score_exactly_what_was_planted(planted, cmmlu, tmp_path, style, num_fewshot, micro_batch):
    data = evaluate(tmp_path, cmmlu, planted, style=style, num_fewshot=num_fewshot, micro_batch=micro_batch)

    (model,) = data["models"]
    scores = {name: (one["questions"], one["score"]) for name, one in model["subjects"].items()}
    assert scores == {"agronomy": (8, 75.0), "anatomy": (4, 25.0), "virology": (2, 0.0)}
    assert model["average_over_subjects"]["score"] == pytest.approx(100 / 3)
    assert model["average_over_questions"]["score"] == pytest.approx(100 * 7 / 14)
    assert model["average_over_questions"]["chance"] == 25.0
    assert model["average_over_questions"]["dropped"] == 0
    assert model["average_over_questions"]["shots"] == 14 * num_fewshot
    assert len(data["subjects"]) == 3
    assert data["published_subjects"] == 67
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "3 of the 67 published subjects were asked; not ancient_chinese, arts" in page
    assert "| 33.33            | 50.00" in page


def test_what_does_not_fit_loses_whole_examples_and_is_counted(planted, cmmlu, tmp_path, caplog):
    from vicuna.exams.ids import Encoder
    from vicuna.exams.layouts import read_suite
    from vicuna.exams.prompts import Style
    from vicuna.exams.tasks import ChoiceTask, known_subjects

    length = 160
    encoder = Encoder(TextTokenizer(planted), "text", length)
    suite, style = read_suite(cmmlu), Style("CMMLU", True)
    shown = []
    for subject in suite.subjects:
        task = ChoiceTask("CMMLU", subject, style, known_subjects("CMMLU"), 5)
        for doc in task.eval_docs:
            text, shots = task.fitting(doc, encoder)
            assert text == task.fewshot_context(doc, shots)
            assert text.startswith("以下是关于")
            assert len(encoder.context(text)) <= length < len(encoder.context(task.fewshot_context(doc, shots + 1)))
            shown.append(shots)

    data = evaluate(tmp_path, cmmlu, planted, num_fewshot=5, cutoff_len=length)

    (model,) = data["models"]
    assert 0 < sum(shown) < 5 * 14
    assert model["average_over_questions"]["shots"] == sum(shown)
    assert model["average_over_questions"]["dropped"] == 5 * 14 - sum(shown)
    assert model["average_over_questions"]["score"] == 50.0
    assert f"{5 * 14 - sum(shown)} of 70 examples are dropped, the last ones first" in caplog.text
    with pytest.raises(UserError, match="--cutoff_len 20 leaves no question room"):
        evaluate(tmp_path / "a", cmmlu, planted, cutoff_len=20)


def test_a_question_without_room_for_one_model_counts_for_none(planted, cmmlu, tiny_base, tmp_path):
    """Of models side by side, the smallest context is everybody's."""
    whole = evaluate(tmp_path / "a", cmmlu, planted)
    lengths = [json.loads(line)["tokens"] for line in (tmp_path / "a/rows.jsonl").read_text().splitlines()]
    cut = sorted(lengths)[6]

    data = evaluate(tmp_path / "b", cmmlu, planted, tiny_base, cutoff_len=cut)

    there = sum(length <= cut for length in lengths)
    assert 0 < there < 14
    assert (data["questions"], data["without_room"]) == (there, 14 - there)
    assert [model["average_over_questions"]["questions"] for model in data["models"]] == [there, there]
    assert whole["without_room"] == 0


def test_a_verdict_compares_two_models_question_by_question(planted, cmmlu, tiny_base, tmp_path, capsys):
    names = [one["model"] for one in evaluate(tmp_path, cmmlu, planted, tiny_base)["models"]]

    assert give_verdict(VerdictFlags(str(tmp_path), str(tmp_path), *names)) in (0, 1, 3)
    assert re.search(r"score 0\.5000 -> .* on 14 questions \(more is better\)", capsys.readouterr().out)


def test_lm_eval_itself_finds_the_same(planted, cmmlu, tmp_path):
    """lm_eval.evaluate asks our model about our tasks; and its own task of CMMLU puts a question as --style lm-eval."""
    from datasets import Dataset
    from lm_eval import evaluator
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager

    from vicuna.evaluation.candidates import find_candidate
    from vicuna.evaluation.journal import open_journal
    from vicuna.exams import tasks
    from vicuna.exams.ids import Encoder
    from vicuna.exams.layouts import read_suite
    from vicuna.exams.lm import NAMES, ChoiceLM
    from vicuna.exams.prompts import Style

    suite, known = read_suite(cmmlu), tasks.known_subjects("CMMLU")
    made = {one.name: tasks.ChoiceTask("CMMLU", one, Style("CMMLU", False), known, 2) for one in suite.subjects}
    candidate = find_candidate(str(planted), "", 32)
    encoder = Encoder(candidate.tokenizer, "text", 512)
    shots = {(name, doc["name"]): (2, 0) for name, task in made.items() for doc in task.eval_docs}
    with open_journal(OutputFlags(output_path=str(tmp_path)), "choice", NAMES, {}, {}) as journal:
        lm = ChoiceLM("m", encoder, lambda: candidate.open(512).runner, journal, shots, 4)
        found = evaluator.evaluate(lm, made, bootstrap_iters=0)
    assert {name: one["acc,none"] for name, one in found["results"].items()} == {
        "agronomy": 0.75, "anatomy": 0.25, "virology": 0.0,
    }  # fmt: skip

    folder = Path(tasks.lm_eval.__file__).parent / "tasks/cmmlu"
    config = TaskManager(include_path=folder, include_defaults=False).task_index["cmmlu_agronomy"].cfg
    subject = suite.subjects[0]

    def rows(of: list) -> Dataset:
        return Dataset.from_list([
            {"Question": one.stem, "Answer": one.right, **dict(zip("ABCD", one.options, strict=True))} for one in of
        ])  # fmt: skip

    data = {"test": rows(subject.questions), "dev": rows(subject.examples)}
    theirs = ConfigurableTask(config={**config, "custom_dataset": lambda **kwargs: data, "dataset_path": None})
    for doc, own in zip(theirs.eval_docs, made["agronomy"].eval_docs, strict=True):
        text = theirs.fewshot_context(doc, 2)
        assert text == made["agronomy"].fewshot_context(own, 2)
        asked = [one.args for one in theirs.construct_requests(doc, text)]
        assert asked == [one.args for one in made["agronomy"].construct_requests(own, text)]


def test_a_model_gets_bos_and_the_first_piece_as_it_was_trained(planted, cmmlu, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        HFRunner, "log_probs", lambda self, rows, counts: asked.extend(rows) or _log_probs(self, rows, counts)
    )

    evaluate(tmp_path, cmmlu, planted, subjects=["virology"])

    tokenizer = TextTokenizer(planted)
    text = "以下是关于病毒学的单项选择题，请直接给出正确答案的选项。\n\n题目：第"
    begin = [tokenizer.bos_id, *tokenizer.encode(text)]
    assert len(asked) == 2  # a pass for each question, not for each option
    for row in asked:
        assert list(row[: len(begin) - 1]) == begin[:-1]
        assert tokenizer.decode_continuation(list(row)).endswith("\nD. 其四\n答案是：")


def test_a_run_that_was_stopped_goes_on_to_the_same_results(planted, cmmlu, tmp_path, monkeypatch):
    whole = evaluate(tmp_path / "whole", cmmlu, planted)
    asked = []

    def interrupted(self: HFRunner, rows: list, counts: list) -> list:
        asked.append(len(rows))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return _log_probs(self, rows, counts)

    monkeypatch.setattr(HFRunner, "log_probs", interrupted)
    with pytest.raises(Stopped, match=r"8 of 14 questions are answered in .*rows\.jsonl; the same command goes on"):
        evaluate(tmp_path / "a", cmmlu, planted, micro_batch=4)

    again = evaluate(tmp_path / "a", cmmlu, planted, micro_batch=4)

    assert asked == [4, 4, 4, 4, 2]
    assert again["models"] == whole["models"]
    monkeypatch.setattr("vicuna.evaluation.candidates.load_assistant", None)  # nothing is left to be asked
    assert evaluate(tmp_path / "a", cmmlu, planted)["models"] == whole["models"]
    with pytest.raises(UserError, match="--num_fewshot was 0, now 5"):
        evaluate(tmp_path / "a", cmmlu, planted, num_fewshot=5)


def test_options_that_tie_share_the_point(planted, cmmlu, tiny_base, tmp_path):
    """A model whose weights are all zero knows nothing, and says so."""
    from safetensors.torch import load_file, save_file

    silent = shutil.copytree(planted, tmp_path / "silent")
    weights = load_file(silent / "model.safetensors")
    weights["lm_head.weight"].zero_()
    save_file(weights, silent / "model.safetensors", metadata={"format": "pt"})

    data = evaluate(tmp_path / "a", cmmlu, silent)

    found = data["models"][0]["average_over_questions"]
    assert (found["score"], found["tied"], found["beyond_chance"]) == (25.0, 14, False)


def test_several_right_answers_are_any_of_them_or_exactly_their_set(planted, tiny_base, tmp_path):
    from tests.exams.planting import question

    tokenizer = TextTokenizer(tiny_base)

    def row(says: str, label: Any) -> dict:
        options = [f"({one}) 其{one}" for one in "ABCD"]
        return {"passage": None, "question": question(tokenizer, says, 1), "options": options, "label": label}

    rows = [row("A", ["A", "C"]), row("B", "A B D"), row("C", "AB"), row("D", ["D"]), row("A", [])]
    (tmp_path / "agieval").mkdir()
    write_jsonl(tmp_path / "agieval/jec-qa-kd.jsonl", *rows)
    data = evaluate(tmp_path / "any", tmp_path / "agieval", planted)

    found = data["models"][0]["average_over_questions"]
    assert (data["questions"], data["several_right"]) == (4, 3)
    assert data["left_out"] == {"no right answer is given": 1}
    assert found["chance"] == pytest.approx(100 * (2 + 3 + 2 + 1) / 16)
    assert "3 questions have several right answers: any of them counts." in (tmp_path / "any/results.md").read_text()

    data = evaluate(tmp_path / "exact", tmp_path / "agieval", planted, several="exact")

    found = data["models"][0]["average_over_questions"]
    assert found["chance"] == pytest.approx(100 / 15)
    lines = [json.loads(line) for line in (tmp_path / "exact/rows.jsonl").read_text().splitlines()]
    assert all(len(line["log_likelihoods"]) == 15 for line in lines)
    rights = {line["question"]: line["right"] for line in lines}
    assert rights == {"1": [5], "2": [11], "3": [4], "4": [3]}  # AC, ABD, AB, D among A … ABCD
    # The model ends no line by itself, so no set of one letter is likelier for it than the letter with others.
    assert "exactly their set counts" in (tmp_path / "exact/results.md").read_text()


def test_what_can_not_be_asked_is_refused_before_a_model_is_read(planted, cmmlu, tmp_path, monkeypatch):
    monkeypatch.setattr("vicuna.evaluation.candidates.load_assistant", None)

    def refused(data: Path = cmmlu, **flags: Any) -> str:
        with pytest.raises(UserError) as error:
            evaluate(tmp_path / "a", data, planted, **flags)
        return str(error.value)

    assert "--num_fewshot 6: agronomy has 5 examples" in refused(num_fewshot=6)
    assert "--subjects physics is not in" in refused(subjects=["physics"])
    assert "--split val is for C-Eval" in refused(split="val")
    assert "--cutoff_len 1024 is longer than the context" in refused(cutoff_len=1024)
    assert "is neither C-Eval" in refused(data=planted)
    assert "is no folder" in refused(data=tmp_path / "gone")
    with pytest.raises(UserError, match="--data_path is missing"):
        ChoiceFlags()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "needs lm-eval, which is not installed: bash scripts/install_eval.sh" in refused()
    assert not (tmp_path / "a").exists()


def test_a_base_without_pieces_for_the_letters_is_refused(shared, cmmlu, tmp_path):
    with pytest.raises(UserError, match=r"poem-zh-750k-hf has no pieces for the letters A to D: .*every option ties"):
        evaluate(tmp_path, cmmlu, shared / "models/poem-zh-750k-hf")


def test_a_small_model_is_at_chance_on_real_questions_twice(shared, tmp_path):
    """stories260K knows no Chinese; the examples that have no room in its 512 tokens are counted."""
    asked = {"subjects": ["agronomy", "college_mathematics", "virology"], "limit": 8, "num_fewshot": 2}
    model = shared / "models/stories260K-hf"

    one, two = (evaluate(tmp_path / name, shared / "eval/cmmlu", model, **asked) for name in "ab")

    assert one["models"] == two["models"]
    found = one["models"][0]["average_over_questions"]
    assert found["beyond_chance"] is False
    assert found["questions"] + one["without_room"] == 24
    assert found["dropped"] > 0
    assert Counter(json.loads(line)["shots"] for line in (tmp_path / "a/rows.jsonl").read_text().splitlines())[0] > 0
