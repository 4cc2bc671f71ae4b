"""Merging: base + adapter in one model, exactly; every tensor used; and whatever does not fit is refused."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from sentencepiece import sentencepiece_model_pb2
from transformers import AutoTokenizer, LlamaForCausalLM

from tests.export.tool_models import IDS, equal, logits, random_llama, tensors_of, tool
from vicuna.errors import UserError
from vicuna.files import tensors as weight_files
from vicuna.model.base import fingerprint, load_kwargs
from vicuna.prompt.chat_template import chat_template
from vicuna.prompt.templates import prompt_ids
from vicuna.prompt.tokenizer import TextTokenizer

merge_lora, convert = tool("merge_lora"), tool("convert_llama")
ALL_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PATTERNS = {
    "target_modules": ALL_MODULES,
    "rank_pattern": {"layers.1.self_attn.q_proj": 2, "down_proj": 6},
    "alpha_pattern": {"k_proj": 32, "layers.0.mlp.up_proj": 3},
    "use_rslora": True,
}


def run(base: Path, adapters: Path | list[Path], output: Path, **flags) -> Path:
    names = [str(one) for one in ([adapters] if isinstance(adapters, Path) else adapters)]
    merge_lora.main(merge_lora.MergeFlags(model_path=str(base), lora_path=names, out_path=str(output), **flags))
    return output


def make_adapter(base: Path, folder: Path, seed: int = 1, grown: int = 0, **config) -> Path:
    """Save an adapter of random values for a base, which gets `grown` embeddings first where it is given."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    if grown:
        model.resize_token_embeddings(grown, mean_resizing=False)
    settings = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], **config}
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    for name, value in model.named_parameters():
        if value.requires_grad and "lora_A" not in name:
            torch.nn.init.normal_(value, std=0.05)
    model.save_pretrained(folder)
    return folder


def peft_logits(base: Path, *adapters: Path) -> torch.Tensor:
    """What PEFT's own base + adapters answer in float32: each but the last is merged into the weights before."""
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    for i, folder in enumerate(adapters):
        saved = load_file(folder / "adapter_model.safetensors")
        rows = saved.get("base_model.model.model.embed_tokens.weight")
        if rows is not None and len(rows) != model.config.vocab_size:
            model.resize_token_embeddings(len(rows), mean_resizing=False)
        model = PeftModel.from_pretrained(model, folder)
        if i < len(adapters) - 1:
            model = model.merge_and_unload()
    with torch.no_grad():
        return model.eval()(IDS % model.config.vocab_size).logits


def as_defined(base: Path, dtype: torch.dtype | None, *adapters: Path) -> dict[str, torch.Tensor]:
    """The merged weights by the definition: added up in float32, in order, and cast once. Ranks all the same."""
    merged = {name: tensor.float() for name, tensor in tensors_of(base).items()}
    dtypes = {name: dtype or tensor.dtype for name, tensor in tensors_of(base).items()}
    for folder in adapters:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        saved = load_file(folder / "adapter_model.safetensors")
        for name, tensor in saved.items():
            place = name.removeprefix("base_model.model.")
            if place.endswith("lora_A.weight"):
                up = saved[name.replace("lora_A", "lora_B")].float()
                update = up @ tensor.float() * (config["lora_alpha"] / config["r"])
                place = place.replace("lora_A.weight", "weight")
                merged[place] = merged[place] + update
            elif "lora_" not in place:
                merged[place] = tensor.float()
    return {name: tensor.to(dtypes[name]) for name, tensor in merged.items()}


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() <= 1e-5 * other.abs().max())


@pytest.fixture(scope="module")
def base(tiny_base, tmp_path_factory) -> Path:
    """A float32 LLaMA with grouped heads and an untied head; do not write to it."""
    return random_llama(tmp_path_factory.mktemp("bases") / "float32", tiny_base)


