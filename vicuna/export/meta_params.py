"""params.json, where Meta's layout keeps a model's sizes; the same from and for Hugging Face's config.

The sizes also say into how many shards a model can be cut.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from vicuna.errors import UserError
from vicuna.foreign.typed import Foreign, Positive, opens, read_object, typed
from vicuna.model.base_files import Width
from vicuna.model.config import head_dim

PARAMS_FILE = "params.json"
NORM_EPS, ROPE_THETA = 1e-5, 10000.0  # what Meta's programs take where params.json is silent


Positions = Annotated[int, Field(ge=1, le=1 << 31)]


@opens(
    {
        **{"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "vocab_size": -1, "norm_eps": 1e-5},
        **{"rope_theta": 10000.0, "max_seq_len": 2048},
    }
)
class MetaParams(Foreign):
    """What is used of a params.json; the rest goes along as it is."""

    dim: Width
    n_layers: Width
    n_heads: Width
    n_kv_heads: Width | None = None
    vocab_size: Annotated[int, Field(ge=-1, le=1 << 24)] | None = None
    norm_eps: Annotated[float, Field(ge=0, le=1)] = NORM_EPS
    rope_theta: Positive = ROPE_THETA
    max_seq_len: Positions = 1


@dataclass(frozen=True)
class LlamaShape:
    """The sizes of a LLaMA. `hidden` and `ffn` are widths, `vocab` the rows of the embeddings."""

    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @classmethod
    def from_params(cls, params: Mapping[str, Any], shards: Sequence[Mapping[str, torch.Tensor]]) -> "LlamaShape":
        """From params.json; what it leaves open (vocab_size is -1, the width of the FFN is a formula) from tensors.

        Raises:
            UserError: sizes that do not go together, or are of no LLaMA.
        """
        sizes = {name: params[name] for name in ("dim", "n_layers", "n_heads")}
        sizes["n_kv_heads"] = params.get("n_kv_heads") or sizes["n_heads"]
        if sizes["dim"] % sizes["n_heads"] or sizes["n_heads"] % sizes["n_kv_heads"]:
            raise UserError(
                f"{PARAMS_FILE} says dim {sizes['dim']}, n_heads {sizes['n_heads']} and n_kv_heads "
                f"{sizes['n_kv_heads']}, which do not divide: it is broken."
            )
        ffn, vocab = (sum(len(shard.get(name, ())) for shard in shards) for name in (_FFN, _HEAD))
        if not ffn or not vocab:
            raise UserError(f"the shards lack {_FFN if not ffn else _HEAD}: they are no LLaMA. Copy them again.")
        return cls(sizes["dim"], ffn, sizes["n_layers"], sizes["n_heads"], sizes["n_kv_heads"], vocab)

    @classmethod
    def from_config(cls, config: Any, where: Path) -> "LlamaShape":
        """From a Hugging Face config.

        Raises:
            UserError: an architecture that Meta's layout can not hold.
        """
        if config.model_type != "llama":
            raise UserError(f"{where} is of type {config.model_type}; Meta's layout holds LLaMA models only.")
        width = head_dim(config)
        extra = [name for name in ("attention_bias", "mlp_bias") if getattr(config, name, False)]
        if extra or width * config.num_attention_heads != config.hidden_size or config.hidden_act != "silu":
            what = extra[0] if extra else f"hidden_act {config.hidden_act} with a head_dim of {width}"
            raise UserError(f"{where} has {what}, which Meta's layout has no place for.")
        return cls(
            config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.num_attention_heads,
            config.num_key_value_heads, config.vocab_size,
        )  # fmt: skip


_FFN, _HEAD = "layers.0.feed_forward.w1.weight", "output.weight"


def read_params(folder: Path, shards: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, Any]:
    """params.json of a folder of shards.

    The original's merge wrote the table of all sizes into it, "7B" to "65B", for models of more than one shard: then
    that of the model's width counts.

    Raises:
        UserError: missing or broken, or of a model this layout does not cover.
    """
    file = folder / PARAMS_FILE
    if not file.is_file():
        raise UserError(f"{folder} has no {PARAMS_FILE}: copy the one that was published with the shards.")
    params = read_object(file)
    if "dim" not in params:
        width = len(shards[0].get("norm.weight", ()))
        fitting = [one for one in params.values() if isinstance(one, dict) and one.get("dim") == width]
        params = fitting[0] if len(fitting) == 1 else params
    if "dim" not in params:
        raise UserError(f"{file} holds no sizes; expected dim, n_layers, n_heads and so on. Copy the file again.")
    typed(params, MetaParams, file)
    if odd := sorted(name for name in ("use_scaled_rope", "moe", "vision_chunk_size") if params.get(name)):
        raise UserError(f"{file} says {odd[0]}, which is LLaMA 3's or later; LLaMA 1 and 2 can be converted.")
    return params


def make_params(config: Any, shape: LlamaShape) -> dict[str, Any]:
    """params.json for a Hugging Face config; vocab_size is -1 as in the published ones: the tokenizer's.

    Keys of LLaMA 2 and Code Llama are left out where they say what LLaMA 1 means anyway.
    """
    params = {
        "dim": shape.hidden,
        **_ffn_formula(shape.hidden, shape.ffn),
        "n_heads": shape.heads,
        "n_layers": shape.layers,
        "norm_eps": config.rms_norm_eps,
        "vocab_size": -1,
    }
    if shape.kv_heads != shape.heads:
        params["n_kv_heads"] = shape.kv_heads
    if (theta := rope_theta(config)) != ROPE_THETA:
        params["rope_theta"] = theta
    return params


def valid_shard_counts(shape: LlamaShape) -> list[int]:
    """Numbers of shards that split no head, and no width unevenly."""
    common = math.gcd(shape.heads, shape.kv_heads, shape.hidden, shape.ffn)
    return [count for count in range(1, common + 1) if common % count == 0 and count <= shape.vocab]


def check_shard_count(count: int, shape: LlamaShape, flag: str) -> None:
    """Refuse a number of shards that can not be.

    Raises:
        UserError: naming those that can.
    """
    counts = valid_shard_counts(shape)
    if count in counts:
        return
    why = f"{shape.heads} query and {shape.kv_heads} key/value heads, a width of {shape.hidden} and one of {shape.ffn}"
    raise UserError(
        f"{flag} {count} would split a head, or leave shards of unequal width: this model has {why}. These work: "
        f"{', '.join(map(str, counts))}."
    )


def default_shard_count(shape: LlamaShape) -> int:
    """The number of shards Meta published a model of this depth in, 1 for others."""
    count = {40: 2, 60: 4, 80: 8}.get(shape.layers, 1)
    return count if count in valid_shard_counts(shape) else 1


def rope_theta(config: Any) -> float:
    """The base of the rotation's frequencies in a Hugging Face config."""
    return (config.rope_parameters or {}).get("rope_theta", ROPE_THETA)


def _ffn_formula(hidden: int, ffn: int) -> dict[str, Any]:
    """What makes Meta's formula, the next multiple of m above factor * 8/3 of the hidden size, give this width."""
    for multiple in (256, *(2**i for i in range(14, -1, -1))):
        if ffn_width(hidden, multiple) == ffn:
            return {"multiple_of": multiple}
    multiple = max(2**i for i in range(9) if ffn % 2**i == 0)
    # From half a step below the width, the formula rounds up to it however the product is rounded.
    middle = ffn - multiple // 2 + 0.5
    return {"multiple_of": multiple, "ffn_dim_multiplier": round(middle / int(2 * (4 * hidden) / 3), 9)}


def ffn_width(hidden: int, multiple: int, factor: float | None = None) -> int:
    """Meta's formula for the width of the FFN."""
    width = int(2 * (4 * hidden) / 3)
    width = int(factor * width) if factor is not None else width
    return multiple * ((width + multiple - 1) // multiple)
