"""Adapters on disk: files of every age mean the same, are found by every name, and stay as they were."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.model.tiny_adapters import ALL_MODULES, base_model, listing, logits, new_adapter
from vicuna.errors import UserError
from vicuna.model.adapter import load_adapter, plan_adapter, save_adapter
from vicuna.model.adapter_files import read_adapter_config, read_adapter_tensors
from vicuna.model.base import check_base
from vicuna.model.flags import LoraFlags
from vicuna.model.found import adapter_file, adapter_folder, run_args


def test_an_adapter_model_bin_gives_the_same_logits(tiny_base, copy, expected):
    torch.save(load_file(copy / "adapter_model.safetensors"), copy / "adapter_model.bin")
    (copy / "adapter_model.safetensors").unlink()
    model, warning = load_adapter(base_model(tiny_base), copy, "tiny")

    assert torch.equal(logits(model), expected)
    assert warning == ""


def test_a_pickle_of_the_old_torch_format_gives_the_same_logits(tiny_base, copy, expected):
    tensors = load_file(copy / "adapter_model.safetensors")
    torch.save(tensors, copy / "adapter_model.bin", _use_new_zipfile_serialization=False)
    (copy / "adapter_model.safetensors").unlink()

    assert torch.equal(logits(load_adapter(base_model(tiny_base), copy, "tiny")[0]), expected)


def test_a_pytorch_model_bin_without_config_gives_the_same_logits_and_a_warning(tiny_base, copy, expected):
    torch.save(load_file(copy / "adapter_model.safetensors"), copy / "pytorch_model.bin")
    (copy / "adapter_model.safetensors").unlink()
    (copy / "adapter_config.json").unlink()
    model, warning = load_adapter(base_model(tiny_base), copy, "tiny")

    assert torch.equal(logits(model), expected)
    assert f"{copy} has no adapter_config.json: rank 8 and modules q_proj, v_proj are read from its tensors" in warning
    assert "alpha 16 is assumed from config-sample/adapter_config.json" in warning


def test_the_newest_weight_file_of_a_folder_is_taken(copy):
    for name in ("pytorch_model.bin", "adapter_model.bin"):
        torch.save({}, copy / name)

    assert adapter_file(copy).name == "adapter_model.safetensors"
    (copy / "adapter_model.safetensors").unlink()
    assert adapter_file(copy).name == "adapter_model.bin"


def test_float16_tensors_of_an_old_adapter_are_read(tiny_base, copy, expected):
    tensors = {name: value.half() for name, value in load_file(copy / "adapter_model.safetensors").items()}
    save_file(tensors, copy / "adapter_model.safetensors")

    assert torch.allclose(logits(load_adapter(base_model(tiny_base), copy, "tiny")[0]), expected, atol=0.05)


@pytest.mark.parametrize(("name", "modules"), [
    ("adapter_config.json", ["q_proj", "v_proj"]),
    ("sample_instruct_adapter_config.json", ["q_proj", "v_proj"]),
    ("sample_chat_adapter_config.json", ALL_MODULES),
])  # fmt: skip
def test_a_config_of_2023_is_read_with_all_its_values(tiny_base, shared, tmp_path, name, modules):
    model = new_adapter(tiny_base, target_modules=modules)
    save_adapter(model, tmp_path)
    shutil.copyfile(shared / "lora/chinese-vicuna-7b-partial" / name, tmp_path / "adapter_config.json")
    config, warning = read_adapter_config(tmp_path, read_adapter_tensors(adapter_file(tmp_path)))

    assert (config.r, config.lora_alpha, config.lora_dropout) == (8, 16, 0.05)
    assert set(config.target_modules) == set(modules)
    assert warning == ""
    assert torch.equal(logits(load_adapter(base_model(tiny_base), tmp_path, "tiny")[0]), logits(model))


@pytest.mark.parametrize("name", ["peft-safetensors", "peft-bin", "checkpoint-200"])
def test_a_real_adapter_of_every_age_gives_the_same_logits(shared, name):
    base = shared / "models/poem-zh-750k-hf"
    folder = shared / "lora/poem-zh-lora-generated/r8-qv"
    model, _ = load_adapter(base_model(base), folder / name, "poem")
    reference, _ = load_adapter(base_model(base), folder / "peft-safetensors", "poem")

    assert torch.equal(logits(model), logits(reference))


def test_reading_an_adapter_leaves_its_folder_as_it_was(tiny_base, copy):
    torch.save(load_file(copy / "adapter_model.safetensors"), copy / "pytorch_model.bin")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (copy / name).unlink()
    before = listing(copy.parent)
    plan_adapter(check_base(str(tiny_base)), LoraFlags(), copy)
    load_adapter(base_model(tiny_base), copy, "tiny")
    run_args(copy)

    assert listing(copy.parent) == before
    assert [file.name for file in copy.iterdir()] == ["pytorch_model.bin"]


def test_use_local_1_never_asks_the_hub():
    with pytest.raises(UserError, match="--lora_path owner/name does not exist here, and --use_local 1 forbids"):
        adapter_folder("owner/name", True)


def test_use_local_0_refuses_a_folder(saved):
    with pytest.raises(UserError, match=r"is a folder here, but --use_local 0 means a hub id; drop --use_local"):
        adapter_folder(str(saved), False)


@pytest.mark.parametrize("use_local", [None, True])
def test_a_folder_is_taken_as_it_is(saved, use_local):
    assert adapter_folder(str(saved), use_local) == saved


@pytest.mark.parametrize("where", [".", ".."])
def test_run_args_are_found_beside_the_adapter_or_above_a_checkpoint(tmp_path, where):
    folder = tmp_path / "checkpoint-5"
    folder.mkdir()
    (folder / where / "run_args.json").write_text('{"prompt_type": "chat"}', encoding="utf-8")

    assert run_args(folder) == {"prompt_type": "chat"}


def test_run_args_of_another_folder_above_are_not_taken(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "run_args.json").write_text('{"prompt_type": "chat"}', encoding="utf-8")

    assert run_args(tmp_path / "mine") == {}


def test_broken_run_args_are_refused(tmp_path):
    (tmp_path / "run_args.json").write_text("{\n\n", encoding="utf-8")

    with pytest.raises(UserError, match=r"run_args\.json is not JSON \(.+ line 3 column 1"):
        run_args(tmp_path)
