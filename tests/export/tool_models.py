"""What the tests of conversions and merges share: small models of random weights, and the tools as modules."""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import torch
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).resolve().parent.parent.parent
IDS = torch.tensor([[1, 300, 500, 700, 900, 1100, 1300, 1500, 1700, 20]])


def tool(name: str) -> ModuleType:
    """A tool as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def random_llama(folder: Path, tokenizer: Path, dtype: torch.dtype = torch.float32, seed: int = 0, **sizes) -> Path:
    """Save a LLaMA of random weights with grouped heads and an untied head of uneven rows, unless `sizes` differ."""
    torch.manual_seed(seed)
    settings = {
        "vocab_size": 1803, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2,
        "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 256, "initializer_range": 0.2,
        "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    model = LlamaForCausalLM(LlamaConfig(**{**settings, **sizes}))
    for name, value in model.named_parameters():
        if "norm" in name:  # all ones would not tell one norm from another
            torch.nn.init.normal_(value, mean=1, std=0.1)
    model.to(dtype).save_pretrained(folder)
    for file in tokenizer.glob("tokenizer*"):
        shutil.copyfile(file, folder / file.name)
    return folder


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor in the .safetensors files of a folder."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return found


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two models have the same names, dtypes and bits."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def logits(folder: Path, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """What a model in Hugging Face format answers to `IDS`, as far as its vocabulary goes."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    with torch.no_grad():
        return model(IDS % model.config.vocab_size).logits
