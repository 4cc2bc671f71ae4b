"""Files of questions answered: as each is answered alone, in the file's order, and nothing of it by another run."""

import gzip
import json
import shutil

import pytest
import torch

from tests.answer.adapters import loaded
from tests.answer.modes import BARE
from tests.answer.predicting import COUNT, SHORT, facts_of, lines_of, predict, questions
from vicuna.answer import loading
from vicuna.answer.decoding import derive_seed, generation_kwargs
from vicuna.answer.flags import DecodingFlags
from vicuna.errors import UserError
from vicuna.files.row_lines import FACTS

DRAWN = {"preset": "creative", "seed": 11}
MODES = {"greedy": {}, "sampling": DRAWN, "beam search": {"num_beams": 3}}


@pytest.fixture
def asked(tmp_path):
    return questions(tmp_path / "q.jsonl")


def refused(says: str, *argv, **more) -> None:
    with pytest.raises(UserError, match=says):
        predict(*argv, **more)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["base", "lora.v1.0"])
def test_a_record_gets_the_answer_that_it_gets_alone(tiny_base, adapters, asked, tmp_path, kind, mode):
    lora = [] if kind == "base" else [adapters[kind]]
    found = predict(tiny_base, asked, tmp_path / "a.jsonl", *lora, **MODES[mode])

    model = loaded(tiny_base, lora, cache_gib=0)
    chosen = generation_kwargs(DecodingFlags(**SHORT, **MODES[mode]), BARE)
    assert [line["row"] for line in found] == [line["line"] for line in found] == list(range(1, COUNT + 1))
    assert [line["record"] for line in found] == lines_of(asked)
    for line in found:
        ids = model.prompt_ids([{"role": "user", "content": line["record"]["instruction"]}])
        *_, last = model.stream(ids, chosen, derive_seed(MODES[mode].get("seed"), line["row"] - 1))
        assert line["answer"] == last.text
        assert (line["prompt_tokens"], line["completion_tokens"]) == (len(ids), last.tokens)
        assert line["finish_reason"] == ("length" if last.finish == "length" else "stop")
        assert line["reference"] == (line["record"]["output"] or None)
    assert list(found[0]) == [
        *("row", "line", "record", "reference", "answer", "prompt_tokens", "completion_tokens", "finish_reason")
    ]


@pytest.mark.parametrize("micro_batch", [1, 3, 50])
def test_the_size_of_batches_changes_no_answer(tiny_base, asked, tmp_path, micro_batch):
    usual = predict(tiny_base, asked, tmp_path / "usual.jsonl", **DRAWN)
    assert predict(tiny_base, asked, tmp_path / "a.jsonl", micro_batch=micro_batch, **DRAWN) == usual


def test_dialogues_are_answered_behind_their_earlier_turns(tiny_base, adapters, tmp_path):
    turns = [("user", "你好"), ("assistant", "你好！"), ("user", "再见"), ("assistant", "再见！")]
    talk = [{"role": role, "content": content} for role, content in turns]
    file = tmp_path / "q.jsonl"
    file.write_text("".join(json.dumps({"messages": talk[:n]}) + "\n" for n in (3, 4, 1)), encoding="utf-8")

    found = predict(tiny_base, file, tmp_path / "a.jsonl", adapters["lora.v1.0"])  # trained with chat

    model = loaded(tiny_base, [adapters["lora.v1.0"]], cache_gib=0)
    ids = model.prompt_ids(talk[:3])
    *_, last = model.stream(ids, generation_kwargs(DecodingFlags(**SHORT), BARE))
    assert [line["reference"] for line in found] == [None, "再见！", None]
    assert found[0]["answer"] == found[1]["answer"] == last.text != found[2]["answer"]
    assert found[0]["prompt_tokens"] == len(ids)


