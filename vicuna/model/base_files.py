"""What config.json and generation_config.json of a base may say, field by field, before transformers sees them.

Beside what is read here there stands all that has transformers, or a model's class, make room for something or go
around: how many layers, experts, labels. Fields of one kind of model alone are left to its class.
"""

from typing import Annotated, Any, Self

import torch
from pydantic import BeforeValidator, Field, SkipValidation, model_validator

from vicuna.foreign.typed import Count, Foreign, Name, Names, Positive, Size, opens

MOST_LAYERS = 10_000  # of today's models the deepest have 126
Layers = Annotated[int, Field(ge=0, le=MOST_LAYERS)]
Width = Annotated[int, Field(ge=1, le=1 << 20)]
Number = Annotated[float, Field(ge=-1e12, le=1e12)]
Factor = Annotated[float, Field(gt=0, le=1e6)]
# -1 stands for none in configs of 2023.
DeclaredId = Annotated[int, Field(ge=-1, le=1 << 24)]


def _alone(value: Any) -> Any:
    return value if isinstance(value, list) or value is None else [value]


def _listed(one: Any, most: int = MOST_LAYERS) -> Any:
    """A list of such values, where some configs have one value alone, or null."""
    return Annotated[Annotated[list[one], Field(max_length=most)] | None, BeforeValidator(_alone)]


DeclaredIds = _listed(DeclaredId)
Counts = _listed(Annotated[int, Field(ge=0, le=1 << 16)])
Widths = _listed(Width)
Bases = _listed(Positive)
Factors = Annotated[list[Number], Field(max_length=1 << 14)]


class Rotation(Foreign):
    """How positions are turned, and stretched; of several kinds of layers each kind has one of its own inside."""

    rope_type: Name | None = None
    type: Name | None = None
    rope_theta: Positive | None = None
    partial_rotary_factor: Factor | None = None
    factor: Factor | None = None
    original_max_position_embeddings: Size | None = None
    low_freq_factor: Factor | None = None
    high_freq_factor: Factor | None = None
    attention_factor: Number | None = None
    beta_fast: Number | None = None
    beta_slow: Number | None = None
    mscale: Number | None = None
    mscale_all_dim: Number | None = None
    short_factor: Factors | None = None
    long_factor: Factors | None = None


def _rotations(value: Any) -> Any:
    """Check those inside, whatever they are called."""
    if isinstance(value, dict):
        for one in value.values():
            if isinstance(one, dict):
                Rotation.model_validate(one)
    return value


Rotations = Annotated[Rotation | None, BeforeValidator(_rotations)]


class Quantisation(Foreign):
    """What quantised weights; more is compared with the weights themselves, see `vicuna.model.gptq`."""

    quant_method: Name | None = None
    load_in_8bit: bool | None = None
    load_in_4bit: bool | None = None
    bits: Annotated[int, Field(ge=1, le=64)] | None = None
    group_size: Annotated[int, Field(ge=-1, le=1 << 20)] | None = None
    sym: bool | None = None
    desc_act: bool | None = None
    lm_head: bool | None = None
    checkpoint_format: Name | None = None
    format: Name | None = None
    modules_to_not_convert: Names | None = None
    llm_int8_skip_modules: Names | None = None


class Dimensions(Foreign):
    """How large a model is, in the words of all kinds."""

    vocab_size: Size | None = None
    hidden_size: Width | None = None
    n_embd: Width | None = None
    intermediate_size: Widths = None
    num_attention_heads: Counts = None
    num_key_value_heads: Counts = None
    head_dim: Width | None = None
    num_hidden_layers: Layers | None = None
    num_layers: Layers | None = None
    n_layer: Layers | None = None
    n_layers: Layers | None = None
    decoder_layers: Layers | None = None
    encoder_layers: Layers | None = None
    num_experts: Counts = None
    num_local_experts: Counts = None
    n_routed_experts: Counts = None
    n_shared_experts: Counts = None
    moe_num_experts: Counts = None
    num_nextn_predict_layers: Layers | None = None
    # As large as the tables that classes of old make of them, whole or squared.
    max_position_embeddings: Annotated[int, Field(ge=-1, le=1 << 31)] | None = None
    n_positions: Annotated[int, Field(ge=-1, le=1 << 31)] | None = None
    sliding_window: Annotated[int, Field(ge=-1, le=1 << 40)] | None = None
    num_labels: Annotated[int, Field(ge=0, le=1 << 16)] | None = None
    rms_norm_eps: Number | None = None
    rope_theta: Bases = None
    rope_scaling: Rotations = None
    rope_parameters: Rotations = None
    dtype: Name | None = None
    torch_dtype: Name | None = None
    bos_token_id: DeclaredIds = None
    eos_token_id: DeclaredIds = None
    pad_token_id: DeclaredIds = None
    tie_word_embeddings: bool | None = None


