"""Adapters to be merged: a larger vocabulary comes with its tokenizer, and whatever does not fit is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from tests.export.merging import ALL_MODULES, as_defined, make_adapter, near, peft_logits, recorded, run, with_tokenizer
from tests.export.tool_models import logits, random_llama, tensors_of
from vicuna.errors import UserError
from vicuna.prompt.tokenizer import TextTokenizer


def test_adapters_that_enlarge_the_vocabulary_bring_their_tokenizer(base, tmp_path):
    """As Chinese-LLaMA's did, and Chinese-Alpaca's on top of it with a [PAD] more."""
    saved = {"modules_to_save": ["embed_tokens", "lm_head"], "target_modules": ALL_MODULES}
    first = make_adapter(base, tmp_path / "llama", 1, grown=1841, **saved)
    with_tokenizer(first, base, [f"新{i}" for i in range(41)])
    second = make_adapter(base, tmp_path / "alpaca", 2, grown=1842, **saved)
    with_tokenizer(second, first, ["[PAD]"])
    output = run(base, [first, second], tmp_path / "merged", prompt_type="instruct")

    assert json.loads((output / "config.json").read_text(encoding="utf-8"))["vocab_size"] == 1842
    assert tensors_of(output)["lm_head.weight"].shape == (1842, 64)
    assert TextTokenizer(output).size == 1842
    others = AutoTokenizer.from_pretrained(output)  # not the base's, which would be another tokenizer
    assert others("<s>新40春天", add_special_tokens=False)["input_ids"] == [
        1,
        *TextTokenizer(output).encode("新40春天"),
    ]
    assert near(logits(output), peft_logits(base, first, second))

    shards = run(base, [first, second], tmp_path / "pth", format="pth", num_shards=4)
    rows = [len(torch.load(file, weights_only=True)["output.weight"]) for file in sorted(shards.glob("*.pth"))]
    assert rows == [460, 460, 460, 462]
    with pytest.raises(UserError, match=r"holds .*lm_head 1841, .* rows, but .* vocabulary of 1842"):
        run(base, [second, first], tmp_path / "wrong order")


def test_embeddings_that_were_enlarged_and_not_trained_are_merged_too(base, tmp_path):
    """As users of 2023 did who gave LLaMA a [PAD]: PEFT saves the resized embeddings beside the matrices."""
    folder = with_tokenizer(make_adapter(base, tmp_path / "adapter", grown=1810), base, [f"[{i}]" for i in range(10)])
    output = run(base, folder, tmp_path / "merged")

    saved = load_file(folder / "adapter_model.safetensors")
    assert torch.equal(tensors_of(output)["lm_head.weight"], saved["base_model.model.lm_head.weight"])
    assert torch.equal(tensors_of(output)["lm_head.weight"][:1803], tensors_of(base)["lm_head.weight"])


@pytest.mark.parametrize(("vocab", "rows"), [(49953, [24976, 24977]), (49954, [24977, 24977]), (55296, [27648, 27648])])
def test_bases_with_enlarged_vocabularies_work_like_any_other(tiny_base, tmp_path, vocab, rows):
    sizes = {"vocab_size": vocab, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    large = random_llama(
        tmp_path / "base", tiny_base, torch.float16, num_attention_heads=2, num_key_value_heads=2, **sizes
    )
    folder = make_adapter(large, tmp_path / "adapter", modules_to_save=["embed_tokens", "lm_head"])
    output = run(large, folder, tmp_path / "pth", format="pth", num_shards=2)

    shards = [torch.load(file, weights_only=True) for file in sorted(output.glob("*.pth"))]
    assert [len(shard["output.weight"]) for shard in shards] == rows
    expected = as_defined(large, None, folder)
    assert torch.equal(torch.cat([shard["output.weight"] for shard in shards]), expected["lm_head.weight"])
    joined = torch.cat([shard["tok_embeddings.weight"] for shard in shards], 1)
    assert torch.equal(joined, expected["model.embed_tokens.weight"])


def edited(folder: Path, **values: object) -> None:
    """Change adapter_config.json."""
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, **values}), encoding="utf-8")


def rewritten(folder: Path, change: Callable[[dict], dict]) -> None:
    """Change adapter_model.safetensors."""
    file = folder / "adapter_model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    save_file({name: tensor.contiguous() for name, tensor in change(tensors).items()}, file)


Q = "base_model.model.model.layers.0.self_attn.q_proj"
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "rank": (lambda at: edited(at, r=8), r"says r 8, but the tensors beside it have rank \[4\]"),
    "modules": (lambda at: edited(at, target_modules=["q_proj"]), r"names the modules q_proj, but the tensors"),
    "an odd tensor": (
        lambda at: rewritten(at, lambda one: {**one, f"{Q}.lora_magnitude_vector": torch.ones(64)}),
        r"do not describe the same adapter: 1 tensors differ, such as .*lora_magnitude_vector",
    ),
    "a missing layer": (
        lambda at: rewritten(at, lambda one: {k: v for k, v in one.items() if "layers.1" not in k}),
        r"do not describe the same adapter: 14 tensors differ, such as .*layers\.1",
    ),
    "DoRA without magnitudes": (lambda at: edited(at, use_dora=True), r"do not describe the same adapter: 14 tensors"),
    "CorDA": (
        lambda at: edited(at, init_lora_weights="corda"),
        r"says init_lora_weights corda, which changes the base",
    ),
    "another kind": (lambda at: edited(at, peft_type="IA3"), r"adapter_config\.json"),
    "untrained": (
        lambda at: rewritten(at, lambda one: {k: v * 0 if "lora_B" in k else v for k, v in one.items()}),
        r"changes nothing: every lora_B is zero",
    ),
    "diverged": (
        lambda at: rewritten(at, lambda one: {**one, f"{Q}.lora_B.weight": one[f"{Q}.lora_B.weight"] * torch.nan}),
        r"layers\.0\.self_attn\.q_proj\.lora_B\.weight with values that are not finite",
    ),
    "another base": (
        lambda at: (at / "run_args.json").write_text('{"exact": {"base_fingerprint": "0123456789abcdef"}}'),
        r"was trained on another base than .*fingerprint 0123456789ab….*--ignore_fingerprint",
    ),
    "a torn checkpoint": (
        lambda at: (at / "manifest.json").write_text(
            json.dumps({"files": {"gone.bin": {"size": 1, "sha256": "0" * 64}}})
        ),
        r"is torn: gone\.bin is missing",
    ),
    "an unknown template": (
        lambda at: (at / "run_args.json").write_text('{"prompt_type": "haiku"}'),
        r"prompt type 'haiku', which this version does not know",
    ),
    "no adapter": (lambda at: (at / "adapter_model.safetensors").unlink(), r"has no adapter: expected one of"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_adapter_that_does_not_fit_is_refused_and_nothing_is_left(base, adapter, tmp_path, name):
    fault, message = FAULTS[name]
    shutil.copytree(adapter, tmp_path / "adapter")
    fault(tmp_path / "adapter")

    with pytest.raises(UserError, match=message):
        run(base, tmp_path / "adapter", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_another_fingerprint_can_be_overruled(base, adapter, tmp_path):
    folder = recorded(adapter, tmp_path / "adapter", exact={"base_fingerprint": "0" * 64})

    assert run(base, folder, tmp_path / "out", ignore_fingerprint=True).is_dir()


def test_an_adapter_of_another_size_architecture_or_vocabulary_is_refused(base, tiny_base, shared, tmp_path):
    with pytest.raises(UserError, match=r"whose model\.layers\.0\.self_attn\.q_proj is 32 -> 32, but .* 64 -> 64"):
        run(base, make_adapter(tiny_base, tmp_path / "narrow"), tmp_path / "out")
    with pytest.raises(UserError, match=r"gpt_neox.*was trained on another kind of base"):
        run(base, shared / "lora/pythia70m-lora-alpaca", tmp_path / "out")
    grown = make_adapter(base, tmp_path / "grown", grown=1900, modules_to_save=["embed_tokens", "lm_head"])
    with pytest.raises(UserError, match=r"enlarges the vocabulary from 1803 to 1900, but its tokenizer is not there"):
        run(base, grown, tmp_path / "out")
    with_tokenizer(grown, base, [f"多{i}" for i in range(200)])
    with pytest.raises(UserError, match=r"has 2000 pieces, the embeddings beside it have 1900 rows"):
        run(base, grown, tmp_path / "out")
    fewer = make_adapter(base, tmp_path / "fewer", grown=1700, modules_to_save=["embed_tokens", "lm_head"])
    with pytest.raises(UserError, match=r"holds .* 1700.* rows, but .* vocabulary of 1803"):
        run(base, fewer, tmp_path / "out")
    assert not (tmp_path / "out").exists()
