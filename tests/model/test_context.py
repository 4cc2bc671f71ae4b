"""How long a base's sequences may be: what its config's fields say of RoPE scaling, and what --context says."""

import sys

import pytest
from transformers import Gemma3TextConfig, GPT2Config

from vicuna.errors import UserError
from vicuna.model.base import check_base
from vicuna.model.context import read_context


def scaled(held: int, kind: str, factor: float, **more: object) -> dict:
    """Fields of a config."""
    return {"max_position_embeddings": held, "rope_scaling": {"type": kind, "factor": factor, **more}}


LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
ORIGINAL = "original_max_position_embeddings"
FACTORS = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
# The fields of the embedded base are those of its small context, 512; the others are those of published configs.
CONTEXTS = {
    "none": ({"max_position_embeddings": 512}, 512),
    "linear": (scaled(512, "linear", 4.0), 2048),
    "linear, a broken factor": (scaled(512, "linear", 1.0), 512),
    "linear, half": (scaled(512, "linear", 2.5), 1280),
    "dynamic": (scaled(512, "dynamic", 2.0), 1024),
    "linear, Vicuna 16k": ({**scaled(4096, "linear", 4.0), "max_sequence_length": 16384}, 16384),
    "linear, Llama 2 of a user": (scaled(4096, "linear", 4.0), 16384),
    "linear, the field left at the length before": ({**scaled(2048, "linear", 4.0), "max_sequence_length": 2048}, 8192),
    "linear, Chinese-Alpaca-2 16k": (scaled(16384, "linear", 4.0), 16384),
    "linear, LLaMA-2 32K": (scaled(32768, "linear", 8.0), 32768),
    "linear, original named": (scaled(2048, "linear", 4.0, **{ORIGINAL: 512}), 2048),
    "linear, original named and held": (scaled(2048, "linear", 4.0, **{ORIGINAL: 2048}), 8192),
    "linear, original named outside": ({**scaled(2048, "linear", 4.0), ORIGINAL: 512}, 2048),
    "linear, tokenizer of 512": (scaled(2048, "linear", 4.0), 2048),
    "yarn, Qwen": (scaled(32768, "yarn", 4.0, **{ORIGINAL: 32768}), 131072),
    "yarn, DeepSeek": (scaled(163840, "yarn", 40.0, **{ORIGINAL: 4096}), 163840),
    "yarn, Mistral 128k": (scaled(32768, "yarn", 16.0, **{ORIGINAL: 8192}), 131072),
    "yarn, no original": (scaled(512, "yarn", 4.0), 2048),
    "yarn, no original, long": (scaled(131072, "yarn", 4.0), 131072),
    "llama3, 3.1": (scaled(131072, "llama3", 8.0, **{ORIGINAL: 8192}, **LLAMA3), 131072),
    "llama3, 3.2": (scaled(131072, "llama3", 32.0, **{ORIGINAL: 8192}, **LLAMA3), 131072),
    "llama3, not written in": (scaled(8192, "llama3", 8.0, **{ORIGINAL: 8192}, **LLAMA3), 65536),
    "longrope, Phi": ({**scaled(131072, "longrope", None, **FACTORS), ORIGINAL: 4096}, 131072),
    "longrope, factor": (scaled(4096, "longrope", 4.0, **{ORIGINAL: 4096}, **FACTORS), 16384),
}


@pytest.mark.parametrize("case", CONTEXTS)
def test_the_context_under_rope_scaling_is_decided_from_the_fields(edit_base, caplog, case):
    fields, expected = CONTEXTS[case]
    fields["rope_parameters"] = None  # the newer name of the same, which transformers saves
    folder = edit_base("config.json", **fields)
    if case != "linear, tokenizer of 512":
        edit_base("tokenizer_config.json", model_max_length=10**30)

    with caplog.at_level("INFO", logger="vicuna"):
        assert check_base(str(folder)).context == expected

    said = f"context of {expected} tokens (RoPE scaling "
    unambiguous = case.startswith(("none", "linear, a broken", "longrope, Phi"))
    assert (said in caplog.text) != unambiguous
    assert ("--context of training and chat sets another" in caplog.text) != unambiguous


def test_the_newer_name_of_the_scaling_is_read_as_the_older(edit_base):
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    assert check_base(str(edit_base("config.json", rope_parameters=rope))).context == 2048
    rope[ORIGINAL] = 128
    assert check_base(str(edit_base("config.json", rope_parameters=rope))).context == 512


def test_a_length_in_tokenizer_config_that_the_scaling_reaches_is_believed(edit_base):
    edit_base("tokenizer_config.json", model_max_length=1500)
    folder = edit_base("config.json", **scaled(512, "linear", 4.0), rope_parameters=None)

    assert check_base(str(folder)).context == 1500


@pytest.mark.parametrize("asked", [100, 512, 5000])
def test_context_is_the_users_word(tiny_base, caplog, asked):
    with caplog.at_level("INFO", logger="vicuna"):
        assert check_base(str(tiny_base), asked).context == asked

    assert ("as --context says, where its config comes to 512" in caplog.text) == (asked != 512)


def test_positions_that_are_weights_can_not_be_more_than_there_are(tmp_path):
    config = GPT2Config(n_positions=128)

    assert read_context(tmp_path, config, 100).tokens == 100
    with pytest.raises(UserError, match=r"--context 129 is above the 128 positions of .*: take at most 128"):
        read_context(tmp_path, config, 129)


def test_a_config_without_a_length_has_no_end(tmp_path):
    assert read_context(tmp_path, object()).tokens == sys.maxsize
    assert read_context(tmp_path, object(), 700).reason == "as --context says"


def test_layers_of_several_kinds_are_held_to_the_shortest(tmp_path):
    rope = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    config = Gemma3TextConfig(max_position_embeddings=1024, num_hidden_layers=6, rope_parameters=rope)

    assert read_context(tmp_path, config).tokens == 1024
    rope["sliding_attention"] = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    assert read_context(tmp_path, config).tokens == 2048
