"""What the tests of merges share: adapters of random values, a merge by the tool, and what it must give."""

import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from sentencepiece import sentencepiece_model_pb2
from transformers import LlamaForCausalLM

from tests.export.tool_models import IDS, tensors_of, tool

merge_lora = tool("merge_lora")
ALL_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


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


def with_tokenizer(folder: Path, tokenizer: Path, pieces: list[str]) -> Path:
    """Put a tokenizer with more pieces beside an adapter, as adapters that enlarge the vocabulary are published."""
    proto = sentencepiece_model_pb2.ModelProto.FromString((tokenizer / "tokenizer.model").read_bytes())
    for piece in pieces:
        proto.pieces.add(piece=piece, score=0)
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString())
    return folder


def recorded(adapter: Path, folder: Path, **facts) -> Path:
    """A copy of an adapter with a run_args.json."""
    shutil.copytree(adapter, folder)
    (folder / "run_args.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder
