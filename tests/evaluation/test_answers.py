"""tools/evaluate.py answers: what each model says alone, whatever it is, and whatever interrupts the run."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.served import Server, assistant_of
from vicuna.answer.assistant import Assistant
from vicuna.answer.decoding import derive_seed, generation_kwargs
from vicuna.answer.flags import DecodingFlags
from vicuna.data.flags import ReadFlags
from vicuna.errors import Stopped, UserError
from vicuna.evaluation import answers
from vicuna.evaluation.flags import AnswersFlags, DecodingTableFlags, ModelsFlags, OutputFlags

SHORT = {"max_new_tokens": [10], "min_new_tokens": [3]}
ROWS = [
    {"instruction": "说出一种颜色。", "input": "", "category": "知识", "output": "红色。"},
    {"instruction": "请把下面的话说得短一点。", "input": "春天来了，花都开了，小河的水也涨了。", "category": "改写"},
    {"instruction": "你好", "category": "对话", "follow_ups": ["我叫小林，你呢？", "我叫什么？"]},
    {"instruction": "写两句诗。", "category": "改写", "settings": {"temperature": 0.9, "max_new_tokens": 6}},
    {"instruction": "| `a` <b> *c*", "category": ""},
]


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("questions") / "asked.jsonl"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS), encoding="utf-8")
    return file


def evaluate(folder: Path, models: list[tuple], data: Path, **more: Any) -> dict:
    """What results.json says; the lines under rows, by model and record."""
    given = {"micro_batch": 3, **more}
    flags = {name: given.pop(name) for name in list(given) if name in AnswersFlags.__dataclass_fields__}
    paths, loras = zip(*models, strict=True)
    answers.evaluate_answers(
        ModelsFlags(model_path=list(map(str, paths)), lora_path=list(map(str, loras)), bits=[32]),
        ReadFlags(data_path=[str(data)]),
        AnswersFlags(**flags),
        DecodingTableFlags(**{**SHORT, **given}),
        OutputFlags(output_path=str(folder)),
    )
    lines = [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return found | {"rows": {(line["model"], line["record"]): line for line in lines}, "folder": folder}


@pytest.fixture(scope="module")
def found(base, adapter, asked, tmp_path_factory) -> dict:
    names = ["alone", "adapted"]
    folder = tmp_path_factory.mktemp("found") / "answers"
    return evaluate(folder, [(base, "-"), (base, adapter)], asked, names=names, repetition_penalty=[1.0, 3.0])


def say(assistant: Assistant, messages: list[dict], number: int, **more: Any) -> str:
    """What the assistant says to it alone."""
    flags = DecodingFlags(**{"max_new_tokens": 10, "min_new_tokens": 3, **more})
    chosen = generation_kwargs(flags, assistant.engine.generation_config)
    seed = derive_seed(42, number - 1)
    *_, last = assistant.stream(assistant.prompt_ids(messages), chosen, seed, prompt_type=assistant.first.prompt_type)
    return last.text


def test_every_answer_is_the_one_to_the_question_alone(found, base, adapter):
    assistant = assistant_of(base, adapter)
    for penalty in (1.0, 3.0):
        of = {record: row for (model, record), row in found["rows"].items()
              if model == f"adapted, repetition_penalty {penalty}"}  # fmt: skip

        assert len(of) == 7
        for record, row in ((1, ROWS[0]), (2, ROWS[1]), (7, ROWS[4])):
            messages = [{"role": "user", "content": row["instruction"], "input": row.get("input", "")}]
            assert of[record]["answer"] == say(assistant, messages, record, repetition_penalty=penalty)
        own = {**ROWS[3]["settings"], "repetition_penalty": penalty}
        drawn = say(assistant, [{"role": "user", "content": ROWS[3]["instruction"]}], 6, **own)
        assert of[6]["answer"] == drawn
        messages = []
        for record, question in zip((3, 4, 5), ("你好", *ROWS[2]["follow_ups"]), strict=True):
            messages.append({"role": "user", "content": question})
            answer = of[record]["answer"]
            assert answer == say(assistant, messages, record, repetition_penalty=penalty)
            messages.append({"role": "assistant", "content": answer})
    columns = {one["model"]: [found["rows"][one["model"], i]["answer"] for i in range(1, 8)] for one in found["models"]}
    assert len({str(one) for one in columns.values()}) == 4  # neither model nor setting is without effect


def test_the_base_is_asked_as_the_adapter_was_trained_and_figures_are_counted(found):
    assert [one["model"] for one in found["models"]] == [
        f"{name}, repetition_penalty {penalty}" for name in ("alone", "adapted") for penalty in (1.0, 3.0)
    ]
    assert {one["prompt_type"] for one in found["models"]} == {"instruct"}
    for one in found["models"]:
        lines = [row for (model, _), row in found["rows"].items() if model == one["model"]]
        assert one["answers"] == len(lines) == 7
        assert one["empty"] == sum(not row["answer"].strip() for row in lines)
        assert one["cut"] == sum(row["finish_reason"] == "length" for row in lines) > 0
        assert one["settings"]["max_new_tokens"] == 10
    assert found["rows"]["alone, repetition_penalty 1.0", 1]["reference"] == "红色。"


def test_the_page_lays_answers_side_by_side_with_the_settings_of_a_question(found):
    page = (found["folder"] / "results.md").read_text(encoding="utf-8")

    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## 知识",
        "## 改写",
        "## 对话",
        "## others",
    ]
    heads = [line for line in page.splitlines() if line.startswith("| question")]
    assert ["settings" in line for line in heads] == [False, True, False, False]
    assert "| temperature 0.9, max 6 |" in page
    assert page.count("| ↳ ") == 2
    assert r"| \| \`a\` &lt;b> \*c\* |" in page
    assert "Seed 42" in page
    assert all(line.count(" | ") == 4 for line in page.split("## 知识")[1].splitlines()[2:5:2])


def test_many_columns_stand_below_each_other(base, asked, tmp_path):
    penalties = [1.0, 1.2, 1.4, 1.6, 1.8]
    data = evaluate(tmp_path, [(base, "-")], asked, names=["b"], repetition_penalty=penalties)
    page = (tmp_path / "results.md").read_text(encoding="utf-8")

    assert len(data["models"]) == 5
    assert page.count("| b, repetition\\_penalty 1.2 |") == 7
    assert "| question | model | answer |" in page
    assert "| question | settings | model | answer |" in page


def test_a_run_that_was_stopped_goes_on_to_the_same_answers(found, base, adapter, asked, tmp_path, monkeypatch):
    """Also from within a batch, and between the turns of a dialogue."""
    begun, made = [], Assistant.answer

    def interrupted(self, *args):
        begun.append(1)
        if len(begun) == 4:
            raise KeyboardInterrupt
        return made(self, *args)

    how = {"names": ["alone", "adapted"], "repetition_penalty": [1.0, 3.0]}
    with monkeypatch.context() as patched:
        patched.setattr(Assistant, "answer", interrupted)
        with pytest.raises(Stopped, match=r"\d of 28 answers are there in .*rows\.jsonl; the same command goes on"):
            evaluate(tmp_path, [(base, "-"), (base, adapter)], asked, **how)
    lines = (tmp_path / "rows.jsonl").read_bytes().splitlines(keepends=True)
    assert 3 < len(lines) < 7
    (tmp_path / "rows.jsonl").write_bytes(b"".join(lines[:-2]))

    again = evaluate(tmp_path, [(base, "-"), (base, adapter)], asked, **how)

    assert again["models"] == found["models"]
    assert {key: row["answer"] for key, row in again["rows"].items()} == {
        key: row["answer"] for key, row in found["rows"].items()
    }
    monkeypatch.setattr(Assistant, "answer", None)  # all is there: nothing is asked, and no weight is read
    assert evaluate(tmp_path, [(base, "-"), (base, adapter)], asked, **how)["models"] == found["models"]


def test_a_gguf_a_server_and_the_checkpoints_of_a_run_answer_too(
    base, adapter, ggufs, asked, tmp_path, monkeypatch, found
):
    import shutil

    for step in (20, 3):
        shutil.copytree(adapter, tmp_path / f"run/checkpoint-{step}")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assistant = assistant_of(base, adapter)
    server = Server(assistant)
    try:
        served = f"http://{server.address}/v1#{adapter.name}"
        models = [(ggufs["f32"], "-"), (served, "-")]
        data = evaluate(tmp_path / "a", models, asked, names=["gguf", "served"], repetition_penalty=[1.0])
        with pytest.raises(UserError, match="refuses the request: status 404"):
            evaluate(tmp_path / "b", [(f"http://{server.address}/v1#other", "-")], asked)
    finally:
        server.close()
    with pytest.raises(UserError, match=r"4 questions got no answer from http.*#a; the same command asks them again"):
        evaluate(tmp_path / "d", [(served.replace(adapter.name, "a"), "-")], asked, retries=0)
    spread = evaluate(tmp_path / "c", [(base, f"{tmp_path}/run/checkpoint-*")], asked, repetition_penalty=[1.0])

    def greedy(rows: dict, model: str, records: tuple = (1, 2, 3, 4, 5, 7)) -> list[str]:
        return [rows[model, record]["answer"] for record in records]

    alone, adapted = (greedy(found["rows"], f"{name}, repetition_penalty 1.0") for name in ("alone", "adapted"))
    assert greedy(data["rows"], "gguf") == alone
    of_messages = (1, 3, 4, 5, 7)  # OpenAI's have no place of its own for the input that 2 has
    assert greedy(data["rows"], "served", of_messages) == greedy(
        found["rows"], "adapted, repetition_penalty 1.0", of_messages
    )
    assert data["rows"]["served", 6]["settings"] == {
        "temperature": 0.9, "max_tokens": 6, "extra_body": {"repetition_penalty": 1.0, "min_tokens": 3},
    }  # fmt: skip
    steps = [f"{base} + {tmp_path}/run/checkpoint-{step}" for step in (3, 20)]
    assert [one["model"] for one in spread["models"]] == steps
    assert all(greedy(spread["rows"], one) == adapted for one in steps)


def test_another_command_in_the_same_folder_is_told_what_differs(found, base, adapter, asked):
    models = [(base, "-"), (base, adapter)]
    how = {"names": ["alone", "adapted"], "repetition_penalty": [1.0, 3.0]}

    with pytest.raises(UserError, match="28 rows of another command: --max_new_tokens was 10, now 9"):
        evaluate(found["folder"], models, asked, **how, max_new_tokens=[9])
    with pytest.raises(
        UserError, match=r"--repetition_penalty was 1\.0 3\.0 1\.0 3\.0, now 1\.0; --seed was 42, now 1"
    ):
        evaluate(found["folder"], models, asked, **{**how, "repetition_penalty": [1.0]}, seed=1)
    with pytest.raises(UserError, match="alone is another one; adapted is another one"):
        evaluate(found["folder"], models[::-1], asked, **how)


def test_the_tables_go_into_pages_of_both_languages(base, asked, tmp_path):
    pages = {language: tmp_path / f"{language}.md" for language in ("en", "zh")}
    for language, page in pages.items():
        page.write_text(f"# T\n\n<!-- answers {language} -->\nold\n<!-- /answers -->\nend\n", encoding="utf-8")

    evaluate(tmp_path / "a", [(base, "-")], asked, names=["b"], into=[str(page) for page in pages.values()])

    english, chinese = (page.read_text(encoding="utf-8") for page in pages.values())
    assert english.startswith("# T\n\n<!-- answers en -->\n\n| model")
    assert english.endswith("\n<!-- /answers -->\nend\n")
    assert "old" not in english
    assert "| 问题 | 设置 | b |" in chinese
    with pytest.raises(UserError, match=r"--into .*asked\.jsonl has no place for the tables"):
        evaluate(tmp_path / "b", [(base, "-")], asked, into=[str(asked)])


def test_what_can_not_be_asked_is_refused_before_a_model_is_read(base, adapter, asked, tmp_path, monkeypatch):
    from vicuna.answer.loading import Checked

    monkeypatch.setattr(Checked, "load", None, raising=False)

    def refused(row: dict | None = None, model: object = base, lora: object = "-", **more: Any) -> str:
        file = asked
        if row:
            file = tmp_path / "row.jsonl"
            file.write_text(json.dumps(row), encoding="utf-8")
        with pytest.raises(UserError) as error:
            evaluate(tmp_path / "a", [(model, lora)], file, **more)
        return str(error.value)

    one = {"instruction": "一"}
    assert "settings has 'beams'; expected an object with preset" in refused({**one, "settings": {"beams": 2}})
    assert "settings.top_p is '1'" in refused({**one, "settings": {"top_p": "1"}})
    assert "--temperature 11 is out of range" in refused({**one, "settings": {"temperature": 11}})
    assert "do_sample False does not draw" in refused({**one, "settings": {"top_p": 0.5}}, do_sample=False)
    assert "follow_ups is 'a'; expected a list" in refused({**one, "follow_ups": "a"})
    system = {"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]}
    assert "a system message, for which --prompt_type instruct has no place" in refused(system)
    assert "--names has 2 names, and there are 1 models" in refused(names=["a", "b"])
    assert "names no model there: put it behind a #" in refused(model="http://127.0.0.1:1/v1")
    assert "is an address, which has its own" in refused(model="http://127.0.0.1:1/v1#a", lora=adapter)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert "OPENAI_API_KEY is not set" in refused(model="https://api.example.com/v1#a")
    assert not (tmp_path / "a").exists()
    with pytest.raises(UserError, match="--preset slow is unknown"):
        DecodingTableFlags(preset=["slow"])


def test_a_question_that_fills_the_context_has_no_answer_and_is_counted(base, tmp_path):
    file = tmp_path / "long.jsonl"
    rows = [{"instruction": "春天来了。" * 200}, {"instruction": "你好"}]
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")

    data = evaluate(tmp_path / "a", [(base, "-")], file, names=["b"])

    assert data["models"][0]["no_room"] == 1
    assert data["rows"]["b", 1]["finish_reason"] == "no room"
    assert data["rows"]["b", 2]["answer"]
