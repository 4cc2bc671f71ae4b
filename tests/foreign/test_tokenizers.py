"""Tokenizers from elsewhere: ids within bounds, texts that grow little, and settings of others' training left out."""

import json
import shutil
from pathlib import Path

import pytest

from tests.foreign.odd_values import ODD, refusal, replaced
from vicuna.errors import UserError
from vicuna.prompt.tokenizer import TextTokenizer
from vicuna.prompt.tokenizer_fields import MOST_GROWTH, growth

TEXT = "你好 one two"


@pytest.fixture
def folder(tiny_base, tmp_path) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_base / name, tmp_path)
    return tmp_path


@pytest.fixture
def spec(folder) -> dict:
    return json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))


def read(folder: Path, spec: dict) -> TextTokenizer:
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    return TextTokenizer(folder)


def test_padding_and_truncation_of_others_are_not_applied(folder, spec):
    right = TextTokenizer(folder).encode(TEXT)
    spec["padding"] = {
        **{"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None},
        **{"pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"},
    }
    spec["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}

    assert read(folder, spec).encode(TEXT) == right
    assert len(right) not in (2, 64)


def test_replacements_that_multiply_a_text_are_refused(folder, spec):
    step = {"type": "Replace", "pattern": {"String": "ab"}, "content": "ab" * 4}
    assert growth(None) == growth({"type": "NFC"}) == 1
    assert growth({"type": "Sequence", "normalizers": [step, step, {"type": "Sequence", "normalizers": [step]}]}) == 64
    spec["normalizer"] = {"type": "Sequence", "normalizers": [step] * 5}
    assert growth(spec["normalizer"]) == MOST_GROWTH
    read(folder, spec)
    spec["normalizer"]["normalizers"].append(step)
    with pytest.raises(UserError, match=r"tokenizer\.json: .* expected a normalizer that makes a text at most 1,024 t"):
        read(folder, spec)


def test_an_id_beyond_the_pieces_counts_for_the_size(folder, spec):
    piece = next(iter(spec["model"]["vocab"]))
    size = TextTokenizer(folder).size
    spec["model"]["vocab"][piece] = size + 7
    assert read(folder, spec).size == size + 8
    spec["model"]["vocab"][piece] = 1 << 25
    with pytest.raises(
        UserError, match=r"tokenizer\.json: model is .*; expected whole numbers up to 16,777,216 as ids"
    ):
        read(folder, spec)


@pytest.mark.parametrize("value", ["null", "text", "list", "negative", "huge", "not finite", "deep"])
def test_every_odd_value_of_a_tokenizer_json_is_a_sentence_or_a_tokenizer(folder, spec, value):
    shown = {
        **spec,
        "model": {**spec["model"], "vocab": {"a": 0}, "merges": []},
        "added_tokens": spec["added_tokens"][:1],
    }
    beginning = ((), ("model",), ("added_tokens", 0))
    inside = (shown, shown["model"], shown["added_tokens"][0])
    said = []
    for place in [(*at, key) for at, holder in zip(beginning, inside, strict=True) for key in holder]:
        (folder / "tokenizer.json").write_text(replaced(shown, place, value, ODD[value]), encoding="utf-8")
        said.append(refusal(lambda: TextTokenizer(folder).size))
    assert [one for one in said if one and "tokenizer" not in one] == []
    assert any(said)
