"""Parameters are counted before weights are loaded."""

import pytest
from peft import set_peft_model_state_dict
from safetensors.torch import load_file

from vicuna.errors import UserError
from vicuna.model.adapter import new_adapter, plan_adapter, save_adapter
from vicuna.model.base import check_base, load_base
from vicuna.model.config import meta_model
from vicuna.model.flags import LoraFlags
from vicuna.model.parameters import count_parameters


def test_parameters_are_counted_without_weights(tiny_base):
    base = check_base(str(tiny_base))
    config, _, _ = plan_adapter(base, LoraFlags(), None)
    whole = sum(value.numel() for value in load_file(tiny_base / "model.safetensors").values())

    found = count_parameters(meta_model(base.config), config)

    assert found.trainable == 2 * 2 * (8 * 32 + 32 * 8)  # blocks x (q, v) x (A + B)
    assert found.quantisable == 2 * (4 * 32 * 32 + 3 * 32 * 64)  # every linear layer but the head
    assert found.total == whole + found.trainable


def test_target_modules_that_the_base_lacks_are_refused(tiny_base):
    base = check_base(str(tiny_base))
    config, _, _ = plan_adapter(base, LoraFlags(lora_target_modules=["q_proj", "query_key_value"]), None)

    with pytest.raises(UserError, match=r"--lora_target_modules query_key_value: no such linear layers .*it has down"):
        count_parameters(meta_model(base.config), config)


@pytest.mark.parametrize("which", ["tiny_base", "tied_base"])
@pytest.mark.parametrize("train", ["lora", "embeddings", "lora+embeddings+head"])
def test_what_an_adapters_file_holds_is_counted(request, tmp_path, which, train):
    base = check_base(str(request.getfixturevalue(which)))
    config, _, _ = plan_adapter(base, LoraFlags(train=train), None)
    found = count_parameters(meta_model(base.config), config)

    save_adapter(new_adapter(load_base(base, 32), plan_adapter(base, LoraFlags(train=train), None)[0]), tmp_path)

    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert found.saved == sum(one.numel() for one in tensors.values())
    twice = which == "tied_base" and train != "lora"
    assert (found.saved > found.trainable) == twice


def test_peft_asks_for_tied_embeddings_under_both_names(tied_base):
    """Why they are written twice."""
    base = check_base(str(tied_base))
    config, _, _ = plan_adapter(base, LoraFlags(train="embeddings"), None)
    model = new_adapter(load_base(base, 32), config)
    embeddings = model.get_input_embeddings().modules_to_save["default"].weight.detach().clone()

    with pytest.raises(KeyError, match="lm_head"):
        set_peft_model_state_dict(model, {"base_model.model.model.embed_tokens.weight": embeddings})


def test_the_config_of_a_saved_adapter_counts_as_one_that_is_trained(tiny_base):
    base = check_base(str(tiny_base))
    config, _, _ = plan_adapter(base, LoraFlags(), None)
    new = count_parameters(meta_model(base.config), config)
    config.inference_mode = True  # as PEFT writes it

    assert count_parameters(meta_model(base.config), config) == new
    assert config.inference_mode
