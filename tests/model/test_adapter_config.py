"""What adapter_config.json declares is typed, and compared with the tensors before PEFT makes anything of it."""

import contextlib
import itertools
import json
import re

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.foreign.odd_values import ODD, replaced
from tests.model.tiny_adapters import base_model, logits, new_adapter
from vicuna.errors import UserError
from vicuna.foreign.patterns import Pattern
from vicuna.foreign.typed import READERS, parse, typed
from vicuna.model.adapter import load_adapter, read_plain_adapter
from vicuna.model.adapter_config import AdapterConfig, resolved
from vicuna.model.adapter_files import read_adapter, read_adapter_tensors
from vicuna.model.base import check_base
from vicuna.model.config import meta_model

MODULES = [f"model.layers.{layer}.self_attn.{name}" for layer in (0, 1, 10) for name in ("q_proj", "v_proj")]
MODULES += ["model.layers.3.mlp.down_proj", "model.embed_tokens", "lm_head"]


@pytest.fixture
def made(monkeypatch) -> list[int]:
    """Ranks of the matrices that PEFT is asked for, in the order in which it makes them."""
    from peft.tuners.lora import LoraLayer

    asked, own = [], LoraLayer.update_layer

    def counted(self, name, r, *args, **kwargs):
        asked.append(r)
        return own(self, name, r, *args, **kwargs)

    monkeypatch.setattr(LoraLayer, "update_layer", counted)
    return asked


def refusal(tiny_base, folder) -> str:
    with pytest.raises(UserError) as refused:
        read_plain_adapter(folder, meta_model(check_base(str(tiny_base)).config), tiny_base, "tiny")
    return str(refused.value)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"r": 10**9}, "r is 1000000000; expected at most 65536"),
        ({"r": 9}, "says r 9, but the tensors beside it have rank [8]"),
        ({"rank_pattern": {"q_proj": 9}}, "says r 8, but the tensors beside it have rank [8]"),
        ({"rank_pattern": {"(q": 9}}, "rank_pattern: the pattern '(q' is not read here"),
        ({"alpha_pattern": {"(?<=a)b": 9}}, "alpha_pattern: the pattern '(?<=a)b' is not read here"),
        ({"alpha_pattern": {f"{n}.*": 9 for n in range(201)}}, "alpha_pattern has 201 patterns; expected at most 200"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan; expected a"),
        ({"lora_alpha": None}, "lora_alpha is None; expected a"),
        ({"alpha_pattern": {"q_proj": float("inf")}}, "alpha_pattern.q_proj is inf; expected a"),
        ({"layer_replication": [[0, 9]]}, "says arrow_config, use_bdlora, layer_replication"),
        ({"init_lora_weights": "pissa_niter_1000000"}, "init_lora_weights is 'pissa_niter_1000000'; expected true, fa"),
        ({"init_lora_weights": "new"}, "init_lora_weights is 'new'; expected true, false or one of gaussian, eva"),
        ({"modules_to_save": ["layers"]}, "has layers in modules_to_save, and the tensors beside it have nothing of"),
        ({"modules_to_save": [""]}, "modules_to_save.0 is ''; expected"),
        ({"layers_to_transform": "first"}, "layers_to_transform is 'first'; expected"),
        ({"bias": "some"}, "bias is 'some'; expected"),
        ({"target_modules": ["q_proj", 3]}, "target_modules is ['q_proj', 3]; expected a list of names"),
    ],
)
def test_what_a_config_declares_beyond_the_tensors_is_a_sentence_before_peft_makes_it(
    tiny_base, edit_config, made, fields, says
):
    assert says in (said := refusal(tiny_base, edit_config(**fields)))
    assert "adapter_config.json" in said
    assert made == []


