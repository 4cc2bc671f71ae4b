"""Loading the base at 4, 8, 16 and 32 bits, and the trap that 4 bits hold."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.model.tiny_adapters import logits, train_losses
from vicuna.errors import UserError
from vicuna.model.base import check_base, load_base


def test_a_base_at_32_bits_is_what_was_saved(tiny_base):
    model = load_base(check_base(str(tiny_base)), 32)
    saved = load_file(tiny_base / "model.safetensors")

    assert all(torch.equal(tensor.cpu(), saved[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("bits", "kind"), [(4, "Linear4bit"), (8, "Linear8bitLt"), (16, "Linear"), (32, "Linear")])
def test_a_base_loads_at_each_precision_and_computes_alike(tiny_base, bits, kind):
    base = check_base(str(tiny_base))
    model = load_base(base, bits)
    exact = logits(load_base(base, 32))
    found = logits(model)

    assert type(model.model.layers[0].self_attn.q_proj).__name__ == kind
    # The head is never quantised; 4 bits keep the direction of the logits of a base of random weights, and no more.
    assert type(model.lm_head).__name__ == "Linear"
    alike = torch.nn.functional.cosine_similarity(found.flatten(), exact.flatten(), dim=0)
    assert alike > {4: 0.8, 8: 0.995, 16: 0.999, 32: 0.999999}[bits]


def test_a_loaded_base_keeps_the_generation_config_beside_it(edit_base):
    folder = edit_base("generation_config.json", suppress_tokens=[7])

    assert load_base(check_base(str(folder)), 32).generation_config.suppress_tokens == [7]


def test_weights_that_do_not_fit_are_told_in_a_line_each(base_copy, program):
    file = base_copy / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.7.mlp.up_proj.weight"] = torch.zeros(2, 2)
    save_file(weights, file, metadata={"format": "pt"})
    more = program("generate.py", "--model_path", base_copy, "--text", "?", "--max_new_tokens", "1")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    fewer = program("generate.py", "--model_path", base_copy, "--text", "?")

    left_out = f"{base_copy} holds 1 tensors that such a model does not have, such as model.layers.7."
    assert more.returncode == 0
    assert left_out in more.stderr
    assert fewer.returncode == 1
    assert "lack 1 tensors" in fewer.stderr
    assert "LOAD REPORT" not in more.stderr + fewer.stderr


@pytest.mark.parametrize("bits", [8, 32])
def test_weights_that_lack_a_tensor_are_refused_by_its_name(base_copy, bits):
    tensors = load_file(base_copy / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, base_copy / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(UserError, match=r"lack 1 tensors, such as model\.layers\.1\.mlp\.up_proj\.weight\. Copy"):
        load_base(check_base(str(base_copy)), bits)


def test_weights_of_another_shape_are_refused(base_copy):
    tensors = load_file(base_copy / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:-1].clone()
    save_file(tensors, base_copy / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(
        UserError, match=r"lm_head\.weight in .* is \(1799, 32\), but \(1800, 32\) follows from config\.json"
    ):
        load_base(check_base(str(base_copy)), 32)


@pytest.mark.parametrize("bits", [4, 8])
def test_an_evaluation_between_two_steps_does_not_change_the_training(wide_base, bits):
    """bitsandbytes 0.50 repacks 4-bit weights at the first evaluation on an AVX512-BF16 CPU; see load_base."""
    straight = train_losses(wide_base, bits, evaluate=False)

    assert train_losses(wide_base, bits, evaluate=True) == straight
    assert straight[-1] < straight[0]
