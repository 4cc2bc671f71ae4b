"""Adapters on disk: what is saved can be opened, files of every age mean the same, and nothing is executed."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from vicuna.errors import UserError
from vicuna.model import adapter
from vicuna.model.base import check_base, load_base, meta_model
from vicuna.model.flags import LoraFlags

IDS = torch.tensor([[1, 300, 500, 700, 900, 1100, 1300, 1500]])
ALL_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS.to(model.device)).logits.float().cpu()


def base_model(tiny_base: Path, bits: int = 32) -> torch.nn.Module:
    return load_base(check_base(str(tiny_base)), bits)


def new_adapter(tiny_base: Path, learnt: bool = True, **config: object) -> torch.nn.Module:
    """The tiny base with an adapter of random values, lora_B included where it has `learnt`."""
    torch.manual_seed(1)
    settings = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.05, "target_modules": ["q_proj", "v_proj"], **config}
    model = get_peft_model(base_model(tiny_base), LoraConfig(task_type="CAUSAL_LM", **settings))
    if learnt:
        for name, value in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(value, std=0.3)
    return model


def listing(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` with its content."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def saved(tiny_base, tmp_path_factory) -> Path:
    """A saved adapter; do not write to it."""
    folder = tmp_path_factory.mktemp("saved") / "adapter"
    adapter.save_adapter(new_adapter(tiny_base), folder)
    return folder


@pytest.fixture(scope="module")
def expected(tiny_base, saved) -> torch.Tensor:
    """Logits of the tiny base with the saved adapter."""
    return logits(adapter.attach(base_model(tiny_base), saved, "tiny")[0])


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    """A copy of the saved adapter that a test may spoil."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.fixture
def edit(copy) -> Callable[..., Path]:
    """Change fields of the copy's adapter_config.json."""

    def change(**fields: object) -> Path:
        file = copy / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | fields), encoding="utf-8")
        return copy

    return change


# --- saving -------------------------------------------------------------------------------------------------------


def test_a_saved_adapter_opens_again_and_answers_the_same(tiny_base, tmp_path):
    model = new_adapter(tiny_base)
    adapter.save_adapter(model, tmp_path / "new" / "out")
    again, warning = adapter.attach(base_model(tiny_base), tmp_path / "new" / "out", "tiny")

    assert sorted(listing(tmp_path / "new" / "out")) == ["adapter_config.json", "adapter_model.safetensors"]
    assert warning == ""
    assert torch.equal(logits(again), logits(model))
    assert not torch.equal(logits(again), logits(base_model(tiny_base)))


def test_saving_replaces_an_older_adapter_and_keeps_other_files(tiny_base, tmp_path):
    adapter.save_adapter(new_adapter(tiny_base, r=4), tmp_path)
    (tmp_path / "run_args.json").write_text("{}", encoding="utf-8")
    adapter.save_adapter(new_adapter(tiny_base), tmp_path)

    assert sorted(listing(tmp_path)) == ["adapter_config.json", "adapter_model.safetensors", "run_args.json"]
    assert adapter.read_config(tmp_path, load_file(tmp_path / "adapter_model.safetensors"))[0].r == 8


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["lora_A", "lora_B"])
def test_an_adapter_with_a_value_that_is_not_finite_is_not_saved(tiny_base, copy, bad, where):
    before = listing(copy)
    model = new_adapter(tiny_base)
    name, value = next((name, value) for name, value in model.named_parameters() if where in name)
    value.data[0, 0] = bad

    with pytest.raises(RuntimeError, match=rf"{name.split('.lora_')[0]}.*not finite: the run has diverged"):
        adapter.save_adapter(model, copy)

    assert listing(copy) == before


def test_an_adapter_that_learnt_nothing_is_not_saved(tiny_base, copy):
    before = listing(copy)

    with pytest.raises(RuntimeError, match="every lora_B is zero: nothing was learnt"):
        adapter.save_adapter(new_adapter(tiny_base, learnt=False), copy)

    assert listing(copy) == before


# --- files of every age -------------------------------------------------------------------------------------------


def test_an_adapter_model_bin_gives_the_same_logits(tiny_base, copy, expected):
    torch.save(load_file(copy / "adapter_model.safetensors"), copy / "adapter_model.bin")
    (copy / "adapter_model.safetensors").unlink()
    model, warning = adapter.attach(base_model(tiny_base), copy, "tiny")

    assert torch.equal(logits(model), expected)
    assert warning == ""


def test_a_pickle_of_the_old_torch_format_gives_the_same_logits(tiny_base, copy, expected):
    tensors = load_file(copy / "adapter_model.safetensors")
    torch.save(tensors, copy / "adapter_model.bin", _use_new_zipfile_serialization=False)
    (copy / "adapter_model.safetensors").unlink()

    assert torch.equal(logits(adapter.attach(base_model(tiny_base), copy, "tiny")[0]), expected)


def test_a_pytorch_model_bin_without_config_gives_the_same_logits_and_a_warning(tiny_base, copy, expected):
    torch.save(load_file(copy / "adapter_model.safetensors"), copy / "pytorch_model.bin")
    (copy / "adapter_model.safetensors").unlink()
    (copy / "adapter_config.json").unlink()
    model, warning = adapter.attach(base_model(tiny_base), copy, "tiny")

    assert torch.equal(logits(model), expected)
    assert f"{copy} has no adapter_config.json: rank 8 and modules q_proj, v_proj are read from its tensors" in warning
    assert "alpha 16 is assumed from config-sample/adapter_config.json" in warning


def test_the_newest_weight_file_of_a_folder_is_taken(copy):
    for name in ("pytorch_model.bin", "adapter_model.bin"):
        torch.save({}, copy / name)

    assert adapter.weight_file(copy).name == "adapter_model.safetensors"
    (copy / "adapter_model.safetensors").unlink()
    assert adapter.weight_file(copy).name == "adapter_model.bin"


def test_float16_tensors_of_an_old_adapter_are_read(tiny_base, copy, expected):
    tensors = {name: value.half() for name, value in load_file(copy / "adapter_model.safetensors").items()}
    save_file(tensors, copy / "adapter_model.safetensors")

    assert torch.allclose(logits(adapter.attach(base_model(tiny_base), copy, "tiny")[0]), expected, atol=0.05)


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_an_adapter_changes_the_answers_of_a_base_of_fewer_bits(tiny_base, saved, bits):
    alone = logits(base_model(tiny_base, bits))

    assert (logits(adapter.attach(base_model(tiny_base, bits), saved, "tiny")[0]) - alone).abs().max() > 0.1


@pytest.mark.parametrize(("name", "modules"), [
    ("adapter_config.json", ["q_proj", "v_proj"]),
    ("sample_instruct_adapter_config.json", ["q_proj", "v_proj"]),
    ("sample_chat_adapter_config.json", ALL_MODULES),
])  # fmt: skip
def test_a_config_of_2023_is_read_with_all_its_values(tiny_base, shared, tmp_path, name, modules):
    model = new_adapter(tiny_base, target_modules=modules)
    adapter.save_adapter(model, tmp_path)
    shutil.copyfile(shared / "lora/chinese-vicuna-7b-partial" / name, tmp_path / "adapter_config.json")
    config, warning = adapter.read_config(tmp_path, adapter.read_tensors(adapter.weight_file(tmp_path)))

    assert (config.r, config.lora_alpha, config.lora_dropout) == (8, 16, 0.05)
    assert set(config.target_modules) == set(modules)
    assert warning == ""
    assert torch.equal(logits(adapter.attach(base_model(tiny_base), tmp_path, "tiny")[0]), logits(model))


@pytest.mark.parametrize("name", ["peft-safetensors", "peft-bin", "checkpoint-200"])
def test_a_real_adapter_of_every_age_gives_the_same_logits(shared, name):
    base = shared / "models/poem-zh-750k-hf"
    folder = shared / "lora/poem-zh-lora-generated/r8-qv"
    model, _ = adapter.attach(base_model(base), folder / name, "poem")
    reference, _ = adapter.attach(base_model(base), folder / "peft-safetensors", "poem")

    assert torch.equal(logits(model), logits(reference))


def test_reading_an_adapter_leaves_its_folder_as_it_was(tiny_base, copy):
    torch.save(load_file(copy / "adapter_model.safetensors"), copy / "pytorch_model.bin")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (copy / name).unlink()
    before = listing(copy.parent)
    adapter.plan_adapter(check_base(str(tiny_base)), LoraFlags(), copy)
    adapter.attach(base_model(tiny_base), copy, "tiny")
    adapter.run_args(copy)

    assert listing(copy.parent) == before
    assert [file.name for file in copy.iterdir()] == ["pytorch_model.bin"]


def test_only_the_adapter_is_trained_when_a_run_starts_from_it(tiny_base, saved):
    model, _ = adapter.attach(base_model(tiny_base), saved, "tiny", trainable=True)

    assert {name for name, value in model.named_parameters() if value.requires_grad} == {
        name for name, _ in model.named_parameters() if "lora_" in name
    }


