"""The base: arguments for every precision, and refusals before any weight is read."""

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from vicuna.errors import UserError
from vicuna.model.base import check_base, compute_dtype, fingerprint, load_kwargs
from vicuna.model.config import meta_model

NO_BASE = "no such folder here, and no hub id of the form owner/name"


def test_4_bits_are_nf4_with_double_quantization():
    config = load_kwargs(4, torch.bfloat16)["quantization_config"]

    assert config.load_in_4bit
    assert not config.load_in_8bit
    assert config.bnb_4bit_quant_type == "nf4"
    assert config.bnb_4bit_use_double_quant
    assert config.bnb_4bit_compute_dtype is torch.bfloat16


def test_8_bits_are_bitsandbytes_int8():
    config = load_kwargs(8, torch.float32)["quantization_config"]

    assert config.load_in_8bit
    assert not config.load_in_4bit


@pytest.mark.parametrize(("bits", "dtype"), [(16, torch.bfloat16), (16, torch.float32), (32, torch.float32)])
def test_16_and_32_bits_are_not_quantized(bits, dtype):
    assert load_kwargs(bits, dtype) == {"dtype": dtype}


def test_32_bits_compute_in_float32():
    assert compute_dtype(32) == (torch.float32, "asked for by --bits 32")


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_fewer_bits_say_why_they_compute_as_they_do(bits):
    dtype, reason = compute_dtype(bits)

    assert dtype in (torch.bfloat16, torch.float16, torch.float32)
    assert re.search("this (CPU|GPU)|Apple", reason)


