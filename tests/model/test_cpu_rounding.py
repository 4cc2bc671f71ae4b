"""Rows that bitsandbytes on a CPU reads back wrongly at 4 bits, and the sentence that says so."""

import pytest
import torch
from transformers import LlamaConfig

from vicuna.model.cpu_rounding import four_bit_error, four_bit_warning

CPU = torch.device("cpu")


@pytest.mark.parametrize("length", [16, 48, 64, 96, 100, 172, 240, 576, 688, 4096])
def test_the_error_is_that_of_a_layer_on_this_cpu(length):
    """With bitsandbytes 0.50.2 and AVX512 up to 3 where 16 divides the rows and 64 does not, else 1."""
    import bitsandbytes as bnb

    weight = torch.randn(64, length, generator=torch.Generator().manual_seed(1))
    packed = bnb.nn.Params4bit(weight.clone(), requires_grad=False, quant_type="nf4")
    layer = bnb.nn.Linear4bit(length, 64, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    layer.weight = packed
    layer.to("cpu").support_avx512bf16_for_cpu = False
    error = (layer(torch.eye(length)).T - weight).norm() / weight.norm()

    assert (error > 0.12) == (four_bit_error(length) > 1.1)


def config(hidden: int, intermediate: int) -> LlamaConfig:
    sizes = {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": 2}
    return LlamaConfig(**sizes, num_attention_heads=4, vocab_size=320)


def test_the_weights_that_it_concerns_are_counted():
    if four_bit_error(96) < 1.1:
        pytest.skip("bitsandbytes reads every row back rightly on this CPU")
    said = four_bit_warning(config(64, 96), 4, CPU)

    assert said.startswith("--bits 4: 2 of 14 weights are rounded up to ")
    assert said.endswith(
        " times worse than 4 bits need, since bitsandbytes on a CPU reads rows of 96 back wrongly. Take --bits 8, or a "
        "GPU."
    )


@pytest.mark.parametrize(
    ("hidden", "intermediate", "bits", "device"),
    [(64, 128, 4, "cpu"), (64, 96, 8, "cpu"), (64, 96, 4, "cuda"), (64, 172, 4, "cpu")],
)
def test_nothing_is_said_where_nothing_is_wrong(hidden, intermediate, bits, device):
    assert four_bit_warning(config(hidden, intermediate), bits, torch.device(device)) == ""


def test_a_base_stored_by_another_quantiser_is_none_of_it():
    stored = config(64, 96)
    stored.quantization_config = {"quant_method": "gptq", "bits": 4, "group_size": 32}

    assert four_bit_warning(stored, 4, CPU) == ""
