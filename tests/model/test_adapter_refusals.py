"""Adapters that are broken, lack something, or belong to another base are refused, and nothing is executed."""

import json
import pickle
import re
from pathlib import Path

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from tests.model.tiny_adapters import base_model, new_adapter
from vicuna.errors import UserError
from vicuna.model.adapter import load_adapter, plan_adapter
from vicuna.model.adapter_files import check_compatible, lora_modules, read_adapter_tensors
from vicuna.model.base import check_base
from vicuna.model.config import meta_model
from vicuna.model.flags import LoraFlags
from vicuna.model.found import adapter_file


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def plain_pickle(content: object, file: Path) -> None:
    file.write_bytes(pickle.dumps(content))


def old_pickle(content: object, file: Path) -> None:
    torch.save(content, file, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [torch.save, old_pickle, plain_pickle])
@pytest.mark.parametrize("name", ["adapter_model.bin", "pytorch_model.bin"])
def test_a_pickle_of_program_objects_is_refused_and_not_executed(tiny_base, tmp_path, write, name):
    target, folder = tmp_path / "executed", tmp_path / "adapter"
    folder.mkdir()
    write({"base_model.model.x.lora_A.weight": torch.ones(1), "bomb": Bomb(target)}, folder / name)

    with pytest.raises(UserError, match=r"can not be read as plain tensors .* a pickle of program objects"):
        load_adapter(base_model(tiny_base), folder, "tiny")

    assert not target.exists()


def test_the_bomb_of_the_test_above_would_go_off(tmp_path):
    plain_pickle(Bomb(tmp_path / "executed"), tmp_path / "bomb")
    pickle.loads((tmp_path / "bomb").read_bytes())

    assert (tmp_path / "executed").exists()


def test_a_folder_without_an_adapter_is_refused(tmp_path):
    (tmp_path / "optimizer.pt").touch()

    with pytest.raises(UserError, match=r"has no adapter: expected one of adapter_model\.safetensors, .*found opt"):
        adapter_file(tmp_path)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"PK\x03\x04" + b"\0" * 40, "is a file of PyTorch|has 44 bytes and no end"),
        (b"\x80\x02", r"has 2 bytes, not even those of its header|can not be read as plain tensors"),
    ],
)
def test_a_broken_weight_file_is_refused(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(UserError, match=rf"{re.escape(name)} ({says})"):
        read_adapter_tensors(tmp_path / name)


def test_a_truncated_weight_file_is_refused(copy):
    file = copy / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])

    with pytest.raises(UserError, match=r"adapter_model\.safetensors has \S+ of its \S+ bytes: the download"):
        read_adapter_tensors(file)


def test_a_file_without_lora_tensors_is_refused(tiny_base):
    with pytest.raises(UserError, match=r"model\.safetensors holds no LoRA tensors; expected names such as"):
        read_adapter_tensors(tiny_base / "model.safetensors")


def test_a_weight_file_that_holds_no_dictionary_is_refused(tmp_path):
    torch.save([torch.ones(2)], tmp_path / "adapter_model.bin")

    with pytest.raises(UserError, match=r"adapter_model\.bin is no table of named tensors"):
        read_adapter_tensors(tmp_path / "adapter_model.bin")


def test_a_lora_a_without_its_lora_b_is_refused(copy):
    tensors = load_file(copy / "adapter_model.safetensors")
    tensors.pop(next(name for name in tensors if "lora_B" in name))

    with pytest.raises(UserError, match=r"the adapter has .*lora_A\.weight but no lora_B beside it; the file is"):
        lora_modules(tensors)


def test_an_adapter_that_lacks_a_module_its_config_promises_is_refused(tiny_base, copy):
    tensors = load_file(copy / "adapter_model.safetensors")
    kept = {name: value for name, value in tensors.items() if "layers.1.self_attn.v_proj" not in name}
    save_file(kept, copy / "adapter_model.safetensors")

    with pytest.raises(UserError, match=r"do not describe the same adapter: 2 tensors differ, such as .*\.1\..*v_proj"):
        load_adapter(base_model(tiny_base), copy, "tiny")


@pytest.mark.parametrize("rank", [4, 16])
def test_a_config_of_another_rank_is_refused(tiny_base, edit_config, rank):
    folder = edit_config(r=rank)

    with pytest.raises(UserError, match=rf"config\.json says r {rank}, but the tensors beside it have rank \[8\]"):
        load_adapter(base_model(tiny_base), folder, "tiny")