@pytest.fixture(scope="module")
def half(tiny_base, tmp_path_factory) -> Path:
    """The same shape in bfloat16; do not write to it."""
    return random_llama(tmp_path_factory.mktemp("bases") / "bfloat16", tiny_base, torch.bfloat16)


@pytest.fixture(scope="module")
def tied(tiny_base, tmp_path_factory) -> Path:
    """A LLaMA that ties its head to the embeddings; do not write to it."""
    return random_llama(tmp_path_factory.mktemp("bases") / "tied", tiny_base, tie_word_embeddings=True)


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory) -> Path:
    """All seven modules; do not write to it."""
    return make_adapter(base, tmp_path_factory.mktemp("adapters") / "seven", target_modules=ALL_MODULES)


@pytest.mark.parametrize("name", ["peft-safetensors", "peft-bin", "checkpoint-200"])
def test_the_real_adapter_of_any_age_is_base_and_adapter(shared, tmp_path, name):
    base = shared / "models/poem-zh-750k-hf"
    real = shared / "lora/poem-zh-lora-generated/r8-qv"
    if name == "checkpoint-200":  # of 2023: without a config, whose alpha is then the sample's
        shutil.copytree(real / name, tmp_path / name)
        shutil.copyfile(real / "peft-bin/adapter_config.json", tmp_path / name / "adapter_config.json")
        source = tmp_path / name
    else:
        source = real / name
    output = run(base, source, tmp_path / "merged", prompt_type="text")

    expected = peft_logits(base, real / "peft-safetensors")
    assert near(logits(output), expected)
    assert not near(logits(base), expected)


CONFIGS = {
    "all seven modules": {"target_modules": ALL_MODULES},
    "patterns and rslora": PATTERNS,
    "embeddings and head": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "a low-rank head": {"target_modules": ["q_proj", "lm_head"]},
    "low-rank embeddings": {"target_modules": ["embed_tokens", "o_proj"]},
    "fan_in_fan_out": {"fan_in_fan_out": True},
    "some layers": {"layers_to_transform": [1], "target_modules": ALL_MODULES},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_merged_logits_are_those_of_base_and_adapter(base, tmp_path, name):
    folder = make_adapter(base, tmp_path / "adapter", **CONFIGS[name])
    output = run(base, folder, tmp_path / "merged")

    expected = peft_logits(base, folder)
    assert near(logits(output), expected)
    assert not near(logits(base), expected)


TIED = {
    "all seven modules": ({"target_modules": ALL_MODULES}, True),
    "embeddings that stay tied": ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, True),
    "embeddings alone": ({"modules_to_save": ["embed_tokens"]}, False),
    "embeddings and head apart": ({"modules_to_save": ["embed_tokens", "lm_head"]}, False),
    "a low-rank head": ({"target_modules": ["q_proj", "lm_head"]}, False),
}


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("name", TIED)
def test_a_tied_head_stays_tied_only_while_it_is_the_embeddings(tied, tmp_path, name):
    config, stays = TIED[name]
    folder = make_adapter(tied, tmp_path / "adapter", **config)
    output = run(tied, folder, tmp_path / "merged")

    assert near(logits(output), peft_logits(tied, folder))
    assert json.loads((output / "config.json").read_text(encoding="utf-8"))["tie_word_embeddings"] is stays
    assert ("lm_head.weight" not in tensors_of(output)) is stays


@pytest.mark.parametrize("dtype", ["base", "float16", "float32", "bfloat16"])
def test_every_tensor_is_added_up_in_float32_and_cast_once(half, tmp_path, dtype):
    first = make_adapter(half, tmp_path / "a", 1, target_modules=ALL_MODULES)
    second = make_adapter(half, tmp_path / "b", 2, modules_to_save=["embed_tokens", "lm_head"])
    output = run(half, [first, second], tmp_path / "merged", dtype=dtype)

    wanted = None if dtype == "base" else getattr(torch, dtype)
    assert equal(tensors_of(output), as_defined(half, wanted, first, second))
    saved = json.loads((output / "config.json").read_text(encoding="utf-8"))["dtype"]
    assert saved == ("bfloat16" if dtype == "base" else dtype)