def test_several_files_of_several_kinds_are_told_apart(tiny_base, tmp_path):
    (tmp_path / "a.csv").write_text("id,q\n7,一年有几个季节？\n", encoding="gb18030")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress('{"q": "再见", "id": 8}\n'.encode()))
    paths = [tmp_path / "a.csv", tmp_path / "b.jsonl.gz"]

    found = predict(tiny_base, paths, tmp_path / "out/a.jsonl", fields=["instruction=q"])

    assert [(one["row"], one["file"], one["line"]) for one in found] == [(1, str(paths[0]), 2), (2, str(paths[1]), 1)]
    assert [one["record"] for one in found] == [{"id": "7", "q": "一年有几个季节？"}, {"q": "再见", "id": 8}]


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_every_precision_answers_and_goes_on_as_it_would_have(tiny_base, adapters, asked, tmp_path, bits):
    straight = predict(tiny_base, asked, tmp_path / "a.jsonl", adapters["all"], bits=bits, **DRAWN)
    assert len({line["answer"] for line in straight}) > COUNT / 2
    keep_lines(tmp_path, straight, [3, 8])
    assert predict(tiny_base, asked, tmp_path / "a.jsonl", adapters["all"], bits=bits, **DRAWN) == straight


def test_a_gguf_file_answers_and_goes_on_as_it_would_have(exported, shared, tmp_path):
    file = tmp_path / "q.jsonl"
    file.write_text("".join(f'{{"text": "题：{word}\\n"}}\n' for word in "春夏秋冬雨"), encoding="utf-8")
    base, decoding = exported("poem-zh-750k"), {"preset": "balanced", "seed": 3, "max_new_tokens": 30}

    straight = predict(base, file, tmp_path / "a.jsonl", **decoding)

    assert len({line["answer"] for line in straight}) == 5
    keep_lines(tmp_path, straight, [2, 4])
    assert predict(base, file, tmp_path / "a.jsonl", **decoding) == straight
    refused("--num_beams 2 is beam search, which llama.cpp", base, file, tmp_path / "b.jsonl", num_beams=2)


def keep_lines(folder, lines: list[dict], rows: list[int]) -> None:
    """As if the run had ended behind the lines of these rows."""
    kept = {line["row"]: json.dumps(line, ensure_ascii=False) + "\n" for line in lines}
    (folder / "a.jsonl").write_text("".join(kept[row] for row in rows), encoding="utf-8")


def test_without_a_seed_a_run_goes_on_with_the_one_it_drew(tiny_base, asked, tmp_path):
    straight = predict(tiny_base, asked, tmp_path / "a.jsonl", preset="creative")
    seed = facts_of(tmp_path / "a.jsonl")["compared"]["seed"]
    assert 0 <= seed < 2**32
    keep_lines(tmp_path, straight, [14, 2])
    assert predict(tiny_base, asked, tmp_path / "a.jsonl", preset="creative") == straight
    keep_lines(tmp_path, straight, [1])
    assert predict(tiny_base, asked, tmp_path / "a.jsonl", preset="creative", seed=seed) == straight
    assert predict(tiny_base, asked, tmp_path / "b.jsonl", preset="creative") != straight


def test_what_is_answered_is_not_answered_again(tiny_base, asked, tmp_path):
    straight = predict(tiny_base, asked, tmp_path / "a.jsonl")
    before = (tmp_path / "a.jsonl").stat()
    passes = []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: passes.append(1))
    assert predict(tiny_base, asked, tmp_path / "a.jsonl") == straight
    handle.remove()
    assert passes == []
    assert (tmp_path / "a.jsonl").stat().st_ino == before.st_ino


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bits": 16}, "--bits was 32, now 16. Go on as it was begun, or name a new file"),
        ({"prompt_type": "chat"}, "--prompt_type was instruct, now chat"),
        ({"max_new_tokens": 11}, r"--max_new_tokens was 10, now 11"),
        ({"context": 400}, "--context was 512, now 400"),
        ({"preset": "balanced"}, "--do_sample was False, now True; --temperature was none, now 0.7"),
        ({"lora": "all"}, "--lora_path is another one"),
        ({"lora": ""}, "--lora_path is another one"),
        ({"fields": ["instruction=id"]}, "--fields was none, now instruction=id"),
        ({"encoding": "latin-1"}, "--encoding was utf-8, now latin-1"),
    ],
)
def test_answers_that_came_about_otherwise_are_named_and_stay(tiny_base, adapters, asked, tmp_path, change, says):
    output = tmp_path / "a.jsonl"
    keep_lines(tmp_path, predict(tiny_base, asked, output, adapters["whole"]), [4, 2])
    before = output.read_bytes(), (tmp_path / f"a.jsonl{FACTS}").read_bytes()
    lora = {"": "", "all": adapters["all"]}.get(change.pop("lora", None), adapters["whole"])

    refused(f"has 2 answers that came about otherwise: {says}", tiny_base, asked, output, lora, **change)

    assert (output.read_bytes(), (tmp_path / f"a.jsonl{FACTS}").read_bytes()) == before