@pytest.mark.parametrize(
    ("capabilities", "dtype", "reason"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, torch.bfloat16, "this CPU has AMX"),
        ({"amx_bf16": False, "avx512_bf16": True}, torch.bfloat16, "this CPU has AVX512-BF16"),
        ({"avx2": True, "avx512_f": True}, torch.float32, "this CPU has neither AVX512-BF16 nor AMX"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine does not compute on its CPU")
def test_a_cpu_computes_in_bfloat16_only_where_it_has_it(monkeypatch, capabilities, dtype, reason):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)

    assert compute_dtype(16) == (dtype, reason)


@pytest.mark.parametrize("name", ["./models/none", "/nowhere/models/none", "~/no-such-base", "a/b/c", "nameless"])
def test_a_path_that_does_not_exist_is_refused(name):
    with pytest.raises(UserError, match=rf"--model_path {re.escape(name)} does not exist: {NO_BASE}"):
        check_base(name)


def test_a_name_whose_parent_folder_exists_is_a_path(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UserError, match=f"--model_path models/mine does not exist: {NO_BASE}"):
        check_base("models/mine")


def test_a_hub_id_that_can_not_be_had_is_refused():
    with pytest.raises(UserError, match=r"--model_path nobody/nothing is no folder here, and the hub did not give it"):
        check_base("nobody/nothing")


def test_the_embedded_base_that_is_not_made_yet_names_its_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(
        UserError, match=r"models/tiny-llama-zh does not exist yet: make it with python tools/make_tiny"
    ):
        check_base("models/tiny-llama-zh")


def test_a_file_is_refused_where_a_folder_is_expected(tiny_base):
    with pytest.raises(UserError, match=r"config\.json is a file; expected the folder that holds it"):
        check_base(str(tiny_base / "config.json"))


def test_a_folder_without_config_is_refused(base_copy):
    (base_copy / "config.json").unlink()

    with pytest.raises(UserError, match=r"has no config\.json, found generation_config\.json, model\.safetensors"):
        check_base(str(base_copy))


@pytest.mark.parametrize("content", ["", "{", '{"model_type": "no_such_kind"}', "{}", "[]", '{"vocab_size": "x"}'])
def test_a_broken_config_is_refused(base_copy, content):
    (base_copy / "config.json").write_text(content, encoding="utf-8")

    with pytest.raises(UserError, match=r"config\.json( can not be read \(| is empty| is |: vocab_size is 'x')"):
        check_base(str(base_copy))


def test_a_folder_without_weights_is_refused(base_copy):
    (base_copy / "model.safetensors").unlink()

    with pytest.raises(UserError, match=r"has no weights: expected one of model\.safetensors, .*, found config\.json"):
        check_base(str(base_copy))


def test_a_folder_without_tokenizer_is_refused(base_copy):
    for name in ("tokenizer.model", "tokenizer.json"):
        (base_copy / name).unlink()

    with pytest.raises(UserError, match=r"has no tokenizer: expected tokenizer\.model or tokenizer\.json"):
        check_base(str(base_copy))


def test_the_config_of_early_2023_with_bos_0_and_eos_1_is_refused_naming_both_files(edit_base):
    folder = edit_base("config.json", bos_token_id=0, eos_token_id=1)

    with pytest.raises(
        UserError, match=r"base/config\.json says bos_token_id 0, but tokenizer\.model beside it says 1"
    ):
        check_base(str(folder))


def test_a_config_with_another_eos_is_refused_naming_both_files(edit_base):
    folder = edit_base("config.json", eos_token_id=1)

    with pytest.raises(UserError, match=r"config\.json says eos_token_id 1, but tokenizer\.model beside it says 2"):
        check_base(str(folder))


def test_a_generation_config_with_another_eos_is_refused_naming_both_files(edit_base):
    folder = edit_base("generation_config.json", eos_token_id=7)

    with pytest.raises(UserError, match=r"generation_config\.json says eos_token_id 7, but tokenizer\.model .* says 2"):
        check_base(str(folder))


def test_several_eos_ids_are_accepted_when_the_tokenizers_is_among_them(edit_base):
    edit_base("config.json", eos_token_id=[7, 2])
    folder = edit_base("generation_config.json", eos_token_id=[7, 2])

    assert check_base(str(folder)).generation_config.eos_token_id == [7, 2]


def test_a_config_that_names_no_ids_is_accepted(edit_base):
    edit_base("config.json", bos_token_id=None, eos_token_id=None)
    folder = edit_base("generation_config.json", bos_token_id=None, eos_token_id=None)

    assert check_base(str(folder)).tokenizer.eos_id == 2


def test_a_base_without_generation_config_is_accepted(base_copy):
    (base_copy / "generation_config.json").unlink()

    assert check_base(str(base_copy)).generation_config.eos_token_id == 2


def test_a_broken_generation_config_is_refused(base_copy):
    (base_copy / "generation_config.json").write_text("{", encoding="utf-8")

    with pytest.raises(UserError, match=r"generation_config\.json is not JSON \("):
        check_base(str(base_copy))


def test_a_vocabulary_smaller_than_the_tokenizer_is_refused(edit_base):
    folder = edit_base("config.json", vocab_size=1799)

    with pytest.raises(UserError, match=r"tokenizer\.model has 1800 pieces, but the base's vocab_size is 1799"):
        check_base(str(folder))


def test_a_vocabulary_padded_above_the_tokenizer_is_accepted(edit_base):
    folder = edit_base("config.json", vocab_size=1856)
    weights = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.nn.functional.pad(weights[name], (0, 0, 0, 56))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    assert check_base(str(folder)).config.vocab_size == 1856


def test_a_good_base_says_what_it_is(tiny_base):
    base = check_base(str(tiny_base))

    assert base.path == tiny_base
    assert base.context == 512
    assert base.tokenizer.size == base.config.vocab_size == 1800


def test_a_skeleton_has_every_name_and_shape_and_no_weights(tiny_base):
    bones = meta_model(check_base(str(tiny_base)).config)
    saved = load_file(tiny_base / "model.safetensors")

    assert {name: tensor.shape for name, tensor in bones.state_dict().items()} == {
        name: tensor.shape for name, tensor in saved.items()
    }
    assert all(tensor.is_meta for tensor in bones.parameters())


def test_the_fingerprint_changes_with_a_weight_and_not_with_the_folder(tiny_base, base_copy):
    assert fingerprint(base_copy) == fingerprint(tiny_base)
    tensors = load_file(base_copy / "model.safetensors")
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, base_copy / "model.safetensors", metadata={"format": "pt"})

    assert fingerprint(base_copy) != fingerprint(tiny_base)


def test_a_base_that_does_not_continue_text_is_refused(tiny_base, tmp_path):
    from transformers import T5Config

    folder = tmp_path / "t5"
    shutil.copytree(tiny_base, folder)
    T5Config(vocab_size=1800).save_pretrained(folder)
    with pytest.raises(UserError, match="the base is of type T5, which does not continue text"):
        check_base(str(folder))
