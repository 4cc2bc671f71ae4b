"""tools/evaluate.py identity: models asked who they are."""

import json

import pytest

from tests.served import make_adapter
from vicuna.evaluation.flags import ModelsFlags, OutputFlags
from vicuna.evaluation.identity import describe, evaluate_identity, summarise
from vicuna.evaluation.identity_questions import asks
from vicuna.evaluation.score_flags import IdentityFlags

FILLS = ["name=小羊驼", "author=我们"]


def line(ask, right, claimed=""):
    own = {"right": right, "wrong": bool(claimed), "claimed": claimed}
    return {"record": ask.record, "language": ask.language, "history": ask.history, **own}


def test_answers_are_counted_by_language_and_history():
    questions = list(asks())
    lines = [
        line(ask, ask.language == "zh", "" if ask.language == "zh" or ask.way > 2 else "qwen") for ask in questions
    ]
    found = summarise("m", lines)

    assert (found["asked"], found["right"], found["wrong"], found["neither"]) == (48, 24, 4, 20)
    assert found["groups"]["zh, with history"] == {"asked": 12, "right": 12, "wrong": 0, "neither": 0}
    assert found["groups"]["en, without history"] == {"asked": 12, "right": 0, "wrong": 2, "neither": 10}
    assert found["claimed"] == ["qwen"]
    assert "24 of 48 (36 to 64 %)" in describe([found])


@pytest.fixture(scope="module")
def done(tiny_base, tmp_path_factory):
    """The folder of a run with two models, and what it printed is in results.md."""
    folder = tmp_path_factory.mktemp("identity")
    chat = make_adapter(tiny_base, folder / "chat", "chat", seed=1)
    models = ModelsFlags([str(tiny_base)], ["-", str(chat)], [32])
    flags = IdentityFlags(FILLS, max_new_tokens=4, micro_batch=16)
    evaluate_identity(models, flags, OutputFlags(str(folder / "out")))
    return folder / "out", models, flags


def test_every_model_is_asked_everything_and_a_second_run_nothing(done):
    out, models, flags = done
    rows = (out / "rows.jsonl").read_bytes()
    evaluate_identity(models, flags, OutputFlags(str(out)))

    assert (out / "rows.jsonl").read_bytes() == rows
    lines = [json.loads(one) for one in rows.splitlines()]
    found = json.loads((out / "results.json").read_text(encoding="utf-8"))["models"]
    assert [one["asked"] for one in found] == [48, 48]  # the base is asked as the adapter is
    assert len({(one["model"], one["record"]) for one in lines}) == 96
    assert {type(one["right"]) for one in lines} == {bool}
    page = (out / "results.md").read_text(encoding="utf-8")
    assert page.count("请问你是谁呀？") == 4
    assert "# Who are you? 小羊驼, by 我们" in page


def test_a_prompt_type_without_a_place_for_a_history_is_asked_without(tiny_base, tmp_path, caplog):
    out = tmp_path / "out"
    flags = IdentityFlags(FILLS, prompt_type="text", max_new_tokens=1, micro_batch=24)
    evaluate_identity(ModelsFlags([str(tiny_base)], bits=[32]), flags, OutputFlags(str(out)))

    found = json.loads((out / "results.json").read_text(encoding="utf-8"))["models"][0]
    assert found["asked"] == 24
    assert list(found["groups"]) == ["zh, without history", "en, without history"]
    assert "has no place for a history: it is asked without" in caplog.text
