"""The model that a GGUF file's keys describe, as a config.json in Hugging Face format says it.

Each architecture is a row of `ARCHITECTURES`; one that has none is refused by its name.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vicuna.errors import UserError
from vicuna.gguf_file.keys import check_sizes
from vicuna.gguf_file.reader import GGUFFile
from vicuna.gguf_file.vocabulary import token_id
from vicuna.gguf_file.weights import read_vector

ROPE_FACTORS = "rope_freqs.weight"  # by how much each pair's rotation slows down
# What Llama 3.1, 3.2 and 3.3 scale their rotation by, beside the factor; a GGUF keeps no more than the result.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_SCALINGS = ("none", "linear", "yarn")
# Of `ARCHITECTURE.rope.scaling.`; others change what is computed, and have no counterpart here.
_SCALING_KEYS = ("type", "factor", "original_context_length", "finetuned", "yarn_beta_fast", "yarn_beta_slow")
_SPLIT = ("expert_count", "expert_used_count")  # keys of mixtures of experts


@dataclass(frozen=True)
class Architecture:
    """How transformers names a model of llama.cpp's.

    Attributes:
        permuted: rows of queries and keys stand in the order of Meta's rotation.
        config: further settings that hold for all of them.
    """

    model_type: str
    kind: str
    permuted: bool = False
    config: dict[str, Any] = field(default_factory=dict)


ARCHITECTURES = {
    "llama": Architecture("llama", "LlamaForCausalLM", permuted=True),  # LLaMA, Mistral, Yi, SmolLM2
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM"),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM"),
}


def architecture_of(file: GGUFFile) -> Architecture:
    """The architecture of a file.

    Raises:
        UserError: one that is opened by llama.cpp alone.
    """
    known = ", ".join(ARCHITECTURES)
    if file.architecture not in ARCHITECTURES:
        raise UserError(
            f"{file.path} is for the architecture {file.architecture}, whose weights are not read here; expected one "
            f"of {known} (LLaMA, Mistral, Yi, SmolLM2, Qwen). Take the model in Hugging Face format."
        )
    if any(file.keys.get(f"{file.architecture}.{key}") for key in _SPLIT):
        raise UserError(
            f"{file.path} is a mixture of experts ({file.architecture}), whose weights are not read here; expected a "
            f"dense model of {known}. Take the model in Hugging Face format."
        )
    return ARCHITECTURES[file.architecture]


def config_of(file: GGUFFile) -> dict[str, Any]:
    """What config.json says of a file's model.

    Raises:
        UserError: an architecture that is not read here, keys that are missing, or a scaling of the rotation that can
            not be told from the file.
    """
    found = architecture_of(file)
    check_sizes(file.keys, file.shapes, file.path)
    heads = _number(file, "attention.head_count")
    hidden = _number(file, "embedding_length")
    size = file.keys.get(f"{file.architecture}.attention.key_length", hidden // heads)
    rotated = file.keys.get(f"{file.architecture}.rope.dimension_count", size)
    values = file.keys.get(f"{file.architecture}.attention.value_length", size)
    if not size == rotated == values:
        raise UserError(
            f"{file.path} has heads of {size} values and {values}, of which {rotated} are rotated; expected all of "
            "them to be. Take the model in Hugging Face format."
        )
    ends = file.ends
    config: dict[str, Any] = {
        "model_type": found.model_type,
        "architectures": [found.kind],
        "hidden_size": hidden,
        "intermediate_size": _number(file, "feed_forward_length"),
        "num_hidden_layers": _number(file, "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.keys.get(f"{file.architecture}.attention.head_count_kv", heads),
        "head_dim": size,
        "max_position_embeddings": _number(file, "context_length"),
        "rms_norm_eps": _number(file, "attention.layer_norm_rms_epsilon"),
        "hidden_act": "silu",
        "vocab_size": _rows(file, "token_embd.weight"),
        "tie_word_embeddings": "output.weight" not in file.shapes,
        "bos_token_id": token_id(file.keys, "bos"),
        "eos_token_id": ends if len(ends) > 1 else next(iter(ends), None),
        "pad_token_id": token_id(file.keys, "padding"),
        "dtype": "float32",
        **_rotation(file, size),
        **found.config,
    }
    if file.architecture != "qwen2":  # whose queries, keys and values always have biases
        config["attention_bias"] = "blk.0.attn_q.bias" in file.shapes
    if file.architecture == "llama":
        config["mlp_bias"] = "blk.0.ffn_gate.bias" in file.shapes
    return config


def _number(file: GGUFFile, key: str) -> Any:
    """A key of the architecture.

    Raises:
        UserError: it is missing, or differs from block to block.
    """
    name = f"{file.architecture}.{key}"
    value = file.keys.get(name)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # 32 bits: the shortest decimal that means the same, as in the config that it was written from.
        return float(str(np.float32(value))) if isinstance(value, float) else value
    what = "is missing" if value is None else f"is {str(value)[:60]}, expected one number"
    raise UserError(f"{file.path} can not be opened as a base: {name} {what}. Take the model in Hugging Face format.")


def _rows(file: GGUFFile, name: str) -> int:
    if name not in file.shapes:
        raise UserError(f"{file.path} has no {name}: it is no whole model. Copy or export it again.")
    return file.shapes[name][0]


def _rotation(file: GGUFFile, size: int) -> dict[str, Any]:
    """The settings of RoPE."""
    begin = f"{file.architecture}.rope."
    theta = _number(file, "rope.freq_base") if f"{begin}freq_base" in file.keys else 10000.0
    context = _number(file, "context_length")
    linear = file.keys.get(f"{begin}scale_linear")  # how files of 2023 say it
    kind = file.keys.get(f"{begin}scaling.type", "linear" if linear else "none")
    factor = file.keys.get(f"{begin}scaling.factor", linear or 1.0)
    odd = [
        key for key in file.keys if key.startswith(f"{begin}scaling.") and key.rpartition(".")[2] not in _SCALING_KEYS
    ]
    if kind not in _SCALINGS or odd:
        raise UserError(
            f"{file.path} scales its rotation by {odd[0] if odd else kind}, which is not read here; expected linear, "
            "yarn, Llama 3's or none. Take the model in Hugging Face format."
        )
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    if ROPE_FACTORS in file.shapes:
        if kind != "none":
            raise _unclear(file)
        return {"rope_parameters": rope | _llama3(file, theta, size)}
    if kind == "none" or factor == 1:
        return {"rope_parameters": rope}
    if not factor:
        raise UserError(f"{file.path} scales its rotation by 0. Take the model in Hugging Face format.")
    rope |= {"rope_type": kind, "factor": factor}
    original = file.keys.get(f"{begin}scaling.original_context_length", round(context / factor))
    if kind == "linear":
        # Beside the rotation: it only says that context_length is the length behind the scaling.
        return {"rope_parameters": rope, "original_max_position_embeddings": original}
    for key in ("beta_fast", "beta_slow"):
        if (value := file.keys.get(f"{begin}scaling.yarn_{key}")) is not None:
            rope[key] = value
    return {"rope_parameters": rope | {"original_max_position_embeddings": original}}


def _llama3(file: GGUFFile, theta: float, size: int) -> dict[str, Any]:
    """Llama 3's scaling, told from the factors that it came to.

    Raises:
        UserError: they are another's.
    """
    factors = read_vector(file, ROPE_FACTORS)
    if len(factors) == size // 2 and np.all(factors == 1):
        return {}
    settings = {"rope_type": "llama3", "factor": float(factors.max()), **_LLAMA3}
    if len(factors) != size // 2 or not np.allclose(factors, llama3_factors(settings, theta, size), rtol=1e-4):
        raise _unclear(file)
    return settings


def llama3_factors(settings: dict[str, Any], theta: float, size: int) -> np.ndarray:
    """By how much each pair's rotation slows down, (size / 2,), as Llama 3.1 computes it."""
    plain = 1.0 / theta ** (np.arange(0, size, 2, dtype=np.float64) / size)
    turns = settings["original_max_position_embeddings"] * plain / (2 * math.pi)
    low, high = settings["low_freq_factor"], settings["high_freq_factor"]
    share = np.clip((turns - low) / (high - low), 0, 1)  # 0: slowed down by the whole factor, 1: not at all
    return 1 / ((1 - share) / settings["factor"] + share)


def _unclear(file: GGUFFile) -> UserError:
    return UserError(
        f"{file.path} has rotations slowed down by {ROPE_FACTORS} otherwise than Llama 3.1, 3.2 and 3.3 do, and a GGUF "
        "does not keep by which rule: long texts would be computed wrongly. Take the model in Hugging Face format."
    )
