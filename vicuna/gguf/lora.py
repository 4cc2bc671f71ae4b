"""A LoRA adapter as a GGUF file of its own, which llama.cpp puts on the GGUF of its base."""

from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model

from vicuna.errors import UserError
from vicuna.gguf.writer import PLAIN_DTYPES, PlannedTensor, add_vicuna_keys, permute_qk, write_tensors
from vicuna.gguf_file.reader import ARCHITECTURE, STEP, optional_package
from vicuna.log import log
from vicuna.model.adapter import lora_scalings, read_plain_adapter
from vicuna.model.adapter_files import drop_frozen_copies, lora_modules, run_args
from vicuna.model.adapter_kinds import Use
from vicuna.model.adapter_names import PEFT_PREFIX
from vicuna.model.base import Base
from vicuna.model.base_tensors import read_base_tensors
from vicuna.model.config import meta_model


def write_gguf_adapter(base: Base, folder: Path, file: Path, kind: str, prompt_type: str) -> None:
    """Write a LoRA adapter by itself, for a GGUF of its base.

    Raises:
        UserError: an adapter that does not fit, or has what llama.cpp's adapters have no place for.
    """
    skeleton = meta_model(base.config)
    tensors, config, notice = read_plain_adapter(folder, skeleton, base.path, str(base.path), Use.GGUF)
    if notice:
        log.info("%s.", notice)
    tensors = drop_frozen_copies(tensors, lambda module: _weight(base, module), folder, str(base.path))
    modules = lora_modules(tensors)
    matrices = {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in tensors.items()}
    odd = sorted(name for name in tensors if not name.endswith((".lora_A.weight", ".lora_B.weight")))
    if tied := [module for module in modules if "lm_head" in module and base.config.tie_word_embeddings]:
        odd.append(tied[0])
    if odd:
        raise UserError(
            f"{folder} has {odd[0]}, for which llama.cpp's adapters have no place: merge "
            "it into its base, and export the whole model."
        )
    gguf = optional_package("gguf")
    writer = gguf.GGUFWriter(file, ARCHITECTURE)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, config.lora_alpha)
    writer.add_name(folder.resolve().name)
    args = run_args(folder)
    add_vicuna_keys(writer, prompt_type)
    if args.get("step"):
        writer.add_uint32(STEP, args["step"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, base.config.num_hidden_layers)
    scalings = _scalings(base, config)
    todo, values = [], []
    for module, (rank, _, _) in modules.items():
        # llama.cpp multiplies by alpha / rank; what PEFT multiplies by beyond that goes into lora_b.
        beyond = scalings[module] / (config.lora_alpha / rank)
        lora_a, lora_b = (matrices[f"{module}.lora_{side}.weight"] for side in "AB")
        lora_b = permute_qk(lora_b.float(), module, base.config) * beyond
        for side, tensor in (("a", lora_a), ("b", lora_b)):
            name = f"{names.get_name(f'{module}.weight', try_suffixes=('.weight',))}.lora_{side}"
            todo.append(PlannedTensor(module, name, tuple(tensor.shape), PLAIN_DTYPES[kind]))
            values.append(tensor.to(PLAIN_DTYPES[kind]))
    write_tensors(writer, todo, iter(values), folder)


def _weight(base: Base, module: str) -> torch.Tensor:
    rows = read_base_tensors(base.path, base.config)[f"{module}.weight"]
    return rows[0 : rows.shape[0]]


def _scalings(base: Base, config: Any) -> dict[str, float]:
    """Module -> what PEFT multiplies its update by."""
    config.base_model_name_or_path = str(base.path)  # else PEFT warns of a base that was moved
    with torch.device("meta"):
        return lora_scalings(get_peft_model(meta_model(base.config), config))
