"""An adapter that was trained on an enlarged base, as one for the original: with both tables and the tokenizer inside.

That is the form Chinese-LLaMA-Alpaca published its adapters in: whoever has the original weights needs nothing else.
"""

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.constants import DUMMY_TARGET_MODULES

from vicuna.errors import UserError
from vicuna.export.merge import merge
from vicuna.export.updates import AdapterUpdate
from vicuna.files.tensors import LazyTensor, bit_equal
from vicuna.model.adapter import vocabulary_modules
from vicuna.model.adapter_files import read_adapter
from vicuna.model.adapter_kinds import Use
from vicuna.model.adapter_names import PEFT_PREFIX
from vicuna.model.base import Base
from vicuna.model.base_tensors import read_base_tensors
from vicuna.model.config import meta_model


def published(base: Base, original: Base, update: AdapterUpdate) -> tuple[dict[str, torch.Tensor], LoraConfig]:
    """Tensors and config of the adapter for the original base.

    Args:
        base: what the adapter was trained on.

    Raises:
        UserError: a base that is more than the original with more rows, or an adapter that can not be merged.
    """
    before = read_base_tensors(base.path, base.config)
    tables = [f"{name}.weight" for name in vocabulary_modules(meta_model(base.config))]
    check_enlarged(before, read_base_tensors(original.path, original.config), tables, base, original)
    if update.converted:
        tensors, config = update.converted
    else:
        tensors, config, _ = read_adapter(update.folder, Use.MERGE)
    modules = [name.removesuffix(".weight") for name in tables]
    found = {
        name: one for name, one in tensors.items() if not name.removeprefix(PEFT_PREFIX).startswith(tuple(modules))
    }
    names = sorted({name.split(".lora_")[0].rsplit(".", 1)[-1] for name in found if ".lora_" in name})
    config.target_modules = names or DUMMY_TARGET_MODULES
    config.modules_to_save = [module.rsplit(".", 1)[-1] for module in modules]
    config.trainable_token_indices, config.ensure_weight_tying = None, False
    config.base_model_name_or_path, config.inference_mode = original.path.name, True
    merged = merge(before, [update], None)
    return {**found, **{PEFT_PREFIX + name: merged[name][:].clone() for name in tables}}, config


def check_enlarged(
    base: Mapping[str, LazyTensor], original: Mapping[str, LazyTensor], tables: list[str], one: Base, other: Base
) -> None:
    """Refuse a base that is anything but the original with more rows in its tables.

    Raises:
        UserError: see above.
    """
    if odd := sorted(base.keys() ^ original.keys()):
        raise UserError(
            f"{one.path} and {other.path} are different models: only one has {odd[0]}. --original_path is the base "
            "that --model_path was enlarged from."
        )
    for name, tensor in base.items():
        if name in tables:
            fits = len(tensor.shape) == 2 and tensor.shape[0] >= original[name].shape[0]
        else:
            fits = tensor.dtype == original[name].dtype and bit_equal(tensor, original[name])
        if not fits:
            raise UserError(
                f"{name} of {one.path} is not that of {other.path}: the adapter would be merged with other weights "
                "than it was trained on. --original_path is the base that --model_path was enlarged from."
            )


def facts(base: Base, original: Base, said: dict[str, Any]) -> dict[str, Any]:
    """run_args.json of the published adapter: how it is asked, and what it is for."""
    kept = {name: said[name] for name in ("prompt_type", "step") if name in said}
    return {**kept, "published": {"for": original.path.name, "trained_on": base.path.name}}
