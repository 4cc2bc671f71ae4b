"""tools/evaluate.py loss: the loss that training counts, by category, and a run that goes on where it was stopped."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from vicuna.data.flags import ReadFlags
from vicuna.errors import Stopped, UserError
from vicuna.evaluation import held_out_loss
from vicuna.evaluation.flags import LossFlags, ModelsFlags, OutputFlags
from vicuna.evaluation.runners import HFRunner


@pytest.fixture(scope="module")
def held_out(tmp_path_factory) -> Path:
    """Six records of two categories, one without any."""
    file = tmp_path_factory.mktemp("held_out") / "held_out.jsonl"
    rows = [{"instruction": f"数到{n}。", "input": "", "output": "，".join("一二三四五六"[:n])} for n in range(1, 7)]
    for n, row in enumerate(rows[:-1]):
        row["topic"] = "奇数" if n % 2 == 0 else "偶数"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return file


def evaluate(folder: Path, model_path: list, lora_path: list, data: Path, **flags: Any) -> dict:
    """What results.json says."""
    models = ModelsFlags(model_path=[str(one) for one in model_path], lora_path=list(map(str, lora_path)), bits=[32])
    output = OutputFlags(output_path=str(folder), overwrite=flags.pop("overwrite", False))
    held_out_loss.evaluate_loss(models, ReadFlags(data_path=[str(data)]), LossFlags(**flags), output)
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def found(base, adapter, ggufs, held_out, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("found") / "loss"
    loras = ["-", adapter, "-"]
    return evaluate(folder, [base, base, ggufs["f32"]], loras, held_out, category="topic") | {"folder": folder}


def test_it_is_the_loss_that_training_counts_by_category(found, base, held_out):
    import torch
    from transformers import AutoModelForCausalLM

    from vicuna.prompt.templates import encode
    from vicuna.prompt.tokenizer import TextTokenizer

    tokenizer, model = TextTokenizer(base), AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    sums: dict[str, list[float]] = {}
    for line in held_out.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        messages = [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]
        one = encode(tokenizer, "instruct", messages, 512)
        ids, labels = torch.tensor([one.input_ids]), torch.tensor([one.labels])
        counted = int((labels != -100).sum())
        with torch.inference_mode():
            sums.setdefault(row.get("topic", "–"), []).append(
                (float(model(ids, labels=labels).loss) * counted, counted)
            )

    alone, adapted, gguf = found["models"]
    assert list(alone["categories"]) == ["奇数", "偶数", "–"]
    for name, pairs in sums.items():
        loss = sum(nll for nll, _ in pairs) / sum(tokens for _, tokens in pairs)
        assert alone["categories"][name]["loss"] == pytest.approx(loss, rel=1e-5)
        assert alone["categories"][name]["records"] == len(pairs)
    every = [one for pairs in sums.values() for one in pairs]
    assert alone["loss"] == pytest.approx(sum(nll for nll, _ in every) / sum(tokens for _, tokens in every), rel=1e-5)
    assert alone["perplexity"] == pytest.approx(math.exp(alone["loss"]))
    assert gguf["loss"] == pytest.approx(alone["loss"], rel=1e-4)
    assert abs(adapted["loss"] - alone["loss"]) > 0.05
    page = (found["folder"] / "results.md").read_text(encoding="utf-8")
    assert f"{adapted['loss'] - alone['loss']:+.4f}" in page
    assert page.count("| 奇数") == 1


def test_a_run_that_was_stopped_goes_on_to_the_same_results(found, base, adapter, ggufs, held_out, tmp_path):
    """Torn in the middle of a line of the second model, as a kill may leave it."""
    lines = (found["folder"] / "rows.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "rows.jsonl").write_bytes(b"".join(lines[:8]) + lines[8][:20])
    facts = "rows.jsonl.run_args.json"
    (tmp_path / facts).write_bytes((found["folder"] / facts).read_bytes())

    again = evaluate(tmp_path, [base, base, ggufs["f32"]], ["-", adapter, "-"], held_out, category="topic")

    assert again["models"] == found["models"]
    assert len((tmp_path / "rows.jsonl").read_bytes().splitlines()) == 18


def test_ctrl_c_keeps_what_was_found(base, held_out, tmp_path, monkeypatch):
    asked = []

    def interrupted(self, rows):
        asked.append(len(rows))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return nll(self, rows)

    nll = HFRunner.nll
    monkeypatch.setattr(HFRunner, "nll", interrupted)
    with pytest.raises(Stopped, match=r"4 of 6 records are measured in .*rows\.jsonl; the same command goes on"):
        evaluate(tmp_path, [base], [], held_out, micro_batch=2)
    assert not (tmp_path / "results.json").exists()

    data = evaluate(tmp_path, [base], [], held_out, micro_batch=2)

    assert asked == [2, 2, 2, 2]
    assert data["models"][0]["records"] == 6


def test_another_command_in_the_same_folder_is_refused(found, base, adapter, ggufs, held_out, tmp_path):
    models = ([base, base, ggufs["f32"]], ["-", adapter, "-"])

    def refused(**flags: Any) -> str:
        with pytest.raises(UserError) as error:
            evaluate(found["folder"], *models, held_out, **{"category": "topic", **flags})
        return str(error.value)

    assert "18 rows of another command: --cutoff_len was 512, now 64" in refused(cutoff_len=64)
    assert "--prompt_type was instruct, now chat" in refused(prompt_type="chat")
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"instruction": "一", "output": "二"}), encoding="utf-8")
    with pytest.raises(UserError, match="--data_path is another one"):
        evaluate(found["folder"], *models, other)
    (tmp_path / "results.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="was not written here"):
        evaluate(tmp_path, [base], [], other)
    assert evaluate(tmp_path, [base], [], other, overwrite=True)["models"][0]["records"] == 1


def test_what_can_not_be_measured_is_refused_before_a_model_is_read(base, held_out, tmp_path, monkeypatch):
    from vicuna.evaluation import candidates

    monkeypatch.setattr(candidates, "load_assistant", None)

    def refused(data: Path = held_out, model: object = base, **flags: Any) -> str:
        with pytest.raises(UserError) as error:
            evaluate(tmp_path / "a", [model], [], data, **flags)
        return str(error.value)

    assert "--category kind: no record has such a field" in refused(category="kind")
    assert "--cutoff_len 1024 is longer than the context" in refused(cutoff_len=1024)
    assert "leaves no record an answer" in refused(cutoff_len=8)
    assert "is an address" in refused(model="http://127.0.0.1:1/v1#a")
    assert "does not exist" in refused(data=tmp_path / "gone.jsonl")
    assert not (tmp_path / "a").exists()


def test_checkpoints_are_named_by_a_pattern_in_the_order_of_their_steps(tmp_path):
    for step in (20, 100, 3):
        (tmp_path / f"checkpoint-{step}").mkdir()

    pairs = ModelsFlags(model_path=["base"], lora_path=["-", f"{tmp_path}/checkpoint-*"]).pairs()

    steps = [f"{tmp_path}/checkpoint-{step}" for step in (3, 20, 100)]
    assert pairs == [("base", lora, 16) for lora in ("", *steps)]
    with pytest.raises(UserError, match=r"--lora_path .*best-\* fits nothing here"):
        ModelsFlags(lora_path=[f"{tmp_path}/best-*"]).pairs()


def test_the_program_lists_its_kinds_and_their_flags(program, tmp_path):
    listed = program("tools/evaluate.py", "--help")
    assert listed.returncode == 0
    assert "answer loss and perplexity" in listed.stdout
    for argv, message in (
        (["los"], "'los' is no kind of evaluation; expected one of loss"),
        (["loss", "--output_path", tmp_path, "--cuttof_len", 3], "did you mean --cutoff_len?"),
    ):
        done = program("tools/evaluate.py", *argv)
        assert done.returncode == 2
        assert message in done.stderr