_ROPE = {
    **{"rope_type": "llama3", "type": "llama3", "rope_theta": 5e5, "partial_rotary_factor": 1.0, "factor": 8.0},
    **{"original_max_position_embeddings": 8192, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    **{"attention_factor": 1.0, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0},
    **{"short_factor": [1.0, 1.5], "long_factor": [1.0, 2.5]},
}
_DIMENSIONS = {
    **{"vocab_size": 1800, "hidden_size": 64, "n_embd": 64, "intermediate_size": 128, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "head_dim": 16, "num_hidden_layers": 2, "num_layers": 2, "n_layer": 2, "n_layers": 2},
    **{"decoder_layers": 2, "encoder_layers": 2},
    **{"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "n_shared_experts": 1, "moe_num_experts": [4]},
    **{"num_nextn_predict_layers": 1, "max_position_embeddings": 512, "n_positions": 512, "sliding_window": 4096},
    **{"num_labels": 2, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "rope_scaling": _ROPE},
    **{"rope_parameters": {"full_attention": _ROPE}, "dtype": "float32", "torch_dtype": "float16"},
    **{"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": -1, "tie_word_embeddings": False},
}
_QUANTISATION = {
    **{"quant_method": "gptq", "load_in_8bit": False, "load_in_4bit": False, "bits": 4, "group_size": 128, "sym": True},
    **{"desc_act": False, "lm_head": False, "checkpoint_format": "gptq", "format": "gptq"},
    **{"modules_to_not_convert": ["lm_head"], "llm_int8_skip_modules": ["lm_head"]},
}


@opens({
    **_DIMENSIONS,
    **{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "text_config": {"hidden_size": 64}},
    **{"quantization_config": _QUANTISATION, "auto_map": {"AutoConfig": "own.OwnConfig"}},
})  # fmt: skip
class BaseConfig(Dimensions):
    """config.json of a base."""

    model_type: Name | None = None
    architectures: Names | None = None
    text_config: Dimensions | None = None
    quantization_config: Quantisation | None = None
    auto_map: dict[Name, SkipValidation[Any]] | None = None

    @model_validator(mode="after")
    def _floats(self) -> Self:
        """Quantised weights are of whole numbers, and some say so."""
        for name in (self.dtype, self.torch_dtype):
            found = getattr(torch, (name or "float32").removeprefix("torch."), None)
            if name not in (None, "auto") and not getattr(found, "is_floating_point", self.quantization_config):
                raise ValueError(f"a dtype of floating point, such as bfloat16, in place of {name[:40]}")
        return self

    @property
    def parts(self) -> list[Dimensions]:
        """The model, and the one for text inside one that also sees."""
        return [self, *([self.text_config] if self.text_config else [])]


Share = Annotated[float, Field(ge=0, le=1)]


@opens({
    **{"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0, "max_length": 20, "max_new_tokens": 20},
    **{"min_length": 0, "num_beams": 1, "num_return_sequences": 1, "top_k": 50, "top_p": 0.9, "min_p": 0.1},
    **{"temperature": 0.6, "repetition_penalty": 1.1, "no_repeat_ngram_size": 0, "length_penalty": 1.0},
    **{"do_sample": True, "suppress_tokens": [0], "begin_suppress_tokens": [0], "bad_words_ids": [[3]]},
})  # fmt: skip
class DeclaredDecoding(Foreign):
    """generation_config.json: what a base declares of its decoding."""

    bos_token_id: DeclaredIds = None
    eos_token_id: DeclaredIds = None
    pad_token_id: DeclaredIds = None
    max_length: Count | None = None
    max_new_tokens: Count | None = None
    min_length: Count | None = None
    num_beams: Annotated[int, Field(ge=1, le=1024)] | None = None
    num_return_sequences: Annotated[int, Field(ge=1, le=1024)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=1 << 24)] | None = None
    top_p: Share | None = None
    min_p: Share | None = None
    temperature: Annotated[float, Field(ge=0, le=1e4)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=1e4)] | None = None
    no_repeat_ngram_size: Count | None = None
    length_penalty: Number | None = None
    do_sample: bool | None = None
    suppress_tokens: DeclaredIds = None
    begin_suppress_tokens: DeclaredIds = None
    bad_words_ids: (
        Annotated[list[Annotated[list[DeclaredId], Field(max_length=10_000)]], Field(max_length=10_000)] | None
    ) = None