def test_nothing_is_trained_when_an_adapter_only_answers(tiny_base, saved):
    model, _ = adapter.attach(base_model(tiny_base), saved, "tiny")

    assert not any(value.requires_grad for value in model.parameters())


# --- refusals -----------------------------------------------------------------------------------------------------


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
        adapter.attach(base_model(tiny_base), folder, "tiny")

    assert not target.exists()


def test_the_bomb_of_the_test_above_would_go_off(tmp_path):
    plain_pickle(Bomb(tmp_path / "executed"), tmp_path / "bomb")
    pickle.loads((tmp_path / "bomb").read_bytes())

    assert (tmp_path / "executed").exists()


def test_a_folder_without_an_adapter_is_refused(tmp_path):
    (tmp_path / "optimizer.pt").touch()

    with pytest.raises(UserError, match=r"has no adapter: expected one of adapter_model\.safetensors, .*found opt"):
        adapter.weight_file(tmp_path)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin"])
@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"PK\x03\x04" + b"\0" * 40])
def test_a_broken_weight_file_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(UserError, match=rf"{re.escape(name)} can not be read as plain tensors \(.+\)\. It is broken"):
        adapter.read_tensors(tmp_path / name)


def test_a_truncated_weight_file_is_refused(copy):
    file = copy / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])

    with pytest.raises(UserError, match=r"adapter_model\.safetensors can not be read as plain tensors"):
        adapter.read_tensors(file)


def test_a_file_without_lora_tensors_is_refused(tiny_base):
    with pytest.raises(UserError, match=r"model\.safetensors holds no LoRA tensors; expected names such as"):
        adapter.read_tensors(tiny_base / "model.safetensors")


def test_a_weight_file_that_holds_no_dictionary_is_refused(tmp_path):
    torch.save([torch.ones(2)], tmp_path / "adapter_model.bin")

    with pytest.raises(UserError, match=r"adapter_model\.bin is no table of named tensors"):
        adapter.read_tensors(tmp_path / "adapter_model.bin")


def test_a_lora_a_without_its_lora_b_is_refused(copy):
    tensors = load_file(copy / "adapter_model.safetensors")
    tensors.pop(next(name for name in tensors if "lora_B" in name))

    with pytest.raises(UserError, match=r"the adapter has .*lora_A\.weight but no lora_B beside it; the file is"):
        adapter.lora_modules(tensors)


def test_an_adapter_that_lacks_a_module_its_config_promises_is_refused(tiny_base, copy):
    tensors = load_file(copy / "adapter_model.safetensors")
    kept = {name: value for name, value in tensors.items() if "layers.1.self_attn.v_proj" not in name}
    save_file(kept, copy / "adapter_model.safetensors")

    with pytest.raises(UserError, match=r"do not describe the same adapter: 2 tensors differ, such as .*\.1\..*v_proj"):
        adapter.attach(base_model(tiny_base), copy, "tiny")


@pytest.mark.parametrize("rank", [4, 16])
def test_a_config_of_another_rank_is_refused(tiny_base, edit, rank):
    folder = edit(r=rank)

    with pytest.raises(UserError, match=rf"config\.json says r {rank}, but the tensors beside it have rank \[8\]"):
        adapter.attach(base_model(tiny_base), folder, "tiny")


@pytest.mark.parametrize(("modules", "names"), [(["q_proj"], "q_proj"), (["k_proj", "o_proj"], "k_proj, o_proj")])
def test_a_config_that_would_ignore_part_of_the_adapter_is_refused(tiny_base, edit, modules, names):
    folder = edit(target_modules=modules)

    with pytest.raises(UserError, match=f"names the modules {names}, but the tensors beside it are for q_proj, v_proj"):
        adapter.attach(base_model(tiny_base), folder, "tiny")


def test_a_config_with_more_modules_than_the_tensors_is_refused(tiny_base, edit):
    folder = edit(target_modules=["q_proj", "k_proj", "v_proj"])

    with pytest.raises(UserError, match=r"do not describe the same adapter: 4 tensors differ, such as .*k_proj"):
        adapter.attach(base_model(tiny_base), folder, "tiny")


def test_a_config_of_another_method_than_lora_is_refused(tiny_base, copy):
    config = {"peft_type": "IA3", "task_type": "CAUSAL_LM", "target_modules": ["q_proj"], "feedforward_modules": []}
    (copy / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")

    with pytest.raises(UserError, match=r"adapter_config\.json describes a .*IA3 adapter; expected LORA"):
        adapter.attach(base_model(tiny_base), copy, "tiny")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"peft_type": "MAGIC"}', "null"])
