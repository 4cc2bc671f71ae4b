"""A folder's tokenizer as other programs read it: with the ids that training had, or with a warning."""

import json
import shutil
from pathlib import Path

import pytest
from sentencepiece import sentencepiece_model_pb2
from transformers import AutoTokenizer

from tests.own_pieces import USER_DEFINED, cut_at_token, name_pieces
from vicuna.prompt.probes import probe_texts
from vicuna.prompt.tokenizer import TextTokenizer
from vicuna.prompt.tokenizer_json import match_training_ids, transformers_ids, write_tokenizer_json

TEXTS = [
    "Below is an instruction",
    "你好 x",
    "\nUser:",
    "def f(x):\n    return x",
    " a  b",
    "🦙𠮷",
    "春天\n\n### Response:\n",
]


@pytest.fixture
def folder(tiny_base, tmp_path) -> Path:
    """The tiny base's tokenizer.model alone, in the folder of a LLaMA."""
    for name in ("tokenizer.model", "config.json"):
        shutil.copy(tiny_base / name, tmp_path)
    return tmp_path


def different(folder: Path) -> list[str]:
    """Texts behind BOS that transformers gives other ids than training."""
    others, own = AutoTokenizer.from_pretrained(folder), TextTokenizer(folder)
    return [
        text
        for text in TEXTS
        if others(f"<s>{text}", add_special_tokens=False)["input_ids"] != [own.bos_id, *own.encode(text)]
    ]


def declare(folder: Path, **values: object) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")


@pytest.mark.parametrize(
    "declared", [{}, {"tokenizer_class": "LLaMATokenizer"}, {"tokenizer_class": "LlamaTokenizer", "legacy": False}]
)
def test_a_folder_of_2023_gets_a_tokenizer_json_with_the_ids_of_training(folder, declared):
    declare(folder, **declared)
    assert "Below is an instruction" in different(folder)

    assert match_training_ids(folder, 512) == ""

    assert different(folder) == []
    assert AutoTokenizer.from_pretrained(folder).model_max_length == 512


@pytest.mark.parametrize("name", ["llama", "chinese-llama-2"])
def test_real_tokenizers_of_2023_too(shared, folder, name):
    for file in (shared / "tokenizers" / name).iterdir():
        shutil.copyfile(file, folder / file.name)
    assert different(folder)

    warned = match_training_ids(folder, 512)

    assert different(folder) == []
    assert ("share their score" in warned) == (name == "chinese-llama-2")


def test_ids_behind_those_of_sentencepiece_are_kept(folder):
    declare(folder, tokenizer_class="LlamaTokenizer", legacy=False, pad_token="[PAD]")
    (folder / "added_tokens.json").write_text('{"[PAD]": 1800}', encoding="utf-8")

    assert match_training_ids(folder, 512) == ""

    assert different(folder) == []
    others = AutoTokenizer.from_pretrained(folder)
    assert (others.pad_token, others.pad_token_id, len(others)) == ("[PAD]", 1800, 1801)


NORMALIZERS = {
    "a space in front": {},
    "none": {"add_dummy_prefix": False},
    "single": {"remove_extra_whitespaces": True},
}


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("kind", USER_DEFINED)
def test_texts_around_user_defined_pieces_get_the_ids_of_training(folder, kind, normalizer):
    name_pieces(folder, *USER_DEFINED[kind], **NORMALIZERS[normalizer])
    own = TextTokenizer(folder)
    probes = probe_texts(own)
    assert len(probes) >= 8 * len(own.user_defined)

    assert match_training_ids(folder, 512) == ""

    assert transformers_ids(folder, probes) == [own.encode(text) for text in probes]
    others = AutoTokenizer.from_pretrained(folder)
    assert all(others.decode(others("x" + text, add_special_tokens=False)["input_ids"]) for text in probes)
    normal = [others.convert_ids_to_tokens(number).replace("▁", " ") for number in range(300, own.size)]
    assert transformers_ids(folder, normal) == [own.encode(piece) for piece in normal]


def test_a_tokenizer_json_that_cuts_texts_at_user_defined_pieces_is_written_anew(folder):
    name_pieces(folder, "<ctx>")
    write_tokenizer_json(folder, 512)
    cut_at_token(folder, 1700, "<ctx>")
    assert different(folder) == []

    assert match_training_ids(folder, 512) == ""

    own = TextTokenizer(folder)
    probes = probe_texts(own)
    assert transformers_ids(folder, probes) == [own.encode(text) for text in probes]


def test_characters_without_a_piece_are_in_no_probe(folder):
    name_pieces(folder, "<ctx>")
    file = folder / "tokenizer.model"
    proto = sentencepiece_model_pb2.ModelProto.FromString(file.read_bytes())
    for piece in proto.pieces:
        piece.type = piece.UNUSED if piece.type == piece.BYTE else piece.type
    proto.trainer_spec.byte_fallback = False
    file.write_bytes(proto.SerializeToString())

    probes = probe_texts(TextTokenizer(folder))

    assert "a<ctx>b" in probes
    assert "\n<ctx>\n" not in probes


def test_a_tokenizer_json_with_the_right_ids_is_left_as_it_is(tiny_base, tmp_path):
    for file in tiny_base.glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    assert match_training_ids(tmp_path, 512) == ""

    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_tokenizer_json_alone_that_others_read_otherwise_is_left_and_said(tiny_base, tmp_path):
    spec = json.loads((tiny_base / "tokenizer.json").read_text(encoding="utf-8"))
    spec["normalizer"] = None
    spec["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    shutil.copy(tiny_base / "tokenizer_config.json", tmp_path)
    assert "Below is an instruction" in different(tmp_path)

    assert (
        "transformers and vLLM read tokenizer.json otherwise than this toolkit did in training"
        in match_training_ids(tmp_path, 512)
    )
