"""The base: arguments for every precision, refusals before any weight is read, and loading at 4, 8, 16, 32 bits."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vicuna.errors import UserError
from vicuna.model.base import check_base, compute_dtype, fingerprint, load_base, load_kwargs, meta_model

NO_BASE = "no such folder here, and no hub id of the form owner/name"


@pytest.fixture
def base_copy(tiny_base, tmp_path) -> Path:
    """A copy of the tiny base that a test may spoil."""
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


@pytest.fixture
def edit(base_copy) -> Callable[..., Path]:
    """Change fields of a JSON file of the copy; a field set to None is removed."""

    def change(name: str, **fields: object) -> Path:
        file = base_copy / name
        content = json.loads(file.read_text(encoding="utf-8")) | fields
        content = {key: value for key, value in content.items() if value is not None}
        file.write_text(json.dumps(content), encoding="utf-8")
        return base_copy

    return change


# --- precision ----------------------------------------------------------------------------------------------------


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


# --- refusals before any weight is read ---------------------------------------------------------------------------


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

    with pytest.raises(UserError, match=r"config\.json can not be read \("):
        check_base(str(base_copy))


def test_a_folder_without_weights_is_refused(base_copy):
    (base_copy / "model.safetensors").unlink()

    with pytest.raises(UserError, match=r"has no weights: expected \*\.safetensors or pytorch_model\*\.bin beside"):
        check_base(str(base_copy))


def test_a_folder_without_tokenizer_is_refused(base_copy):
    for name in ("tokenizer.model", "tokenizer.json"):
        (base_copy / name).unlink()

    with pytest.raises(UserError, match=r"has no tokenizer: expected tokenizer\.model or tokenizer\.json"):
        check_base(str(base_copy))


def test_the_config_of_early_2023_with_bos_0_and_eos_1_is_refused_naming_both_files(edit):
    folder = edit("config.json", bos_token_id=0, eos_token_id=1)

    with pytest.raises(
        UserError, match=r"base/config\.json says bos_token_id 0, but tokenizer\.model beside it says 1"
    ):
        check_base(str(folder))


def test_a_config_with_another_eos_is_refused_naming_both_files(edit):
    folder = edit("config.json", eos_token_id=1)

    with pytest.raises(UserError, match=r"config\.json says eos_token_id 1, but tokenizer\.model beside it says 2"):
        check_base(str(folder))


def test_a_generation_config_with_another_eos_is_refused_naming_both_files(edit):
    folder = edit("generation_config.json", eos_token_id=7)

    with pytest.raises(UserError, match=r"generation_config\.json says eos_token_id 7, but tokenizer\.model .* says 2"):
        check_base(str(folder))


def test_several_eos_ids_are_accepted_when_the_tokenizers_is_among_them(edit):
    edit("config.json", eos_token_id=[7, 2])
    folder = edit("generation_config.json", eos_token_id=[7, 2])

    assert check_base(str(folder)).generation_config.eos_token_id == [7, 2]


def test_a_config_that_names_no_ids_is_accepted(edit):
    edit("config.json", bos_token_id=None, eos_token_id=None)
    folder = edit("generation_config.json", bos_token_id=None, eos_token_id=None)

    assert check_base(str(folder)).tokenizer.eos_id == 2


def test_a_base_without_generation_config_is_accepted(base_copy):
    (base_copy / "generation_config.json").unlink()

    assert check_base(str(base_copy)).generation_config.eos_token_id == 2


def test_a_broken_generation_config_is_refused(base_copy):
    (base_copy / "generation_config.json").write_text("{", encoding="utf-8")

    with pytest.raises(UserError, match=r"generation_config\.json can not be read \("):
        check_base(str(base_copy))


def test_a_vocabulary_smaller_than_the_tokenizer_is_refused(edit):
    folder = edit("config.json", vocab_size=1799)

    with pytest.raises(UserError, match=r"tokenizer\.model has 1800 pieces, but the base's vocab_size is 1799"):
        check_base(str(folder))


def test_a_vocabulary_padded_above_the_tokenizer_is_accepted(edit):
    assert check_base(str(edit("config.json", vocab_size=1856))).config.vocab_size == 1856


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


# --- loading ------------------------------------------------------------------------------------------------------

IDS = torch.tensor([[1, 300, 500, 700, 900, 1100, 1300, 1500]])


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS.to(model.device)).logits.float().cpu()


def test_a_base_at_32_bits_is_what_was_saved(tiny_base):
    model = load_base(check_base(str(tiny_base)), 32)
    saved = load_file(tiny_base / "model.safetensors")

    assert all(torch.equal(tensor.cpu(), saved[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("bits", "kind"), [(4, "Linear4bit"), (8, "Linear8bitLt"), (16, "Linear"), (32, "Linear")])
def test_a_base_loads_at_each_precision_and_computes_alike(tiny_base, bits, kind):
    base = check_base(str(tiny_base))
    model = load_base(base, bits)
    exact = logits(load_base(base, 32))
    found = logits(model)

    assert type(model.model.layers[0].self_attn.q_proj).__name__ == kind
    # The head is never quantised; 4 bits keep the direction of the logits of a base of random weights, and no more.
    assert type(model.lm_head).__name__ == "Linear"
    alike = torch.nn.functional.cosine_similarity(found.flatten(), exact.flatten(), dim=0)
    assert alike > {4: 0.8, 8: 0.995, 16: 0.999, 32: 0.999999}[bits]


def test_a_loaded_base_keeps_the_generation_config_beside_it(edit):
    folder = edit("generation_config.json", suppress_tokens=[7])

    assert load_base(check_base(str(folder)), 32).generation_config.suppress_tokens == [7]


@pytest.mark.parametrize("bits", [4, 8, 32])
@pytest.mark.parametrize("keep", [0, 7, 1000, -4])
def test_truncated_weights_are_refused(base_copy, bits, keep):
    file = base_copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])

    with pytest.raises(UserError, match=r"the weights in .* can not be loaded \(.+\)\. Copy the folder again"):
        load_base(check_base(str(base_copy)), bits)


@pytest.mark.parametrize("bits", [8, 32])
def test_weights_that_lack_a_tensor_are_refused_by_its_name(base_copy, bits):
    tensors = load_file(base_copy / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, base_copy / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(UserError, match=r"lack 1 tensors, such as model\.layers\.1\.mlp\.up_proj\.weight\. Copy"):
        load_base(check_base(str(base_copy)), bits)


def test_weights_of_another_shape_are_refused(base_copy):
    tensors = load_file(base_copy / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:-1].clone()
    save_file(tensors, base_copy / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(UserError, match=r"the weights in .*lm_head\.weight"):
        load_base(check_base(str(base_copy)), 32)


# --- the 4-bit trap -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide_base(tiny_base, tmp_path_factory) -> Path:
    """One block of hidden size 64, a whole quantisation block: what bitsandbytes can repack."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("wide") / "base"
    folder.mkdir()
    shutil.copy(tiny_base / "tokenizer.model", folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1800, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4,
        max_position_embeddings=128, initializer_range=0.2, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def train_losses(folder: Path, bits: int, evaluate: bool) -> list[float]:
    """Losses of three training steps, with or without an evaluation between them."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    model = prepare_model_for_kbit_training(load_base(check_base(str(folder)), bits), False)
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "gate_proj"]))
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.5)
    losses = []
    for _ in range(3):
        model.train()
        loss = model(input_ids=IDS.to(model.device), labels=IDS.to(model.device)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if evaluate:
            logits(model)
    return losses


@pytest.mark.parametrize("bits", [4, 8])
def test_an_evaluation_between_two_steps_does_not_change_the_training(wide_base, bits):
    """bitsandbytes 0.50 repacks 4-bit weights at the first evaluation on an AVX512-BF16 CPU; see load_base."""
    straight = train_losses(wide_base, bits, evaluate=False)

    assert train_losses(wide_base, bits, evaluate=True) == straight
    assert straight[-1] < straight[0]


def test_a_base_that_does_not_continue_text_is_refused(tiny_base, tmp_path):
    from transformers import T5Config

    folder = tmp_path / "t5"
    shutil.copytree(tiny_base, folder)
    T5Config(vocab_size=1800).save_pretrained(folder)
    with pytest.raises(UserError, match="the base is of type T5, which does not continue text"):
        check_base(str(folder))