@pytest.mark.parametrize(("modules", "names"), [(["q_proj"], "q_proj"), (["k_proj", "o_proj"], "k_proj, o_proj")])
def test_a_config_that_would_ignore_part_of_the_adapter_is_refused(tiny_base, edit_config, modules, names):
    folder = edit_config(target_modules=modules)

    with pytest.raises(UserError, match=f"names the modules {names}, but the tensors beside it are for q_proj, v_proj"):
        load_adapter(base_model(tiny_base), folder, "tiny")


def test_a_config_with_more_modules_than_the_tensors_is_refused(tiny_base, edit_config):
    folder = edit_config(target_modules=["q_proj", "k_proj", "v_proj"])

    with pytest.raises(UserError, match=r"do not describe the same adapter: 4 tensors differ, such as .*k_proj"):
        load_adapter(base_model(tiny_base), folder, "tiny")


def test_a_config_of_another_method_than_lora_is_refused(tiny_base, copy):
    config = {"peft_type": "IA3", "task_type": "CAUSAL_LM", "target_modules": ["q_proj"], "feedforward_modules": []}
    (copy / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")

    with pytest.raises(UserError, match=r"adapter_config\.json describes a .*IA3 adapter; expected LORA"):
        load_adapter(base_model(tiny_base), copy, "tiny")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ("{", r"is not JSON \("),
        ("[]", "is JSON, but no object"),
        ("null", "is JSON, but no object"),
        ('{"peft_type": "MAGIC"}', "describes a MAGIC adapter; expected LORA"),
    ],
)
def test_a_broken_config_is_refused(tiny_base, copy, content, says):
    (copy / "adapter_config.json").write_text(content, encoding="utf-8")

    with pytest.raises(UserError, match=rf"adapter_config\.json {says}"):
        load_adapter(base_model(tiny_base), copy, "tiny")


def test_a_config_that_names_no_method_is_refused(tiny_base, copy):
    (copy / "adapter_config.json").write_text("{}", encoding="utf-8")

    with pytest.raises(UserError, match=r"adapter_config\.json describes a .* adapter; expected LORA"):
        load_adapter(base_model(tiny_base), copy, "tiny")


def test_tensors_of_several_ranks_without_a_config_are_refused(tiny_base, tmp_path):
    model = new_adapter(tiny_base, rank_pattern={"q_proj": 4})
    save_file(get_peft_model_state_dict(model), tmp_path / "adapter_model.safetensors")

    with pytest.raises(UserError, match=r"has no adapter_config\.json, and its tensors have the ranks \[4, 8\]: add"):
        load_adapter(base_model(tiny_base), tmp_path, "tiny")


def test_an_adapter_of_another_architecture_is_refused(tiny_base, shared):
    folder = shared / "lora/pythia70m-lora-alpaca"

    with pytest.raises(UserError, match=r"the adapter changes gpt_neox\..*query_key_value, which tiny does not have"):
        load_adapter(base_model(tiny_base), folder, "tiny")


def test_an_adapter_of_another_architecture_is_refused_before_any_weight_is_loaded(tiny_base, shared):
    base = check_base(str(tiny_base))

    with pytest.raises(UserError, match=r"the adapter changes gpt_neox\..*another kind of base"):
        plan_adapter(base, LoraFlags(), shared / "lora/pythia70m-lora-alpaca")


def test_an_adapter_of_another_hidden_size_is_refused(tiny_base, tmp_path):
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {f"{prefix}.lora_A.weight": torch.ones(8, 64), f"{prefix}.lora_B.weight": torch.ones(64, 8)}
    save_file(tensors, tmp_path / "adapter_model.safetensors")

    with pytest.raises(UserError, match=r"a base whose model\.layers\.0\.self_attn\.q_proj is 64 -> 64, but in tiny"):
        load_adapter(base_model(tiny_base), tmp_path, "tiny")


def test_an_adapter_of_more_layers_is_refused(tiny_base, tmp_path):
    prefix = "base_model.model.model.layers.2.self_attn.q_proj"
    tensors = {f"{prefix}.lora_A.weight": torch.ones(8, 32), f"{prefix}.lora_B.weight": torch.ones(32, 8)}

    with pytest.raises(UserError, match=r"the adapter changes model\.layers\.2\.self_attn\.q_proj, which tiny does"):
        check_compatible(tensors, meta_model(check_base(str(tiny_base)).config), "tiny")
