"""tools/export_gguf.py: its template, its refusals, and what it leaves alone."""

import json
import shutil
from pathlib import Path

import pytest

from tests.gguf.gguf_models import change_config, export, make_model, tool
from vicuna.errors import UserError
from vicuna.gguf_file.reader import read_gguf_model


def test_the_folders_own_chat_template_wins(tmp_path, tokenizer_model):
    folder = make_model(tmp_path / "hf", tokenizer_model)
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}", encoding="utf-8")

    file = export(folder, tmp_path / "x.gguf", "f32", prompt_type="chat")

    assert read_gguf_model(str(file)).keys["tokenizer.chat_template"] == "{{ messages[0]['content'] }}"


def test_an_existing_file_is_only_replaced_when_told_to(tmp_path, tokenizer_model):
    folder = make_model(tmp_path / "hf", tokenizer_model)
    (tmp_path / "x.gguf").write_text("mine", encoding="utf-8")

    with pytest.raises(UserError, match=r"--out_path \S+x\.gguf exists"):
        export(folder, tmp_path / "x.gguf", "f32")
    assert (tmp_path / "x.gguf").read_text(encoding="utf-8") == "mine"
    assert read_gguf_model(str(export(folder, tmp_path / "x.gguf", "f32", overwrite=True))).context == 512


def test_the_checks_alone_write_nothing_and_are_those_of_the_export(tmp_path, tokenizer_model):
    folder = make_model(tmp_path / "hf", tokenizer_model)

    assert not export(folder, tmp_path / "new/x.gguf", "q8_0", plan_only=True).parent.exists()
    (folder / "tokenizer.model").unlink()
    with pytest.raises(UserError, match="tokenizer"):
        export(folder, tmp_path / "new/x.gguf", "q8_0", plan_only=True)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({}, r"--out_path \(missing\) is to be the name of a \.gguf file"),
        ({"out_path": "x.bin"}, r"--out_path x\.bin is to be the name of a \.gguf file"),
        ({"out_path": "x.gguf", "type": "q9"}, "--type q9 is unknown; expected one of f32, f16"),
        ({"out_path": "x.gguf", "type": "q4_0", "lora_path": "a"}, "--type q4_0 is too coarse for an adapter"),
        ({"out_path": "x.gguf", "prompt_type": "poem"}, "--prompt_type poem is unknown; expected one of instruct"),
    ],
)
def test_flags_that_can_not_be_meant_are_refused(flags, said):
    with pytest.raises(UserError, match=said):
        tool().ExportFlags(**flags)


def test_the_program_itself_exports(program, tmp_path, tokenizer_model):
    folder = make_model(tmp_path / "hf", tokenizer_model)
    done = program("tools/export_gguf.py", "--model_path", folder, "--out_path", tmp_path / "x.gguf", "--type", "q8_0")

    assert done.returncode == 0, done.stderr
    assert f"wrote {tmp_path / 'x.gguf'} (" in done.stdout.splitlines()[-1]
    assert read_gguf_model(str(tmp_path / "x.gguf")).types["blk.1.attn_k.weight"] == "Q8_0"
    assert "Traceback" not in done.stderr
    assert "llama_" not in done.stderr  # nothing of the library's own talk


@pytest.fixture
def trained(shared, tmp_path) -> Path:
    """A real checkpoint as a run of this program leaves it, sealed, with the fingerprint of its base."""
    from vicuna.model.base import fingerprint
    from vicuna.train.checkpoint import seal_checkpoint

    output = tmp_path / "run"
    folder = output / "checkpoint-200"
    shutil.copytree(shared / "lora/poem-zh-lora-generated/r8-qv/checkpoint-200", folder)
    exact = {"base_fingerprint": fingerprint(shared / "models/poem-zh-750k-hf")}
    for place in (output, folder):
        (place / "run_args.json").write_text(json.dumps({"prompt_type": "text", "exact": exact}), encoding="utf-8")
    seal_checkpoint(folder)
    return folder


def test_a_checkpoint_is_exported_while_it_is_whole(shared, trained, tmp_path):
    base = shared / "models/poem-zh-750k-hf"
    assert export(base, tmp_path / "a.gguf", "f32", lora_path=str(trained)).is_file()
    file = trained / "pytorch_model.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=r"checkpoint-200 is torn: pytorch_model\.bin is not what was saved"):
        export(base, tmp_path / "b.gguf", "f32", lora_path=str(trained))
    file.write_bytes(whole)
    (trained / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"checkpoint-200 is torn: manifest\.json is missing: the save did not end"):
        export(base, tmp_path / "b.gguf", "f32", lora_path=str(trained))
    assert not (tmp_path / "b.gguf").exists()


def test_an_adapter_with_another_bases_fingerprint_is_refused_unless_told_otherwise(shared, trained, tmp_path):
    base = tmp_path / "other"
    shutil.copytree(shared / "models/poem-zh-750k-hf", base)
    change_config(base, initializer_range=0.5)  # the same weights, and another file
    with pytest.raises(UserError, match=r"was trained on another base than .*--ignore_fingerprint True"):
        export(base, tmp_path / "a.gguf", "f32", lora_path=str(trained))
    assert not (tmp_path / "a.gguf").exists()
    assert export(base, tmp_path / "a.gguf", "f32", lora_path=str(trained), ignore_fingerprint=True).is_file()
