"""A base from elsewhere: what its config declares is compared with its weights, and each odd value is a sentence."""

import json
import re
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.foreign.odd_values import ODD, odd_texts, places, refusal, replaced
from vicuna.errors import UserError
from vicuna.files.tensors import weight_paths
from vicuna.files.weight_heads import Head, read_heads
from vicuna.foreign.safetensors_header import read_safetensors_header
from vicuna.model.base import check_base
from vicuna.model.base_tensors import refuse_not_finite
from vicuna.model.config import meta_model, read_config
from vicuna.model.declared import check_counts, check_shapes
from vicuna.model.declared_decoding import read_generation_config
from vicuna.prompt.tokenizer import TextTokenizer

TRIED = ("null", "text", "list", "negative", "huge", "not finite", "deep")
OTHER = "config and weights are of different models"


@pytest.fixture
def base(tiny_base, tmp_path) -> Path:
    """A copy that may be spoilt."""
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


@pytest.fixture
def edit(base):
    """edit(**fields): the base with other fields in config.json."""

    def edited(**fields) -> Path:
        file = base / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | fields), encoding="utf-8")
        return base

    return edited


def open_config(folder: Path, heads: dict[str, Head]) -> None:
    """What `check_base` does with a config."""
    config = read_config(folder)
    check_counts(folder, heads)
    check_shapes(folder, config, meta_model(config), heads)


@pytest.mark.parametrize("value", TRIED)
def test_every_odd_value_in_a_config_is_a_sentence_or_the_same_model(base, value):
    file, heads = base / "config.json", read_heads(weight_paths(base))
    settings = json.loads(file.read_text(encoding="utf-8")) | {"rope_parameters": {"rope_theta": 1e4, "factor": 2.0}}
    settings["rope_parameters"]["rope_type"] = "linear"
    said = []
    for place in places(settings):
        file.write_text(replaced(settings, place, value, ODD[value]), encoding="utf-8")
        said.append(refusal(lambda: open_config(base, heads)))
    assert [one for one in said if len(one) > 500 + 2 * len(str(file))] == []
    assert sum(map(bool, said)) > 3 or value == "null"


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
def test_every_odd_value_beside_a_config_is_a_sentence_or_the_right_work(base, name):
    file = base / name
    settings = json.loads(file.read_text(encoding="utf-8"))
    (base / "tokenizer.model").unlink()
    config = read_config(base)
    right = TextTokenizer(base).encode("你好 one")

    def work() -> None:
        if name == "generation_config.json":
            read_generation_config(base, config)
        else:
            assert TextTokenizer(base).encode("你好 one") == right

    said = []
    for what, text in odd_texts(settings):
        if what.endswith(TRIED):
            file.write_text(text, encoding="utf-8")
            said.append(refusal(work))
    assert [one for one in said if one and "config.json" not in one and "tokenizer" not in one] == []
    assert any(said)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_hidden_layers": 3}, rf"says num_hidden_layers 3, and the weights beside it have 2: {OTHER}"),
        ({"num_hidden_layers": 10_001}, r"num_hidden_layers is 10001; expected at most 10000\."),
        ({"num_labels": 65_537}, r"num_labels is 65537; expected at most 65536\."),
        ({"num_experts": 77}, rf"says num_experts 77, and no tensor of the weights beside it has them: {OTHER}"),
        ({"hidden_size": 36, "num_attention_heads": 4}, rf"\(1800, 32\), but \(1800, 36\) follows .*: {OTHER}"),
        ({"head_dim": 1 << 20}, rf"is \(.*\), but \(.*\) follows from config\.json: {OTHER}"),
        ({"num_attention_heads": 0}, r"no model of type Llama can be made of config\.json in .*|can not be read \("),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": float("nan")}},
            r"rope_parameters\.factor is nan; expec",
        ),
        ({"rope_scaling": {"full": {"rope_type": "linear", "factor": -1.0}}}, r"rope_scaling\.factor is -1\.0; expect"),
        ({"dtype": "complex64"}, r"expected a dtype of floating point, such as bfloat16, in place of complex64\."),
        ({"transformers_weights": "../x.safetensors"}, r"names '\.\./x\.safetensors' as a file; expected the name of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_what_a_config_declares_is_what_its_weights_hold(edit, fields, said):
    with pytest.raises(UserError, match=said):
        check_base(str(edit(**fields)))


def test_fewer_layers_than_the_weights_have_are_taken(edit):
    assert check_base(str(edit(num_hidden_layers=1))).config.num_hidden_layers == 1


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_weights_of_another_kind_of_numbers_are_refused(base, dtype):
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(32).to(dtype)
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"model\.norm\.weight in .* is (I64|C64); expected numbers of floating point"):
        check_base(str(base))


def test_a_base_is_scanned_where_that_is_asked_for_and_not_when_it_is_opened(base):
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][3] = torch.nan
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    found = check_base(str(base))
    with pytest.raises(
        UserError, match=r"model\.norm\.weight in .* has values that are not finite: the base is broken"
    ):
        refuse_not_finite(found.path, found.config)


def test_an_index_names_files_of_its_folder_only(base):
    index = {"weight_map": {"lm_head.weight": "../model.safetensors"}}
    (base / "model.safetensors").unlink()
    (base / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(UserError, match=r"index\.json names '\.\./model\.safetensors' as a file; expected the name of"):
        check_base(str(base))


def header(**fields) -> bytes:
    text = json.dumps(
        {"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | fields}
    )
    return struct.pack("<Q", len(text)) + text.encode() + bytes(8)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"shape": [3]}, "a says F32 of (3,), and has 8 bytes."),
        ({"shape": [-1]}, "tensors.a.shape.0 is -1; expected at least 0."),
        ({"shape": 2}, "tensors.a.shape is 2; expected a list."),
        ({"dtype": "F31"}, "a has the dtype 'F31'; expected one of F64,"),
        ({"data_offsets": [0]}, "tensors.a.data_offsets is [0]; expected"),
        ({"data_offsets": [0, 1 << 30]}, "of its 1,073,741,"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_the_head_of_a_file_is_compared_with_its_bytes(tmp_path, fields, said):
    file = tmp_path / "model.safetensors"
    file.write_bytes(header())
    assert read_safetensors_header(file)["a"].shape == [2]
    file.write_bytes(header(**fields))
    with pytest.raises(UserError, match=re.escape(said)):
        read_safetensors_header(file)