def test_a_rank_that_no_tensor_has_is_not_made(tiny_base, edit_config, made):
    folder = edit_config(r=4096, rank_pattern={".*(q|v)_proj": 8}, target_modules=["q_proj", "v_proj", "k_proj"])
    with pytest.raises(UserError, match=r"do not describe the same adapter: 4 tensors differ"):
        load_adapter(base_model(tiny_base), folder, "tiny")
    assert set(made) == {8}


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": "(.*)*q_proj|.*v_proj"},  # what `re` would not return from on a longer name
        {"target_modules": "all-linear", "exclude_modules": r".*(mlp|[ko]_proj).*"},
        {"target_modules": None},
        {"layers_pattern": "(l*)*ayers", "layers_to_transform": [0, 1]},
        {"rank_pattern": {r"(?:.*)*\.[qv]_proj": 8}, "r": 2},
        {"alpha_pattern": {r"layers\.\d\..*(q|v)_proj": 16}, "lora_alpha": 1},
        {"alpha_pattern": {r"^model\.layers\.0\.self_attn\.q_proj": 16, "self_attn.[qv]_proj$": 16}, "lora_alpha": 1},
        {"use_dora": None, "rank_pattern": None, "bias": None},
    ],
)
def test_patterns_and_null_mean_what_they_did(tiny_base, edit_config, expected, fields):
    model, warning = load_adapter(base_model(tiny_base), edit_config(**fields), "tiny")

    assert torch.equal(logits(model), expected)
    assert warning == ""


def test_peft_is_told_names_in_place_of_patterns(edit_config):
    folder = edit_config(
        target_modules=".*_proj",
        rank_pattern={"[q]_proj": 8, "k_proj": 3},
        alpha_pattern={r"model\.layers\.0\.self_attn\.[q]_proj": 8, "[v]_proj": 5, "[k]_proj": 3},
    )
    config = read_adapter(folder)[1]

    modules = {f"model.layers.{layer}.self_attn.{name}" for layer in (0, 1) for name in ("q_proj", "v_proj")}
    assert set(config.target_modules) == modules
    assert config.rank_pattern == {"q_proj": 8}
    assert config.alpha_pattern == {"model.layers.0.self_attn.q_proj": 8, "v_proj": 5}


PATTERNS = [
    *("q_proj", "^lm_head", r"layers\.\d\..*(q|v)_proj", r"layers\.[0-9]+\.self_attn\..*", "lm_head|q_proj"),
    *(r".*\.(0|1|2)\.self_attn\.q_proj", r"model\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|down_proj))"),
    *(r"(?:.*?(?:self_attn).*?(?:q_proj).*?)|\bmodel", r"(?!.*lm_head).*proj", r"1{2}0?\.self", "(?=.*mlp).*", ""),
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_fits_the_names_that_it_fits_in_peft(pattern):
    fits = [bool(re.match(rf"(.*\.)?({pattern})$", module)) for module in MODULES]

    assert [Pattern(pattern).fits_end(module) for module in MODULES] == fits
    assert [module in resolved({pattern: 1}, MODULES, "it", "rank_pattern") for module in MODULES] == fits


def test_the_first_key_that_fits_counts_as_in_peft():
    patterns = {"[q]_proj": 1, "q_proj": 2, "^lm_head": 3, "head": 4, "layers.10.self_attn.v_proj": 5, ".*v_proj": 6}
    found = resolved(patterns, MODULES, "it", "rank_pattern")

    for module in MODULES:
        key = peft.utils.other.get_pattern_key(patterns, module)
        assert found.get(module, (None,))[0] == patterns.get(key), module


@pytest.mark.parametrize("pattern", ["(" * 14 + "a*" + ")*" * 14 + "b", "((a{50}){50}){50}", "(a|a)" * 60 + "b"])
def test_no_pattern_takes_more_steps_than_its_length_times_that_of_the_name_squared(pattern, monkeypatch):
    import vicuna.foreign.patterns

    steps = []
    own = vicuna.foreign.patterns.Pattern._sign

    def counted(self, token):
        part = own(self, token)
        return lambda name, places: steps.append(len(places)) or part(name, places)

    monkeypatch.setattr(vicuna.foreign.patterns.Pattern, "_sign", counted)
    assert not Pattern(pattern).fits_end("a" * 60)
    assert sum(steps) <= len(pattern) * 60**2


@pytest.mark.parametrize("pattern", ["(", ")", "*a", "a**", r"\1", "(?<=a)b", "(?P<x>a)", "a{99}", "[", "a" * 501])
def test_a_pattern_that_is_not_read_is_a_sentence(pattern):
    with pytest.raises(UserError, match=r"^the pattern .* is not read here \(.*\); expected the name of a module"):
        Pattern(pattern)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda one: one.to(torch.complex64), "as complex64; an adapter is made of floating-point numbers"),
        (lambda one: one.to(torch.int32), "as int32; an adapter is made of floating-point numbers"),
        (lambda one: one.to_sparse(), "says (8, 32), of which the file does not hold all values"),
        (lambda one: torch.full_like(one, torch.nan), "with values that are not finite: its training diverged"),
        (lambda one: one[:1, :1].clone().expand(one.shape), "says (8, 32), of which the file does not hold all values"),
        (lambda one: one.flatten(), "and lora_B of (32, 8), which are no matrices of one rank"),
        (lambda one: one[:4].clone(), "of (4, 32) and lora_B of (32, 8), which are no matrices of one rank"),
    ],
)
def test_tensors_of_an_adapter_are_finite_matrices_of_floats(tiny_base, copy, change, says):
    tensors = load_file(copy / "adapter_model.safetensors")
    name = next(name for name in tensors if name.endswith("0.self_attn.q_proj.lora_A.weight"))
    torch.save(tensors | {name: change(tensors[name])}, copy / "adapter_model.bin")
    (copy / "adapter_model.safetensors").unlink()

    assert says in (said := refusal(tiny_base, copy))
    assert name in said


