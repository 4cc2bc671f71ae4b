"""A base that is stored quantised is used as it is, whatever --bits says, and what is said of it is that."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.export.merging import run as merge
from tests.model.tiny_adapters import logits, new_adapter, train_losses
from vicuna.answer.flags import ServeFlags
from vicuna.answer.loading import load_assistant
from vicuna.errors import UserError
from vicuna.model.adapter import save_adapter
from vicuna.model.base import check_base, load_base
from vicuna.model.flags import ModelFlags
from vicuna.model.stored import stored_precision, use_as_stored

KINDS = {8: "Linear8bitLt", 4: "Linear4bit"}
SETTINGS = {
    8: (BitsAndBytesConfig(load_in_8bit=True), torch.float16),
    4: (BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4"), torch.float32),
}


@pytest.fixture(scope="session")
def stored(wide_base, tmp_path_factory) -> dict[int, Path]:
    """The wide base as bitsandbytes saves it, by bits; do not write to it."""
    found = {}
    for bits, (settings, dtype) in SETTINGS.items():
        found[bits] = tmp_path_factory.mktemp("stored") / f"at{bits}"
        model = AutoModelForCausalLM.from_pretrained(
            wide_base, quantization_config=settings, dtype=dtype, device_map={"": "cpu"}
        )
        model.save_pretrained(found[bits])
        shutil.copy(wide_base / "tokenizer.model", found[bits])
    return found


@pytest.fixture
def edited(tmp_path) -> Callable[..., Path]:
    """edited(folder, **fields): a copy with other fields in config.json; None removes one."""

    def edit(folder: Path, **fields: object) -> Path:
        copy = Path(shutil.copytree(folder, tmp_path / "edited"))
        config = json.loads((copy / "config.json").read_text(encoding="utf-8")) | fields
        config = {name: value for name, value in config.items() if value is not None}
        (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return copy

    return edit


@pytest.mark.parametrize("bits", [8, 4])
def test_it_is_loaded_as_it_is_at_any_bits(stored, bits):
    base = check_base(str(stored[bits]))
    models = [load_base(base, asked) for asked in (4, 8, 16)]
    found = [logits(model) for model in models]

    assert {type(model.model.layers[0].self_attn.q_proj).__name__ for model in models} == {KINDS[bits]}
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("bits", [8, 4])
def test_an_evaluation_between_two_steps_changes_nothing_whatever_bits_were_asked_for(stored, bits):
    straight = train_losses(stored[bits], 16, evaluate=False)

    assert train_losses(stored[bits], 16, evaluate=True) == straight
    assert straight[-1] < straight[0]


@pytest.mark.parametrize(("bits", "asked", "int8"), [(8, 4, None), (4, 8, True), (4, 8, None), (4, 32, None)])
def test_the_flags_get_the_bits_it_is_stored_in(stored, caplog, bits, asked, int8):
    base = check_base(str(stored[bits]))
    flags = use_as_stored(base.path, base.config, ModelFlags(str(base.path), bits=asked, int8=int8))

    assert flags.bits == bits
    assert stored_precision(base.path, base.config) == f"bitsandbytes {bits} bit"


def test_training_every_weight_of_it_is_refused(stored):
    base = check_base(str(stored[4]))
    with pytest.raises(UserError, match=r"are stored at 4 bits \(bitsandbytes\): take the model that it was"):
        use_as_stored(base.path, base.config, ModelFlags(str(base.path), bits=32), "full")


def test_the_status_line_and_the_plan_say_what_was_loaded(stored, wide_base, tmp_path, program):
    where = {
        str(folder): load_assistant(ModelFlags(str(folder), bits=bits), ServeFlags(cache_gib=0)).where
        for folder, bits in ((stored[8], 4), (stored[4], 8), (wide_base, 32))
    }
    assert [line.split(" · ")[0] for line in where.values()] == [
        "8 bit as stored, float16", "4 bit as stored, float32", "32 bit, float32",
    ]  # fmt: skip
    data = tmp_path / "data.jsonl"
    data.write_text('{"instruction": "一年有几个季节？", "output": "四个。"}\n' * 4, encoding="utf-8")
    half = AutoModelForCausalLM.from_pretrained(wide_base, dtype=torch.float16)
    half.save_pretrained(tmp_path / "half")
    shutil.copy(wide_base / "tokenizer.model", tmp_path / "half")
    for folder, bits, said in (
        (stored[8], 4, "8 bit as stored (bitsandbytes, CPU)"),
        (wide_base, 8, "8 bit (bitsandbytes, CPU)"),
        (tmp_path / "half", 32, "32 bit (CPU, from float16)"),
    ):
        flags = ["--model_path", folder, "--data_path", data, "--test_size", 1, "--bits", bits]
        done = program("finetune.py", *flags, "--output_path", tmp_path / "run", "--plan_only")
        assert f" {said} " in done.stdout, done.stderr


def test_a_config_and_weights_that_disagree_are_refused_before_anything_is_computed(stored, wide_base, edited):
    settings = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    plain = edited(wide_base, quantization_config=settings)
    with pytest.raises(UserError, match="the weights are quantised by bitsandbytes, and they are plain: remove"):
        load_base(check_base(str(plain)), 8)
    shutil.rmtree(plain)
    bare = edited(stored[8], quantization_config=None)  # whole numbers would be taken for the weights themselves
    with pytest.raises(UserError, match=r"are quantised by bitsandbytes \(.*SCB\), and config\.json beside them"):
        load_base(check_base(str(bare)), 16)
    with pytest.raises(UserError, match=r"are quantised by bitsandbytes \(.*SCB\)"):
        use_as_stored(bare, check_base(str(bare)).config, ModelFlags(str(bare)))


def test_a_config_of_2023_that_names_no_method_is_read(stored, edited, tmp_path):
    old = edited(stored[8], quantization_config={"load_in_8bit": True})
    adapter = tmp_path / "adapter"
    save_adapter(new_adapter(old), adapter)

    assert torch.equal(logits(load_base(check_base(str(old)), 8)), logits(load_base(check_base(str(stored[8])), 8)))
    assert (merge(old, adapter, tmp_path / "merged") / "model.safetensors").is_file()


@pytest.mark.parametrize("bits", [4, 8, 16, 32])
def test_a_quantiser_that_is_not_here_is_named_with_what_is_missing(wide_base, edited, bits):
    folder = edited(wide_base, quantization_config={"quant_method": "aqlm"})
    base = check_base(str(folder))
    message = r"is quantised with aqlm, which can not be read here \(.*aqlm.*\): install what is missing"
    with pytest.raises(UserError, match=message):
        use_as_stored(base.path, base.config, ModelFlags(str(folder), bits=bits))
    with pytest.raises(UserError, match=message):
        load_base(base, bits)


def test_a_method_that_nobody_knows_leaves_plain_weights_plain(wide_base, edited):
    folder = edited(wide_base, quantization_config={"quant_method": "of 2030"})

    assert type(load_base(check_base(str(folder)), 8).model.layers[0].self_attn.q_proj).__name__ == KINDS[8]


@pytest.mark.parametrize("settings", [[1], {}, {"bits": 4}])
def test_settings_without_a_method_are_refused(wide_base, edited, settings):
    with pytest.raises(
        UserError,
        match=r"config\.json( has a quantization_config that names no|: quantization_config is \[1\];)",
    ):
        check_base(str(edited(wide_base, quantization_config=settings)))