def test_a_broken_config_is_refused(tiny_base, copy, content):
    (copy / "adapter_config.json").write_text(content, encoding="utf-8")

    with pytest.raises(UserError, match=r"adapter_config\.json can not be read as an adapter config \("):
        adapter.attach(base_model(tiny_base), copy, "tiny")


def test_a_config_that_names_no_method_is_refused(tiny_base, copy):
    (copy / "adapter_config.json").write_text("{}", encoding="utf-8")

    with pytest.raises(UserError, match=r"adapter_config\.json describes a .* adapter; expected LORA"):
        adapter.attach(base_model(tiny_base), copy, "tiny")


def test_tensors_of_several_ranks_without_a_config_are_refused(tiny_base, tmp_path):
    model = new_adapter(tiny_base, rank_pattern={"q_proj": 4})
    save_file(get_peft_model_state_dict(model), tmp_path / "adapter_model.safetensors")

    with pytest.raises(UserError, match=r"has no adapter_config\.json, and its tensors have the ranks \[4, 8\]: add"):
        adapter.attach(base_model(tiny_base), tmp_path, "tiny")


def test_a_rank_pattern_in_the_config_is_honoured(tiny_base, tmp_path):
    model = new_adapter(tiny_base, rank_pattern={"q_proj": 4})
    adapter.save_adapter(model, tmp_path)

    assert torch.equal(logits(adapter.attach(base_model(tiny_base), tmp_path, "tiny")[0]), logits(model))


@pytest.mark.parametrize("who", ["this program", "PEFT"])
def test_a_low_rank_head_gives_the_same_logits_whoever_saved_it(tiny_base, tmp_path, who):
    """PEFT saves the base's own head beside the matrices, this program the matrices alone."""
    model = new_adapter(tiny_base, target_modules=["lm_head", "q_proj"])
    if who == "PEFT":
        model.save_pretrained(tmp_path)
    else:
        adapter.save_adapter(model, tmp_path)
    tensors = adapter.read_tensors(tmp_path / "adapter_model.safetensors")
    assert ("base_model.model.lm_head.base_layer.weight" in tensors) == (who == "PEFT")
    assert adapter.train_kind(tensors) == "lora"

    for bits in (32, 8):
        base = base_model(tiny_base, bits)
        alone = logits(base)
        found, _ = adapter.attach(base, tmp_path, str(tiny_base))
        assert (logits(found) - alone).abs().max() > 0.1
        with found.disable_adapter():
            assert torch.equal(logits(found), alone)
        if bits == 32:
            assert torch.equal(logits(found), logits(model))
    _, flags, _ = adapter.plan_adapter(check_base(str(tiny_base)), LoraFlags(), tmp_path)
    assert sorted(flags.lora_target_modules) == ["lm_head", "q_proj"]


def test_a_low_rank_head_of_another_base_is_refused(tiny_base, tmp_path):
    new_adapter(tiny_base, target_modules=["lm_head", "q_proj"]).save_pretrained(tmp_path)
    file, name = tmp_path / "adapter_model.safetensors", "base_model.model.lm_head.base_layer.weight"
    tensors = load_file(file)
    save_file({**tensors, name: tensors[name].bfloat16()}, file)
    adapter.attach(base_model(tiny_base), tmp_path, "here")  # the same, kept in 16 bits
    save_file({**tensors, name: tensors[name].flip(0)}, file)

    with pytest.raises(UserError, match=r"changes a lm_head that is not that of here: .* merge the adapter"):
        adapter.attach(base_model(tiny_base), tmp_path, "here")


def test_an_adapter_of_another_architecture_is_refused(tiny_base, shared):
    folder = shared / "lora/pythia70m-lora-alpaca"

    with pytest.raises(UserError, match=r"the adapter changes gpt_neox\..*query_key_value, which tiny does not have"):
        adapter.attach(base_model(tiny_base), folder, "tiny")


def test_an_adapter_of_another_architecture_is_refused_before_any_weight_is_loaded(tiny_base, shared):
    base = check_base(str(tiny_base))

    with pytest.raises(UserError, match=r"the adapter changes gpt_neox\..*another kind of base"):
        adapter.plan_adapter(base, LoraFlags(), shared / "lora/pythia70m-lora-alpaca")


def test_an_adapter_of_another_hidden_size_is_refused(tiny_base, tmp_path):
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {f"{prefix}.lora_A.weight": torch.ones(8, 64), f"{prefix}.lora_B.weight": torch.ones(64, 8)}
    save_file(tensors, tmp_path / "adapter_model.safetensors")

    with pytest.raises(UserError, match=r"a base whose model\.layers\.0\.self_attn\.q_proj is 64 -> 64, but in tiny"):
        adapter.attach(base_model(tiny_base), tmp_path, "tiny")


