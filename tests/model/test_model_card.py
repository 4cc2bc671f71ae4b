"""README.md beside adapters and exports: what it says, what it does not say, and whose it is."""

import hashlib
import json
from pathlib import Path

import yaml

from vicuna.model.model_card import MARK, export_card, write_card

HERE = Path(__file__).resolve().parent.parent.parent


def front_matter(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


def test_the_card_of_an_adapter_names_everything_by_hash_and_nothing_by_path(program, tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("secret-place")
    data = folder / "mine.jsonl"
    lines = (HERE / "sample/instruct/data_sample.jsonl").read_text(encoding="utf-8").splitlines()[:20]
    data.write_text("\n".join(lines), encoding="utf-8")
    output = folder / "lora"
    argv = ["--model_path", tiny_base, "--data_path", data, "--output_path", output, "--bits", 32, "--total_batch", 8]
    argv += ["--num_epoch", 1, "--test_size", 4, "--eval_steps", 1, "--warmup_steps", 1]
    done = program("finetune.py", *argv)
    assert done.returncode == 0, done.stderr[-2000:]
    (checkpoint,) = output.glob("checkpoint-*")
    for place in (output, output / "best", checkpoint):
        text = (place / "README.md").read_text(encoding="utf-8")
        assert MARK in text
        assert front_matter(text)["base_model"] == tiny_base.name
        assert f"| mine.jsonl | 20 | {hashlib.sha256(data.read_bytes()).hexdigest()} |" in text
        assert str(folder) not in text
        assert str(tiny_base.parent) not in text
    card = (output / "README.md").read_text(encoding="utf-8")
    exact = json.loads((output / "run_args.json").read_text(encoding="utf-8"))["exact"]
    for said in (exact["base_fingerprint"], "| prompt_type | instruct |", "| learning_rate | 0.0003 |"):
        assert said in card
    assert "names no licence: add it" in card
    assert "| evaluation, best |" in card
    assert "python tools/verify_export.py" in card


def test_the_licence_is_the_bases(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: own\n---\n# x\n", encoding="utf-8")
    text = export_card("merged", "a model", tmp_path, {"base": "x"})
    assert front_matter(text)["license"] == "other"
    assert "The base's: other, own." in text


def test_a_card_that_somebody_wrote_stays(tmp_path):
    write_card(tmp_path, f"---\n---\n{MARK}\nfirst")
    write_card(tmp_path, f"---\n---\n{MARK}\nsecond")
    assert (tmp_path / "README.md").read_text(encoding="utf-8").endswith("second")
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    write_card(tmp_path, MARK)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "mine"
