"""Keys of a GGUF file, each of its type and within bounds; and what they declare against the tensors of the file.

Checked once, before llama.cpp, SentencePiece or transformers are given anything that was made of them.
"""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from vicuna.errors import UserError
from vicuna.foreign.typed import Count, Foreign, Id, Name, Text, opens, typed

MOST_PIECES = 1 << 22  # of a vocabulary; the largest of today have 262,144, and as many merges
MOST_BLOCKS = 10_000
_BLOCK = re.compile(r"blk\.(\d{1,9})\.")


def _each(check: Callable[[Any], bool], expected: str) -> AfterValidator:
    """One number, or a list of one for each block, as models have them whose blocks differ."""

    def validate(value: Any) -> Any:
        if not all(map(check, value if isinstance(value, list) else [value])):
            raise ValueError(expected)
        return value

    return AfterValidator(validate)


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 32


def _factor(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= 1e12


Sizes = Annotated[Any, _each(_whole, "whole numbers from 0 on")]
Factors = Annotated[Any, _each(_factor, "finite numbers from 0 to 1e12")]
Switch = Annotated[Any, _each(lambda value: value in (True, False), "true or false")]
# -1, also as 32 bits have it without a sign, is how some files say that there is none.
TokenId = Annotated[int, Field(ge=-1, lt=1 << 32)]
Pieces = Annotated[list[str], Field(max_length=MOST_PIECES)]


@opens(
    {
        **{"general_architecture": "llama", "general_type": "model", "general_name": "a", "adapter_type": "lora"},
        **{"adapter_lora_alpha": 16.0, "context_length": 2048, "block_count": 2, "embedding_length": 64},
        **{"feed_forward_length": 128, "attention_head_count": 4, "attention_head_count_kv": [2, 2]},
        **{"attention_key_length": 16, "attention_value_length": 16, "attention_layer_norm_rms_epsilon": 1e-5},
        **{"rope_dimension_count": 16, "rope_freq_base": 1e4, "rope_scale_linear": 1.0, "rope_scaling_type": "yarn"},
        **{"rope_scaling_factor": 2.0, "rope_scaling_original_context_length": 1024, "rope_scaling_yarn_beta_fast": 32},
        **{"rope_scaling_yarn_beta_slow": 1, "expert_count": 0, "expert_used_count": 0},
        **{"tokenizer_ggml_model": "llama", "tokenizer_ggml_pre": "default", "tokenizer_ggml_tokens": ["<unk>", "a"]},
        **{"tokenizer_ggml_token_type": [2, 1], "tokenizer_ggml_scores": [0.0, -1.0], "tokenizer_ggml_merges": ["a b"]},
        **{"tokenizer_ggml_bos_token_id": 1, "tokenizer_ggml_eos_token_id": 1, "tokenizer_ggml_unknown_token_id": 0},
        **{"tokenizer_ggml_padding_token_id": 1, "tokenizer_ggml_eot_token_id": 1, "tokenizer_ggml_eom_token_id": 1},
        **{"tokenizer_ggml_add_bos_token": True, "tokenizer_ggml_add_space_prefix": True},
        **{"tokenizer_ggml_remove_extra_whitespaces": False, "tokenizer_ggml_precompiled_charsmap": [1]},
        **{"tokenizer_chat_template": "{{ messages }}", "vicuna_prompt_type": "chat", "vicuna_step": 5},
        **{"vicuna_generation_config": "{}", "vicuna_unknown_text": "?"},
    }
)
class GGUFKeys(Foreign):
    """The keys that are used here or by who reads on, without the architecture before them, `_` for each full stop."""

    general_architecture: Name
    general_type: Name | None = None
    general_name: Text | None = None
    adapter_type: Name | None = None
    adapter_lora_alpha: Annotated[float, Field(ge=-1e6, le=1e6)] | None = None
    context_length: Annotated[int, Field(ge=1, le=1 << 32)] | None = None
    block_count: Annotated[int, Field(ge=1, le=MOST_BLOCKS)] | None = None
    embedding_length: Annotated[int, Field(ge=1, le=1 << 24)] | None = None
    feed_forward_length: Sizes = 0
    attention_head_count: Sizes = 0
    attention_head_count_kv: Sizes = 0
    attention_key_length: Count | None = None
    attention_value_length: Count | None = None
    attention_layer_norm_rms_epsilon: Factors = 0
    rope_dimension_count: Count | None = None
    rope_freq_base: Factors = 0
    rope_scale_linear: Factors = 0
    rope_scaling_type: Name | None = None
    rope_scaling_factor: Factors = 0
    rope_scaling_original_context_length: Count | None = None
    rope_scaling_yarn_beta_fast: Factors = 0
    rope_scaling_yarn_beta_slow: Factors = 0
    expert_count: Sizes = 0
    expert_used_count: Sizes = 0
    tokenizer_ggml_model: Name | None = None
    tokenizer_ggml_pre: Name | None = None
    tokenizer_ggml_tokens: Pieces | None = None
    tokenizer_ggml_token_type: Annotated[list[Id], Field(max_length=MOST_PIECES)] | None = None
    tokenizer_ggml_scores: Annotated[list[float], Field(max_length=MOST_PIECES)] | None = None
    tokenizer_ggml_merges: Pieces | None = None
    tokenizer_ggml_bos_token_id: TokenId | None = None
    tokenizer_ggml_eos_token_id: TokenId | None = None
    tokenizer_ggml_unknown_token_id: TokenId | None = None
    tokenizer_ggml_padding_token_id: TokenId | None = None
    tokenizer_ggml_eot_token_id: TokenId | None = None
    tokenizer_ggml_eom_token_id: TokenId | None = None
    tokenizer_ggml_add_bos_token: Switch = None
    tokenizer_ggml_add_space_prefix: Switch = None
    tokenizer_ggml_remove_extra_whitespaces: Switch = None
    tokenizer_ggml_precompiled_charsmap: Annotated[list[int], Field(max_length=MOST_PIECES)] | None = None
    tokenizer_chat_template: Text | None = None
    vicuna_prompt_type: Name | None = None
    vicuna_step: Count | None = None
    vicuna_generation_config: Text | None = None
    vicuna_unknown_text: Name | None = None


def check_keys(keys: Mapping[str, Any], source: Path | str) -> None:
    """Check the keys of a file by their types.

    Args:
        source: begins the sentence of a refusal.

    Raises:
        UserError: which has what value in place of what.
    """
    begin = f"{keys.get('general.architecture')}."
    typed({name.removeprefix(begin).replace(".", "_"): one for name, one in keys.items()}, GGUFKeys, source)
    pieces, scores = keys.get("tokenizer.ggml.tokens"), keys.get("tokenizer.ggml.scores")
    if pieces and scores and len(scores) != len(pieces):
        raise UserError(
            f"{source} has {len(pieces):,} pieces with {len(scores):,} scores; expected one for each piece. Copy or "
            "export it again."
        )


def check_sizes(keys: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], source: Path) -> None:
    """Compare what the keys of a dense model declare with the shapes of its tensors.

    Raises:
        UserError: what differs.
    """
    begin = f"{keys['general.architecture']}."
    said = {name.removeprefix(begin): one for name, one in keys.items() if name.startswith(begin)}
    blocks = {int(found[1]) for name in shapes if (found := _BLOCK.match(name))}
    pairs = [("block_count", said["block_count"], len(blocks) if blocks == set(range(len(blocks))) else -1)]
    pairs += [
        (key, said[key], shapes[name][axis])
        for key, name, axis in (
            ("embedding_length", "token_embd.weight", 1),
            ("feed_forward_length", "blk.0.ffn_gate.weight", 0),
        )
        if key in said and len(shapes.get(name, ())) == 2
    ]
    heads = said.get("attention.head_count")
    if type(heads) is int and type(said.get("embedding_length")) is int:
        if heads == 0 or not (size := said.get("attention.key_length", said["embedding_length"] // heads)):
            raise UserError(f"{source} has {heads} heads of no size. Copy or export it again.")
        for key, name in (("head_count", "attn_q"), ("head_count_kv", "attn_k")):
            count, shape = said.get(f"attention.{key}", heads), shapes.get(f"blk.0.{name}.weight")
            pairs += [(f"attention.{key}", count * size, shape[0])] if type(count) is int and shape else []
    if tokens := keys.get("tokenizer.ggml.tokens"):
        rows = shapes.get("token_embd.weight", (len(tokens),))[0]
        pairs += [("tokenizer.ggml.tokens", len(tokens), rows)] if len(tokens) > rows else []
    for key, declared, found in pairs:
        if declared != found:
            raise UserError(
                f"{source} declares {declared:,} by {key}, and its tensors have {max(found, 0):,}: it is no whole "
                "model. Copy or export it again."
            )