def test_an_adapter_of_more_layers_is_refused(tiny_base, tmp_path):
    prefix = "base_model.model.model.layers.2.self_attn.q_proj"
    tensors = {f"{prefix}.lora_A.weight": torch.ones(8, 32), f"{prefix}.lora_B.weight": torch.ones(32, 8)}

    with pytest.raises(UserError, match=r"the adapter changes model\.layers\.2\.self_attn\.q_proj, which tiny does"):
        adapter.check_compatible(tensors, meta_model(check_base(str(tiny_base)).config), "tiny")


# --- plans and names ----------------------------------------------------------------------------------------------


def test_a_run_from_an_adapter_takes_its_rank_alpha_and_modules(tiny_base, tmp_path):
    adapter.save_adapter(new_adapter(tiny_base, r=4, lora_alpha=24, target_modules=["k_proj", "up_proj"]), tmp_path)
    config, flags, warning = adapter.plan_adapter(check_base(str(tiny_base)), LoraFlags(lora_dropout=0.2), tmp_path)

    assert (config.r, config.lora_alpha, config.lora_dropout) == (4, 24, 0.2)
    assert (flags.lora_r, flags.lora_alpha, flags.lora_target_modules) == (4, 24, ["k_proj", "up_proj"])
    assert warning == ""


def test_a_new_run_takes_rank_alpha_and_modules_of_the_flags(tiny_base):
    flags = LoraFlags(lora_r=2, lora_alpha=6, lora_dropout=0.0, lora_target_modules=["o_proj"])
    config, same, _ = adapter.plan_adapter(check_base(str(tiny_base)), flags, None)

    assert (config.r, config.lora_alpha, config.lora_dropout) == (2, 6, 0.0)
    assert set(config.target_modules) == {"o_proj"}
    assert same == flags


def test_parameters_are_counted_without_weights(tiny_base):
    base = check_base(str(tiny_base))
    config, _, _ = adapter.plan_adapter(base, LoraFlags(), None)
    whole = sum(value.numel() for value in load_file(tiny_base / "model.safetensors").values())

    found = adapter.count_parameters(meta_model(base.config), config)

    assert found.trainable == 2 * 2 * (8 * 32 + 32 * 8)  # blocks x (q, v) x (A + B)
    assert found.quantisable == 2 * (4 * 32 * 32 + 3 * 32 * 64)  # every linear layer but the head
    assert found.total == whole + found.trainable


def test_target_modules_that_the_base_lacks_are_refused(tiny_base):
    base = check_base(str(tiny_base))
    config, _, _ = adapter.plan_adapter(base, LoraFlags(lora_target_modules=["q_proj", "query_key_value"]), None)

    with pytest.raises(UserError, match=r"--lora_target_modules query_key_value: no such linear layers .*it has down"):
        adapter.count_parameters(meta_model(base.config), config)


def test_use_local_1_never_asks_the_hub():
    with pytest.raises(UserError, match="--lora_path owner/name does not exist here, and --use_local 1 forbids"):
        adapter.adapter_folder("owner/name", True)


def test_use_local_0_refuses_a_folder(saved):
    with pytest.raises(UserError, match=r"is a folder here, but --use_local 0 means a hub id; drop --use_local"):
        adapter.adapter_folder(str(saved), False)


@pytest.mark.parametrize("use_local", [None, True])
def test_a_folder_is_taken_as_it_is(saved, use_local):
    assert adapter.adapter_folder(str(saved), use_local) == saved


@pytest.mark.parametrize("where", [".", ".."])
def test_run_args_are_found_beside_the_adapter_or_above_a_checkpoint(tmp_path, where):
    folder = tmp_path / "checkpoint-5"
    folder.mkdir()
    (folder / where / "run_args.json").write_text('{"prompt_type": "chat"}', encoding="utf-8")

    assert adapter.run_args(folder) == {"prompt_type": "chat"}


def test_run_args_of_another_folder_above_are_not_taken(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "run_args.json").write_text('{"prompt_type": "chat"}', encoding="utf-8")

    assert adapter.run_args(tmp_path / "mine") == {}


def test_broken_run_args_are_refused(tmp_path):
    (tmp_path / "run_args.json").write_text("{\n\n", encoding="utf-8")

    with pytest.raises(UserError, match=r"run_args\.json is not JSON \(.+ in line 3\)"):
        adapter.run_args(tmp_path)
