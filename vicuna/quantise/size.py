"""What a quantised model takes, counted before a weight is read: on disk, in memory, and while it answers."""

from dataclasses import dataclass
from typing import Any

import torch

from vicuna.model.config import head_dim, linear_layers, meta_model
from vicuna.model.gptq import AWQ, WORD
from vicuna.quantise.settings import WHOLE_ROW, Settings

SCALE = 2  # bytes; scales are float16 whatever the base is
INDEX = 4  # bytes; the group of a column, which GPTQ alone keeps


@dataclass(frozen=True)
class Size:
    """Bytes of a model's weights before and after, and of the keys and values of `context` tokens in float16."""

    parameters: int
    before: int
    after: int
    cache: int
    context: int

    def fits(self, limit: int) -> str:
        """Whether weights, and weights with keys and values, stay under `limit` GB (of 10^9 bytes), in words."""
        both = self.after + self.cache
        if both < limit * 10**9:
            return f"under {limit} GB, with room for an answer"
        if self.after < limit * 10**9:
            return f"under {limit} GB as weights alone; with {self.context:,} tokens of keys and values it is not"
        return f"not under {limit} GB"


def count_size(config: Any, settings: Settings, before: torch.dtype, after: torch.dtype, context: int) -> Size:
    """Count the bytes.

    Args:
        before, after: dtypes of the base, and of what is not quantised.
    """
    model = meta_model(config)
    total = model.num_parameters()
    quantised = packed = 0
    for columns, rows in linear_layers(config).values():
        groups = 1 if settings.group == WHOLE_ROW else -(-columns // settings.group)
        words = columns * settings.bits // WORD * rows + groups * (rows * settings.bits // WORD)
        packed += words * WORD // 8 + groups * rows * SCALE + (0 if settings.method == AWQ else columns * INDEX)
        quantised += columns * rows
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    cache = 2 * config.num_hidden_layers * heads * head_dim(config) * context * torch.float16.itemsize
    rest = (total - quantised) * after.itemsize
    return Size(total, total * before.itemsize, packed + rest, cache, context)
