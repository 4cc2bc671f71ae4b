"""tools/eval_ppl.py: the same perplexity whatever opens a model, a row for every kind, and refusals before loading."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from certificate_bounds import tool

from vicuna.errors import UserError
from vicuna.evaluation.candidates import find_candidates

ppl = tool("eval_ppl")


def evaluate(folder: Path, *rows: tuple, **flags: Any) -> dict:
    """What --json says of models, each a tuple of model, adapter ("-" for none) and bits."""
    model_path, lora_path, bits = map(list, zip(*rows, strict=True))
    out = folder / "ppl.json"
    names = {"model_path": [str(one) for one in model_path], "lora_path": [str(one) for one in lora_path]}
    ppl.main(ppl.PplFlags(**names, bits=bits, json=str(out), overwrite=True, **flags))
    return json.loads(out.read_text(encoding="utf-8"))


def found(data: dict, text: Path) -> list[dict]:
    return [one["texts"][str(text)] for one in data["models"]]


@pytest.fixture(scope="module")
def in_float(base, adapter, ggufs, text, records, tmp_path_factory) -> dict:
    """Base, base + adapter, and both as GGUF."""
    rows = [(base, "-", 32), (base, adapter, 32), (ggufs["f32"], "-", 32), (ggufs["f32"], ggufs["adapter"], 32)]
    return evaluate(tmp_path_factory.mktemp("found"), *rows, data=[str(text), str(records)])


def test_a_gguf_in_float_has_the_perplexity_of_its_base_with_and_without_an_adapter(in_float, text, records):
    for file in (text, records):
        alone, adapted, gguf, gguf_adapted = found(in_float, file)

        assert gguf["counted"] == alone["counted"] > 30
        assert gguf["perplexity"] == pytest.approx(alone["perplexity"], rel=1e-4)
        assert gguf_adapted["perplexity"] == pytest.approx(adapted["perplexity"], rel=1e-4)
        assert abs(math.log(adapted["perplexity"] / alone["perplexity"])) > 0.05  # the adapter counts at all
    assert in_float["same_tokens"]
    assert in_float["texts"][1]["prompt_type"] == "instruct"  # as the adapters were trained


def test_it_is_what_transformers_computes_as_loss(in_float, base, text):
    """The plain loss of each window, by the tokens of it that have one before them."""
    from transformers import AutoModelForCausalLM

    from vicuna.evaluation.windows import cut_windows, read_text
    from vicuna.prompt.tokenizer import TextTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    windows = cut_windows(TextTokenizer(base), read_text(str(text), "instruct"), 512)
    assert len(windows.windows) > 1
    losses = []
    for window in windows.windows:
        ids = torch.tensor([window.ids])
        with torch.inference_mode():
            losses.append(float(model(ids, labels=ids).loss) * window.counted)

    one = found(in_float, text)[0]
    assert one["counted"] == windows.counted
    assert math.log(one["perplexity"]) == pytest.approx(sum(losses) / windows.counted, rel=1e-5)
    total = math.log(one["perplexity"]) * one["counted"]
    assert one["bits_per_byte"] == pytest.approx(total / math.log(2) / windows.size_bytes)
    assert math.log(one["per_character"]) == pytest.approx(total / windows.characters)


def test_batches_of_windows_change_nothing_in_float(in_float, base, text, records, tmp_path):
    """Of different lengths, too: what pads the shorter ones counts as nothing."""
    data = evaluate(tmp_path, (base, "-", 32), data=[str(text), str(records)], batch_size=4)

    for file in (text, records):
        (one,) = found(data, file)
        assert one["perplexity"] == pytest.approx(found(in_float, file)[0]["perplexity"], rel=1e-5)


def test_every_precision_is_a_row_with_its_size_memory_and_speed(base, ggufs, text, tmp_path, capsys):
    picture = tmp_path / "ppl.png"
    rows = [(base, "-", bits) for bits in (32, 16, 8, 4)] + [(ggufs["q8_0"], "-", 16)]
    data = evaluate(tmp_path, *rows, data=[str(text)], picture=str(picture))
    models = data["models"]
    perplexities = [one["perplexity"] for one in found(data, text)]

    assert [one["weights"].split(" ")[0] for one in models] == ["32", "16", "8", "4", "q8_0"]
    assert perplexities == pytest.approx([perplexities[0]] * 5, rel=0.2)
    assert len(set(perplexities)) == 5
    sizes = [one["memory_bytes"] for one in models]
    assert sizes[:4] == sorted(sizes[:4], reverse=True)
    assert sizes[0] == pytest.approx(models[0]["disk_bytes"], rel=0.01)
    assert models[4]["disk_bytes"] == ggufs["q8_0"].stat().st_size
    assert all(one["texts"][str(text)]["tokens_per_s"] > 0 for one in models)
    assert picture.read_bytes().startswith(b"\x89PNG")
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(table) == 6
    assert f"{perplexities[2]:.5g}" in table[3]
    assert str(found(data, text)[0]["counted"]) in table[1]


def test_other_vocabularies_are_compared_by_character_and_byte(base, shared, text, tmp_path, capsys):
    """The real story model knows 512 pieces: Chinese is bytes to it."""
    stories = shared / "models/stories260K-hf"
    data = evaluate(tmp_path, (base, "-", 32), (stories, "-", 32), data=[str(text)], picture=str(tmp_path / "a.svg"))
    one, other = found(data, text)

    assert not data["same_tokens"]
    assert "can not be compared" in capsys.readouterr().out
    assert other["counted"] > 1.5 * one["counted"]
    of_one, of_other = data["texts"][0]["windows"]
    assert of_other["size_bytes"] == pytest.approx(of_one["size_bytes"], rel=0.02)
    assert "bits per byte of" in (tmp_path / "a.svg").read_text(encoding="utf-8")


def test_prompts_and_documents_count_where_they_are_asked_for(base, text, records, tmp_path):
    plain = evaluate(tmp_path, (base, "-", 32), data=[str(text), str(records)])
    asked = {"count_prompts": True, "by_document": True, "prompt_type": "chat"}
    more = evaluate(tmp_path, (base, "-", 32), data=[str(text), str(records)], **asked)

    assert found(more, records)[0]["counted"] > found(plain, records)[0]["counted"] + 100
    assert more["texts"][0]["windows"][0]["windows"] == 30
    assert [one["prompt_type"] for one in more["texts"]] == [None, "chat"]


def test_logits_that_are_no_numbers_are_a_sentence_and_leave_the_others_their_figures(base, text, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(base, tmp_path / "nan")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][:] = math.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(UserError, match="1 of 2 models could not be measured"):
        evaluate(tmp_path, (folder, "-", 32), (base, "-", 32), data=[str(text)])

    models = json.loads((tmp_path / "ppl.json").read_text(encoding="utf-8"))["models"]
    assert "computes no finite numbers (its logits are NaN or infinite)" in models[0]["problem"]
    assert models[1]["texts"][str(text)]["perplexity"] > 1
    assert "computes no finite numbers" in capsys.readouterr().out


def test_what_does_not_fit_is_refused_before_anything_is_loaded(
    base, adapter, ggufs, text, records, tmp_path, monkeypatch
):
    from vicuna.evaluation import candidates

    monkeypatch.setattr(candidates, "load_assistant", None)  # nothing gets as far as that

    def refused(*rows: tuple, **flags: Any) -> str:
        with pytest.raises(UserError) as error:
            evaluate(tmp_path, *rows, **{"data": [str(text)], **flags})
        return str(error.value)

    one = (base, "-", 32)
    assert "--data is empty" in refused(one, data=[])
    assert "--count_prompts is for records with a prompt" in refused(one, count_prompts=True)
    assert "--by_document is for plain text" in refused(one, by_document=True, data=[str(records)])
    assert "--gpu_layers 3 is for GGUF files" in refused(one, gpu_layers=3)
    assert "--seqlen 1024 is longer than the context" in refused(one, seqlen=1024)
    assert "is a file; expected the folder" in refused((base, ggufs["adapter"], 32))
    assert "no such folder" in refused((tmp_path / "gone", "-", 32))
    assert "is an adapter: pass it as --lora_path" in refused((ggufs["adapter"], "-", 32))
    (tmp_path / "ppl.json").write_text("kept", encoding="utf-8")
    with pytest.raises(UserError, match=r"--json .*ppl\.json exists"):
        ppl.main(ppl.PplFlags(model_path=[str(base)], data=[str(text)], json=str(tmp_path / "ppl.json")))
    other = shutil.copytree(adapter, tmp_path / "other")
    (other / "run_args.json").write_text(json.dumps({"prompt_type": "chat"}), encoding="utf-8")
    pair = ((base, adapter, 32), (base, other, 32))
    assert "different prompt types" in refused(*pair, data=[str(records)])
    assert "--seqlen 1024 is longer" in refused(*pair, seqlen=1024)  # plain text has no template to differ in


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bits": [5]}, "--bits 5 is unknown"),
        ({"batch_size": 0}, "--batch_size 0 is too small"),
        ({"seqlen": 1}, "--seqlen 1 is too small"),
        ({"picture": "a.jpg"}, r"--picture a\.jpg is to be"),
        ({"model_path": ["a", "b", "c"], "bits": [8, 4]}, "--bits names 2, --model_path 3: expected 1"),
        ({"model_path": ["a", "b"], "lora_path": ["x"] * 3}, r"--model_path names 2, --lora_path 3"),
    ],
)
def test_a_wrong_flag_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        ppl.PplFlags(**{"data": ["a.txt"], **given}).pairs()


def test_one_value_counts_for_all_and_a_gguf_comes_once(ggufs):
    flags = ppl.PplFlags(model_path=["a"], bits=[8, 4], lora_path=["x", "-"], data=["a.txt"])
    assert flags.pairs() == [("a", "x", 8), ("a", "", 4)]
    gguf = str(ggufs["f32"])
    assert len(find_candidates([(gguf, "", 8), (gguf, "", 4)], None)) == 1


def test_it_runs_as_a_program(program, base, text, tmp_path):
    done = program("tools/eval_ppl.py", "--model_path", base, "--bits", 32, "--data", text, timeout=300)

    assert done.returncode == 0, done.stderr
    assert "tokens count" in done.stderr
    assert "| 32 bit, float32 · CPU |" in done.stdout
    refused = program("tools/eval_ppl.py", "--model_path", base, "--data", tmp_path / "gone.txt", timeout=300)
    assert refused.returncode == 1
    assert refused.stderr.strip().endswith("all but the last also with .gz or .zst behind.")