def test_a_tensor_of_another_shape_than_peft_has_for_it_is_a_sentence(tiny_base, tmp_path):
    new_adapter(tiny_base, use_dora=True).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    name = next(name for name in tensors if name.endswith("lora_magnitude_vector"))
    save_file(tensors | {name: torch.ones(7)}, tmp_path / "adapter_model.safetensors")

    with pytest.raises(UserError, match=r"lora_magnitude_vector of \(7,\), and on tiny it is \(32,\): it belongs to"):
        load_adapter(base_model(tiny_base), tmp_path, "tiny")


@pytest.mark.parametrize(("rows", "says"), [([5, 500], "names 2 rows of"), ([5, 6, 10**6], "has row 1000000 of")])
def test_rows_that_the_tensors_or_the_base_do_not_have_are_a_sentence(tiny_base, tmp_path, rows, says):
    new_adapter(tiny_base, trainable_token_indices=[5, 500, 7]).save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    said = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(said | {"trainable_token_indices": rows}), encoding="utf-8")

    assert says in refusal(tiny_base, tmp_path)


def test_what_passes_of_odd_values_is_a_sentence_or_the_same_adapter(tiny_base, edit_config):
    """The others are refused by their types: tests/foreign/test_typed.py."""
    good = json.loads((edit_config() / "adapter_config.json").read_text(encoding="utf-8"))
    skeleton, passed = meta_model(check_base(str(tiny_base)).config), 0
    for field, (name, value) in itertools.product(READERS[AdapterConfig], ODD.items()):
        text = replaced(good | {field: None}, (field,), name, value).encode()
        with contextlib.suppress(UserError):
            typed(parse(text, "it"), AdapterConfig, "it")
            (folder := edit_config()).joinpath("adapter_config.json").write_bytes(text)
            tensors, config, _ = read_plain_adapter(folder, skeleton, tiny_base, "tiny")
            passed += 1
            assert len(tensors) == 8, (field, name)
            # An object for kasa_config makes it a KaSA adapter, which is converted to one of twice the rank.
            assert config.r == (16 if (field, name) == ("kasa_config", "object") else 8), (field, name)
    assert passed > len(READERS[AdapterConfig])


def test_real_adapters_are_read(shared):
    folders = [file.parent for file in sorted((shared / "lora").rglob("adapter_model.*"))]

    assert len(folders) >= 3
    for folder in folders:
        tensors, config, _ = read_adapter(folder)
        assert tensors.keys() == read_adapter_tensors(next(folder.glob("adapter_model.*"))).keys()
        assert {tensor.shape[0] for name, tensor in tensors.items() if "lora_A" in name} == {config.r}
