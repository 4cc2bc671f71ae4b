"""A folder whose tokenizer.json splits text otherwise than its architecture's own tokenizer."""

import json
from pathlib import Path

from transformers import AutoTokenizer

from tests.export.merging import make_adapter, run
from tests.vocabulary.test_expand_vocabulary import qwen_base

TEXT = Path(__file__).resolve().parents[2] / "sample/text/knowledge.txt"


def test_a_tokenizer_json_that_splits_otherwise_than_its_architecture_is_copied_byte_for_byte(tmp_path):
    """AutoTokenizer of transformers 5 puts Qwen2's splitting and normaliser in its place, and would save that."""
    base = qwen_base(tmp_path / "base", TEXT.read_text(encoding="utf-8").splitlines())
    spec = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    spec["pre_tokenizer"]["pretokenizers"].insert(0, {"type": "Punctuation", "behavior": "Isolated"})
    spec["normalizer"] = None
    (base / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    theirs = json.loads(AutoTokenizer.from_pretrained(base).backend_tokenizer.to_str())
    assert "Punctuation" not in json.dumps(theirs["pre_tokenizer"])  # else there is no trap any more
    assert theirs["normalizer"] == {"type": "NFC"}
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "v_proj"])

    merged = run(base, adapter, tmp_path / "merged")

    copied = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
    assert [(merged / name).read_bytes() for name in copied] == [(base / name).read_bytes() for name in copied]