def test_bits_do_not_depend_on_how_a_tensor_is_divided(half, adapter, tmp_path, monkeypatch):
    whole = tensors_of(run(half, adapter, tmp_path / "whole"))
    monkeypatch.setattr(weight_files, "BLOCK", 1000)

    assert equal(tensors_of(run(half, adapter, tmp_path / "blocks")), whole)


def test_adapters_are_applied_in_order_and_of_what_they_replace_the_last_counts(base, tmp_path):
    first = make_adapter(base, tmp_path / "a", 1, modules_to_save=["embed_tokens", "lm_head"])
    second = make_adapter(base, tmp_path / "b", 2, modules_to_save=["embed_tokens", "lm_head"])
    forward = tensors_of(run(base, [first, second], tmp_path / "ab"))
    back = tensors_of(run(base, [second, first], tmp_path / "ba"))

    name = "base_model.model.lm_head.weight"
    assert torch.equal(forward["lm_head.weight"], load_file(second / "adapter_model.safetensors")[name])
    assert torch.equal(back["lm_head.weight"], load_file(first / "adapter_model.safetensors")[name])
    assert near(logits(tmp_path / "ab"), peft_logits(base, first, second))


def with_tokenizer(folder: Path, tokenizer: Path, pieces: list[str]) -> Path:
    """Put a tokenizer with more pieces beside an adapter, as adapters that enlarge the vocabulary are published."""
    proto = sentencepiece_model_pb2.ModelProto.FromString((tokenizer / "tokenizer.model").read_bytes())
    for piece in pieces:
        proto.pieces.add(piece=piece, score=0)
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString())
    return folder


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


@pytest.mark.parametrize("count", [1, 4])
def test_merged_shards_of_metas_layout_are_the_same_model(half, adapter, tmp_path, count):
    shards = run(half, adapter, tmp_path / "pth", format="pth", num_shards=count)
    flags = convert.ConvertFlags(input_dir=str(shards), output_dir=str(tmp_path / "back"), config_from=str(half))
    convert.main(flags)

    assert equal(tensors_of(tmp_path / "back"), as_defined(half, None, adapter))


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_base_is_dequantised_and_what_it_lost_is_said(base, adapter, tmp_path, capsys, bits):
    import bitsandbytes as bnb

    model = LlamaForCausalLM.from_pretrained(base, device_map={"": "cpu"}, **load_kwargs(bits, torch.bfloat16))
    weights = {}
    for name, layer in model.named_modules():
        if isinstance(layer, bnb.nn.Linear8bitLt):
            weights[f"{name}.weight"] = layer.weight.CB.float() * layer.weight.SCB[:, None] / 127
        elif isinstance(layer, bnb.nn.Linear4bit):
            weights[f"{name}.weight"] = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    model.save_pretrained(tmp_path / "base")
    for file in base.glob("tokenizer*"):
        shutil.copyfile(file, tmp_path / "base" / file.name)
    output = run(tmp_path / "base", adapter, tmp_path / "merged", dtype="float32")

    merged, config = tensors_of(output), json.loads((output / "config.json").read_text(encoding="utf-8"))
    name = "model.layers.1.mlp.up_proj.weight"
    saved = load_file(adapter / "adapter_model.safetensors")
    up, down = (saved[f"base_model.model.{name.replace('weight', one)}.weight"] for one in ("lora_B", "lora_A"))
    assert len(weights) == 14
    assert torch.allclose(merged[name], weights[name].float() + up @ down * 4, rtol=1e-6, atol=1e-7)
    assert "quantization_config" not in config
    assert "is quantised: what that took from its weights is not given back" in capsys.readouterr().err
    assert torch.isfinite(logits(output)).all()


