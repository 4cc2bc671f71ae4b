"""What bitsandbytes computes otherwise on a CPU: rows of 4-bit weights that it reads back wrongly."""

from collections import Counter
from typing import Any

import torch
from torch import nn

from vicuna.model.config import meta_model
from vicuna.model.stored import stored_method
from vicuna.sentences import Sentence

BLOCK = 64  # weights that share a scale: bitsandbytes' default, which transformers keeps
SAMPLE_ROWS = 64


def four_bit_warning(config: Any, bits: int, device: torch.device) -> str:
    """A sentence where weights of this base are rounded worse at 4 bits than they should be; "" elsewhere.

    bitsandbytes 0.50.2 on a CPU takes rows of 96 or 688 weights for another number of blocks, rows of 100 or 172 not;
    so the lengths of this base's rows are tried.
    """
    if bits != 4 or device.type != "cpu" or stored_method(config) not in ("", "bitsandbytes"):
        return ""
    model = meta_model(config)
    head = model.get_output_embeddings()
    linear = [one for one in model.modules() if isinstance(one, nn.Linear) and one is not head]
    lengths = Counter(one.in_features for one in linear)
    worse = {length: error for length in sorted(lengths) if (error := four_bit_error(length)) > 1.1}
    if not worse:
        return ""
    rows = ", ".join(f"{length:,}" for length in worse)
    count, worst = sum(lengths[one] for one in worse), max(worse.values())
    return Sentence("rounded_worse", count=count, all=len(linear), worst=worst, rows=rows)


def four_bit_error(length: int) -> float:
    """The error of random weights in rows of this length at 4 bits on this CPU, that of the same in one row being 1."""
    if length % BLOCK == 0:
        return 1.0
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = torch.randn(SAMPLE_ROWS, length, generator=torch.Generator().manual_seed(0))
    errors = []
    for one in (weight, weight.view(1, -1)):
        packed, state = quantize_4bit(one, quant_type="nf4", blocksize=BLOCK)
        errors.append(float((dequantize_4bit(packed, state) - one).norm()))
    return errors[0] / errors[1]
