"""Which adapters vLLM serves, at which rank: asked before it is started, since it reads the base first.

Follows what vLLM 0.33.0 itself checks when it loads an adapter (its vllm/lora/peft_helper.py and lora_model.py), and
names beside it what vLLM passes over without a word.
"""

from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vicuna.errors import UserError
from vicuna.files.tensors import read_tensor_file
from vicuna.foreign.typed import read_typed
from vicuna.model.adapter_config import AdapterConfig
from vicuna.model.adapter_files import check_compatible, drop_frozen_copies, read_adapter_config, read_adapter_tensors
from vicuna.model.adapter_kinds import Use
from vicuna.model.adapter_names import PEFT_PREFIX
from vicuna.model.base import Base
from vicuna.model.base_tensors import read_base_tensors
from vicuna.model.found import ADAPTER_CONFIG, adapter_file

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # what vLLM reads of an adapter
MOST_TOKENS = 258_048  # of a vocabulary, once adapters are served
# Fields of adapter_config.json that vLLM refuses, and those that change what an adapter does and that it does not read.
_REFUSED = (
    *("modules_to_save", "use_dora", "lora_bias", "alora_invocation_tokens", "layer_replication", "use_bdlora"),
    *("use_qalora",),
)
_UNREAD = ("trainable_token_indices", "target_parameters", "arrow_config", "kasa_config")
# Words of init_lora_weights after which the base's weights are what they were.
_PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica")
_READ = (".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B")
_EMBEDDING = ".lora_embedding_"


def served_rank(base: Base, model: nn.Module, folder: Path) -> int:
    """The rank that vLLM needs for an adapter.

    Args:
        model: the base without weights.

    Raises:
        UserError: vLLM does not serve it, or it does not fit the base.
    """
    weights = adapter_file(folder)
    if weights.name not in WEIGHTS or not (folder / ADAPTER_CONFIG).is_file():
        raise UserError(
            f"{folder} is of an age that vLLM does not read: it wants {ADAPTER_CONFIG} beside one of "
            f"{', '.join(WEIGHTS)}. Merge the adapter into the base."
        )
    if base.config.vocab_size > MOST_TOKENS:
        raise UserError(
            f"{base.path.name} has a vocabulary of {base.config.vocab_size}, and vLLM serves adapters up to "
            f"{MOST_TOKENS}: merge the adapter into the base."
        )
    tensors = read_adapter_tensors(weights)
    said = read_typed(folder / ADAPTER_CONFIG, AdapterConfig)
    if odd := _not_served(said.model_dump(), tensors, base):
        raise UserError(f"{folder} uses {odd}, which vLLM does not serve: merge the adapter into the base.")
    config, _ = read_adapter_config(folder, tensors, Use.VLLM)
    if wrapped := sorted(read_tensor_file(weights).keys() - tensors.keys()):
        raise UserError(
            f"{weights} has names of a wrapped model, such as {wrapped[0]}, which vLLM does not read: merge the "
            "adapter into the base."
        )
    check_compatible({name: one for name, one in tensors.items() if _EMBEDDING not in name}, model, base.path.name)
    _check_embeddings(tensors, model, base.path.name)

    @cache
    def read() -> dict[str, Any]:
        return read_base_tensors(base.path, base.config)

    def weight_of(module: str) -> torch.Tensor:
        rows = read()[f"{module}.weight"]
        return rows[0 : rows.shape[0]]

    drop_frozen_copies(tensors, weight_of, folder, base.path.name)  # vLLM takes the base's own
    return max([config.r, *config.rank_pattern.values()])


def _not_served(config: dict[str, Any], names: Collection[str], base: Base) -> str:
    """What of an adapter vLLM refuses or would leave out; "" where nothing is."""
    init = config.get("init_lora_weights")
    found = [name for name in (*_REFUSED, *_UNREAD) if config.get(name)]
    if isinstance(init, str) and init.lower() not in _PLAIN_INITS:
        found.append(f"init_lora_weights {init} (which changes the base's weights too)")
    if (bias := config.get("bias", "none")) != "none":
        found.append(f"bias {bias}")
    vocabulary = [name for name in names if "embed_tokens" in name or "lm_head" in name]
    if config.get("ensure_weight_tying") and base.config.tie_word_embeddings and vocabulary:
        found.append("ensure_weight_tying")
    left_out = sorted(name for name in names if not name.endswith((*_READ, ".base_layer.weight")))
    return next(iter([*found, *left_out]), "")


def _check_embeddings(tensors: dict[str, torch.Tensor], model: nn.Module, base_name: str) -> None:
    """Refuse LoRA on embeddings of another size."""
    for name, tensor in tensors.items():
        module, found, side = name.removeprefix(PEFT_PREFIX).partition(_EMBEDDING)
        if not found:
            continue
        size = tuple(model.get_submodule(module).weight.shape)  # (V, D)
        own = tensor.shape[1] if side == "A" else tensor.shape[0]
        if own != size["AB".index(side)]:
            raise UserError(
                f"the adapter was trained on a base whose {module} has {own} {'rows' if side == 'A' else 'columns'}, "
                f"but in {base_name} it is {size}: use the base it was trained on."
            )
