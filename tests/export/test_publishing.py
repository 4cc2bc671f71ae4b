"""Adapters as Chinese-LLaMA-Alpaca published its: for the original base, with both tables and the tokenizer."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftConfig
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from tests.export.merging import make_adapter, merge_lora, run, with_tokenizer
from tests.export.tool_models import equal, random_llama, tensors_of, tool
from vicuna.errors import UserError

publish_adapter = tool("publish_adapter")
TABLES = {"base_model.model.model.embed_tokens.weight", "base_model.model.lm_head.weight"}
OLD, FIRST, SECOND = 1800, 1803, 1804
PIECES = ["春眠", "不觉", "晓", "[PAD]"]
WHOLE = ["embed_tokens", "lm_head"]


def enlarged(base: Path, folder: Path, rows: int) -> Path:
    """The base with more rows in both tables, and the tokenizer for them."""
    shutil.copytree(base, folder)
    torch.manual_seed(rows)
    model = LlamaForCausalLM.from_pretrained(base, dtype="auto")
    model.resize_token_embeddings(rows)
    model.save_pretrained(folder)
    known = len(tensors_of(base)["model.embed_tokens.weight"])
    (folder / "tokenizer.json").unlink(missing_ok=True)
    return with_tokenizer(folder, base, PIECES[known - OLD : rows - OLD])


@pytest.fixture(scope="module")
def base(tiny_base, tmp_path_factory) -> Path:
    return random_llama(tmp_path_factory.mktemp("original") / "original", tiny_base, torch.float16, vocab_size=OLD)


@pytest.fixture(scope="module")
def larger(base, tmp_path_factory) -> Path:
    return enlarged(base, tmp_path_factory.mktemp("larger") / "larger", FIRST)


def published(base: Path, original: Path, adapter: Path, out: Path) -> Path:
    flags = {"model_path": str(base), "original_path": str(original), "lora_path": str(adapter), "out_path": str(out)}
    publish_adapter.main(publish_adapter.PublishFlags(**flags))
    return out


KINDS = {
    "stage one": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "stage two": {"target_modules": ["q_proj", "v_proj"], "modules_to_save": WHOLE},
    "matrices": {"target_modules": ["q_proj", "down_proj"]},
    "new rows": {"trainable_token_indices": {"embed_tokens": [1801, 1802], "lm_head": [1802]}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_gives_the_original_base_what_the_adapter_gives_the_larger_one(base, larger, tmp_path, kind):
    adapter = make_adapter(larger, tmp_path / "adapter", **KINDS[kind])
    (adapter / "run_args.json").write_text('{"prompt_type": "text", "exact": {}}', encoding="utf-8")
    expected = run(larger, adapter, tmp_path / "expected")

    folder = published(larger, base, adapter, tmp_path / "published")
    found = run(base, folder, tmp_path / "found")

    assert equal(tensors_of(found), tensors_of(expected))
    for name in ("config.json", "tokenizer.model", "chat_template.jinja"):
        assert (found / name).read_bytes() == (expected / name).read_bytes()
    assert set(load_file(folder / "adapter_model.safetensors")) >= TABLES
    assert (folder / "tokenizer.model").read_bytes() == (larger / "tokenizer.model").read_bytes()
    assert PeftConfig.from_pretrained(folder).modules_to_save == WHOLE
    assert json.loads((folder / "run_args.json").read_text(encoding="utf-8")) == {
        "prompt_type": "text", "published": {"for": "original", "trained_on": "larger"},
    }  # fmt: skip
    manifest = json.loads((folder / "SHA256.json").read_text(encoding="utf-8"))["files"]
    assert set(manifest) >= {"adapter_config.json", "adapter_model.safetensors", "tokenizer.model"}


def test_a_head_that_is_tied_stays_so(tiny_base, tmp_path):
    base = random_llama(tmp_path / "base", tiny_base, torch.float16, vocab_size=OLD, tie_word_embeddings=True)
    larger = enlarged(base, tmp_path / "larger", FIRST)
    tied = {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
    for name, settings in {"matrices": {}, "tables": tied}.items():
        adapter = make_adapter(larger, tmp_path / name, **settings)
        expected = tensors_of(run(larger, adapter, tmp_path / f"{name} expected"))
        folder = published(larger, base, adapter, tmp_path / f"{name} published")

        found = tensors_of(run(base, folder, tmp_path / f"{name} found"))

        assert equal(found, expected)
        assert "lm_head.weight" not in found


def test_two_of_them_are_merged_in_order_as_on_the_larger_bases(base, larger, tmp_path):
    """LLaMA-Plus, then Alpaca-Plus, which has a token more."""
    first = make_adapter(larger, tmp_path / "first", 1, modules_to_save=WHOLE)
    middle = run(larger, first, tmp_path / "middle")
    largest = enlarged(middle, tmp_path / "largest", SECOND)
    second = make_adapter(largest, tmp_path / "second", 2, modules_to_save=WHOLE)

    both = [published(larger, base, first, tmp_path / "p1"), published(largest, middle, second, tmp_path / "p2")]
    found = run(base, both, tmp_path / "found")

    on_larger = run(larger, [first, both[1]], tmp_path / "expected")
    assert equal(tensors_of(found), tensors_of(on_larger))
    assert len(tensors_of(found)["model.embed_tokens.weight"]) == SECOND
    alone = run(middle, both[1], tmp_path / "alone")
    assert equal(tensors_of(alone), tensors_of(run(largest, second, tmp_path / "on largest")))
    with pytest.raises(UserError, match="vocabulary"):
        run(base, both[::-1], tmp_path / "reversed")


def test_what_is_not_the_original_is_refused(base, larger, tiny_base, tmp_path):
    adapter = make_adapter(larger, tmp_path / "adapter")
    other = random_llama(tmp_path / "other", tiny_base, torch.float16, seed=3, vocab_size=OLD)
    with pytest.raises(UserError, match=r"layers.0.* of .*larger is not that of .*other: the adapter would be merged"):
        published(larger, other, adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="--original_path is empty"):
        publish_adapter.PublishFlags(model_path="x")


def test_the_published_spelling_of_a_merge_is_understood(base, larger, tmp_path):
    adapters = [make_adapter(larger, tmp_path / name, seed) for seed, name in enumerate(("one", "two"))]
    expected = run(larger, adapters, tmp_path / "expected")
    names = ",".join(map(str, adapters))
    for kind, files in (("huggingface", "model.safetensors"), ("pth", "consolidated.00.pth")):
        flags = merge_lora.MergeFlags(
            base_model=str(larger), lora_model=names, output_type=kind, output_dir=str(tmp_path / kind)
        )
        merge_lora.main(flags)
        assert (tmp_path / kind / files).is_file()
    assert equal(tensors_of(tmp_path / "huggingface"), tensors_of(expected))
    with pytest.raises(UserError, match="--base_model is another spelling of --model_path, and both are given"):
        merge_lora.MergeFlags(base_model="a", model_path="b")