def test_a_gptq_base_is_refused(base, adapter, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    file = tmp_path / "base/config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    quantised = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    file.write_text(json.dumps({**config, "quantization_config": quantised}), encoding="utf-8")

    with pytest.raises(UserError, match=r"is quantised with gptq, whose weights can not be changed"):
        run(tmp_path / "base", adapter, tmp_path / "out")


@pytest.mark.parametrize("kind", ["pytorch_model.bin", "two .bin", "two .safetensors"])
def test_the_files_of_the_base_make_no_difference(half, adapter, tmp_path, kind):
    source = tmp_path / "base"
    shutil.copytree(half, source)
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    if kind == "pytorch_model.bin":
        torch.save({**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, source / kind)
    else:
        stem, suffix = ("pytorch_model", ".bin") if kind == "two .bin" else ("model", ".safetensors")
        names = {name: f"{stem}-0000{1 + i % 2}-of-00002{suffix}" for i, name in enumerate(tensors)}
        for file in set(names.values()):
            (torch.save if suffix == ".bin" else save_file)(
                {name: tensors[name] for name in names if names[name] == file}, source / file
            )
        (source / f"{stem}{suffix}.index.json").write_text(json.dumps({"weight_map": names}), encoding="utf-8")

    assert equal(tensors_of(run(source, adapter, tmp_path / "out")), as_defined(half, None, adapter))


def test_large_models_are_written_in_files_of_two_gibibytes_with_an_index(half, adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(weight_files, "SHARD_BYTES", 150_000)
    output = run(half, adapter, tmp_path / "out")

    files = sorted(file.name for file in output.glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert len(files) > 2
    assert equal(tensors_of(output), as_defined(half, None, adapter))
    assert torch.isfinite(logits(output)).all()  # transformers finds its way by the index


def recorded(adapter: Path, folder: Path, **facts) -> Path:
    """A copy of an adapter with a run_args.json."""
    shutil.copytree(adapter, folder)
    (folder / "run_args.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


def test_the_merged_folder_carries_the_template_the_adapter_was_trained_with(base, adapter, tmp_path):
    trained = recorded(adapter, tmp_path / "trained", prompt_type="chat", exact={"base_fingerprint": fingerprint(base)})
    output = run(base, trained, tmp_path / "merged")

    facts = json.loads((output / "run_args.json").read_text(encoding="utf-8"))
    assert facts == {"prompt_type": "chat", "merged": {"base": "float32", "adapters": ["trained"]}}
    assert (output / "chat_template.jinja").read_text(encoding="utf-8") == chat_template("chat")
    assert (output / "generation_config.json").is_file()
    messages = [{"role": "user", "content": "你好，请介绍自己"}]
    ids = AutoTokenizer.from_pretrained(output).apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    assert ids == prompt_ids(TextTokenizer(base), "chat", messages)


def test_without_a_recorded_template_none_is_made_up(base, adapter, tmp_path, capsys):
    output = run(base, adapter, tmp_path / "merged")

    assert not (output / "chat_template.jinja").exists()
    assert "prompt_type" not in json.loads((output / "run_args.json").read_text(encoding="utf-8"))
    assert "nothing says which template the last adapter was trained with" in capsys.readouterr().err


def test_a_base_with_a_template_of_its_own_does_not_keep_it_beside_the_adapters(base, adapter, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    file = tmp_path / "base/tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**settings, "chat_template": "{{ 'own' }}"}), encoding="utf-8")
    output = run(tmp_path / "base", adapter, tmp_path / "merged", prompt_type="chat")

    assert AutoTokenizer.from_pretrained(output).chat_template == chat_template("chat")


def test_every_tensor_of_the_adapters_is_used_and_counted(base, adapter, tmp_path, capsys):
    second = make_adapter(base, tmp_path / "second", modules_to_save=["lm_head"])
    run(base, [adapter, second], tmp_path / "merged")

    assert "merged all 28 tensors of seven, all 9 tensors of second into float32" in capsys.readouterr().out


def test_values_that_float16_can_not_hold_are_refused_with_their_place(base, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name][3, 5] = 65000.0
    save_file(tensors, tmp_path / "base/model.safetensors", metadata={"format": "pt"})
    folder = make_adapter(base, tmp_path / "adapter", target_modules=["down_proj"])
    saved = load_file(folder / "adapter_model.safetensors")
    saved[f"base_model.model.{name.replace('weight', 'lora_B.weight')}"][3] = 500.0
    saved[f"base_model.model.{name.replace('weight', 'lora_A.weight')}"][:, 5] = 1.0
    save_file(saved, folder / "adapter_model.safetensors")

    with pytest.raises(
        UserError, match=rf"{name} has values up to 7\.\d+e\+04, and float16 ends at 6\.55e\+04: pass --dtype bfloat16"
    ):
        run(tmp_path / "base", folder, tmp_path / "half", dtype="float16")
    assert not (tmp_path / "half").exists()
    run(tmp_path / "base", folder, tmp_path / "merged", dtype="bfloat16")


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
    "DoRA": (lambda at: edited(at, use_dora=True), r"says use_dora, which does more to a weight than add B A"),
    "PiSSA": (lambda at: edited(at, init_lora_weights="pissa"), r"begun with init_lora_weights pissa, which changes"),
    "another kind": (lambda at: edited(at, peft_type="IA3"), r"adapter_config\.json"),
    "untrained": (
        lambda at: rewritten(at, lambda one: {k: v * 0 if "lora_B" in k else v for k, v in one.items()}),
        r"changes nothing: every lora_B is zero",
    ),
    "diverged": (
        lambda at: rewritten(at, lambda one: {**one, f"{Q}.lora_B.weight": one[f"{Q}.lora_B.weight"] * torch.nan}),
        r"layers\.0\.self_attn\.q_proj\.weight has values that are not finite",
    ),
    "another base": (
        lambda at: (at / "run_args.json").write_text('{"exact": {"base_fingerprint": "0123456789abcdef"}}'),
        r"was trained on another base than .*fingerprint 0123456789ab….*--ignore_fingerprint",
    ),
    "a torn checkpoint": (
        lambda at: (at / "manifest.json").write_text('{"files": {"gone.bin": {}}}'),
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


def test_a_base_in_metas_layout_is_refused_with_the_command_that_converts_it(adapter, shared, tmp_path):
    meta = shared / "models/stories260K-meta"
    said = rf"is in Meta's layout: convert it first, python tools/convert_llama.py --input_dir {meta} --output_dir"
    with pytest.raises(UserError, match=said):
        run(meta, adapter, tmp_path / "out")


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


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_shards": 2}, r"--num_shards 2 is for --format pth"),
        ({"format": "pth", "num_shards": 3}, r"--num_shards 3 would split a head.*work: 1, 2, 4\."),
    ],
)
def test_shards_that_can_not_be_are_refused(base, adapter, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        run(base, adapter, tmp_path / "out", **flags)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="anonymous memory is read from /proc")
def test_memory_does_not_grow_with_the_model(program, tiny_base, tmp_path):
    sizes = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "num_key_value_heads": 8}
    large = random_llama(tmp_path / "base", tiny_base, torch.float16, **sizes)
    adapter = make_adapter(large, tmp_path / "adapter", target_modules=ALL_MODULES)
    size = (large / "model.safetensors").stat().st_size

    done = program("tests/export/merge_memory_of.py", large, adapter, tmp_path)

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["loaded"] > 0.9 * size
    assert max(found["hf"], found["pth"]) < size / 3, f"{found} for {size} bytes of weights"


def test_the_program_merges_by_its_flags(program, base, adapter, tmp_path):
    flags = ["--model_path", base, "--lora_path", adapter, "--out_path", tmp_path / "out", "--prompt_type", "instruct"]
    done = program("tools/merge_lora.py", *flags)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("merged all 28 tensors of seven into float32")
