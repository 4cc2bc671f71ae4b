"""What the tests of GGUF share: exporting in this process, small models of every shape, and logits from both sides."""

import importlib.util
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

INSTALL = "llama.cpp is not installed: bash scripts/install_cpp.sh"
ROOT = Path(__file__).resolve().parent.parent.parent
REAL = ("stories260K", "babyllama-tok105", "poem-zh-750k")
ROPE = {"rope_theta": 10000.0}
# Largest difference of logits as a share of the largest logit. llama.cpp rounds activations to the weights' type.
BOUNDS = {"f32": 3e-5, "f16": 6e-3, "bf16": 5e-2}


def tool() -> Any:
    """tools/export_gguf.py as a module."""
    spec = importlib.util.spec_from_file_location("export_gguf", ROOT / "tools/export_gguf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def export(model: Path, out: Path, kind: str, **flags: Any) -> Path:
    """Export `model` to `out` at `kind`; without the packages for it, the test is skipped."""
    pytest.importorskip("gguf", reason=INSTALL)
    made = tool()
    made.main(made.ExportFlags(model_path=str(model), out_path=str(out), type=kind, **flags))
    return out


def make_model(folder: Path, tokenizer: Path, seed: int = 0, dtype: torch.dtype = torch.float32, **config: Any) -> Path:
    """A random LLaMA with that tokenizer.model in `folder`; hidden 32 and 2 blocks unless `config` says otherwise."""
    from sentencepiece import SentencePieceProcessor
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {
        "vocab_size": SentencePieceProcessor(model_file=str(tokenizer)).vocab_size(),
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 512, "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2,
        "tie_word_embeddings": False,
    }  # fmt: skip
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**shape | config)).to(dtype)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # 0 by default, which would show no mistake
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    shutil.copy(tokenizer, folder / "tokenizer.model")
    return folder


def hf_model(folder: Path, rounded: torch.dtype = torch.float32) -> Any:
    """The model in float32, of weights rounded to `rounded`."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=rounded).float().eval()


def hf_logits(model: Any, ids: list[int]) -> torch.Tensor:
    """(T, V)."""
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0]


def gguf_logits(file: Path, ids: list[int], **more: Any) -> torch.Tensor:
    """(T, V), with keys and values in float32."""
    from vicuna.gguf.library import load_llama_cpp

    api = load_llama_cpp()
    llama = api.Llama(
        str(file), n_ctx=512, logits_all=True, verbose=False, n_threads=1, n_threads_batch=1,
        type_k=api.GGML_TYPE_F32, type_v=api.GGML_TYPE_F32, **more,
    )  # fmt: skip
    llama.eval(ids)
    logits = torch.from_numpy(llama.scores[: len(ids)].copy())
    llama.close()
    return logits


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference as a share of the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


def drawn_ids(size: int, count: int = 200) -> list[int]:
    """BOS and `count` ids of a vocabulary, the same at every call."""
    draw = random.Random(1)
    return [1, *(draw.randrange(3, size) for _ in range(count))]


def change_config(folder: Path, **values: object) -> None:
    """Change fields of config.json."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **values}), encoding="utf-8")


def make_adapter(base: Path, folder: Path, **config: object) -> Path:
    """A random LoRA adapter for `base`; beside a low-rank head PEFT saves that of the base."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(hf_model(base), LoraConfig(task_type="CAUSAL_LM", **config))
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return folder