def test_another_spelling_of_the_same_is_no_change(tiny_base, asked, tmp_path):
    straight = predict(tiny_base, asked, tmp_path / "a.jsonl", fields=["instruction=instruction", "output=output"])
    keep_lines(tmp_path, straight, [4])
    fields = ["output=output", "instruction=instruction"]
    assert predict(tiny_base, asked, tmp_path / "a.jsonl", fields=fields, encoding="utf8") == straight


def test_another_seed_base_or_data_is_named(tiny_base, tied_base, asked, tmp_path):
    output = tmp_path / "a.jsonl"
    predict(tiny_base, asked, output, **DRAWN)
    refused("--seed was 11, now 12", tiny_base, asked, output, **{**DRAWN, "seed": 12})
    refused("otherwise: --model_path is another one", tied_base, asked, output, **DRAWN)
    declaring = shutil.copytree(tiny_base, tmp_path / "base")
    config = json.loads((declaring / "generation_config.json").read_text(encoding="utf-8"))
    (declaring / "generation_config.json").write_text(json.dumps({**config, "suppress_tokens": [5]}), encoding="utf-8")
    refused("otherwise: the base's generation_config.json is another one", declaring, asked, output, **DRAWN)
    moved = asked.rename(tmp_path / "moved.jsonl")
    assert len(predict(tiny_base, moved, output, **DRAWN)) == COUNT  # what counts is what is in it
    questions(moved, COUNT + 1)
    refused("otherwise: --data_path is another one", tiny_base, moved, output, **DRAWN)
    assert len(lines_of(output)) == COUNT


def test_a_prompt_that_is_too_long_is_refused_by_its_line_before_weights_are_read(tiny_base, tmp_path, monkeypatch):
    file, output = tmp_path / "q.jsonl", tmp_path / "a.jsonl"
    rows = [{"instruction": word} for word in ("你好", "问" * 600, "问" * 470, "再见")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with monkeypatch.context() as without:
        without.setattr(loading, "load_base", None)
        refused(r"1 of 4 .*\n.*line 2: has a prompt of \d+ tokens, the base's context is 512", tiny_base, file, output)
    assert not output.exists()

    found = predict(tiny_base, file, output, skip_bad_rows=True, max_new_tokens=100)
    assert [line["row"] for line in found] == [1, 3, 4]
    longest = found[1]
    assert longest["prompt_tokens"] + longest["completion_tokens"] == 512
    assert longest["finish_reason"] == "length"


def test_a_file_named_twice_or_with_a_weight_is_refused(tiny_base, asked, tmp_path):
    refused("names a file twice; name it once", tiny_base, [asked, asked], tmp_path / "a.jsonl")
    refused(":2 has a weight, which is for training", tiny_base, f"{asked}:2", tmp_path / "a.jsonl")
    refused("does not exist", tiny_base, tmp_path / "none.jsonl", tmp_path / "a.jsonl")
    refused("exists, and no q.jsonl.run_args.json beside", tiny_base, asked, asked)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["q.jsonl"]


def test_too_large_a_batch_is_told_and_a_smaller_one_goes_on(tiny_base, asked, tmp_path):
    straight = predict(tiny_base, asked, tmp_path / "b.jsonl", **DRAWN)

    def no_room(module, args, output):
        if isinstance(module, torch.nn.Embedding) and len(args[0]) > 2:
            torch.empty(1 << 50)

    handle = torch.nn.modules.module.register_module_forward_hook(no_room)
    refused("out of memory while answering 4 records at once: lower --micro_batch 4; the 0 that", tiny_base, asked,
            tmp_path / "a.jsonl", **DRAWN)  # fmt: skip
    assert predict(tiny_base, asked, tmp_path / "a.jsonl", micro_batch=2, **DRAWN) == straight
    handle.remove()
