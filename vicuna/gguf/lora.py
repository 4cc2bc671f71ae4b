"""A LoRA adapter as a GGUF file of its own, which llama.cpp puts on the GGUF of its base.

Where the base is no LLaMA, llama.cpp's own converter names the tensors; it is given matrices for which alpha / rank is
all there is to multiply by, since rank-stabilised adapters and alphas of single modules mean nothing to it.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from safetensors.torch import save_file

from vicuna.errors import UserError
from vicuna.gguf.converter import convert_adapter
from vicuna.gguf.head_edit import with_keys
from vicuna.gguf.writer import PLAIN_DTYPES, PlannedTensor, permute_qk, vicuna_keys, write_tensors
from vicuna.gguf_file.reader import ARCHITECTURE, STEP, optional_package
from vicuna.log import log
from vicuna.model.adapter import lora_scalings, read_plain_adapter
from vicuna.model.adapter_files import drop_frozen_copies, lora_modules
from vicuna.model.adapter_kinds import Use
from vicuna.model.adapter_names import PEFT_PREFIX
from vicuna.model.base import Base
from vicuna.model.base_tensors import read_base_tensors
from vicuna.model.config import meta_model
from vicuna.model.found import ADAPTER_CONFIG, ADAPTER_FILES, run_args

GENERAL_NAME = "general.name"
Modules = dict[str, tuple[torch.Tensor, torch.Tensor]]  # A and B by the module that they are added to


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
    alpha, scalings = config.lora_alpha, _scalings(base, config)
    found = {}
    for module, (rank, _, _) in modules.items():
        # llama.cpp multiplies by alpha / rank; what PEFT multiplies by beyond that goes into B.
        beyond = scalings[module] / (alpha / rank)
        lora_a, lora_b = (matrices[f"{module}.lora_{side}.weight"] for side in "AB")
        found[module] = lora_a, lora_b.float() * beyond
    step = {STEP: int(args["step"])} if (args := run_args(folder)).get("step") else {}
    keys = {GENERAL_NAME: folder.resolve().name, **vicuna_keys(prompt_type), **step}
    if base.config.model_type == ARCHITECTURE:
        _write(base, folder, file, kind, alpha, found, keys)
    else:
        _convert(base, folder, file, kind, alpha, found, keys)


def _write(
    base: Base, folder: Path, file: Path, kind: str, alpha: float, modules: Modules, keys: dict[str, str | int]
) -> None:
    """The file of an adapter for a LLaMA."""
    gguf = optional_package("gguf")
    writer = gguf.GGUFWriter(file, ARCHITECTURE)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    for name, value in keys.items():
        (writer.add_string if isinstance(value, str) else writer.add_uint32)(name, value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, base.config.num_hidden_layers)
    todo, values = [], []
    for module, (lora_a, lora_b) in modules.items():
        for side, tensor in (("a", lora_a), ("b", permute_qk(lora_b, module, base.config))):
            name = f"{names.get_name(f'{module}.weight', try_suffixes=('.weight',))}.lora_{side}"
            todo.append(PlannedTensor(module, name, tuple(tensor.shape), PLAIN_DTYPES[kind]))
            values.append(tensor.to(PLAIN_DTYPES[kind]))
    write_tensors(writer, todo, iter(values), folder)


def _convert(
    base: Base, folder: Path, file: Path, kind: str, alpha: float, modules: Modules, keys: dict[str, str | int]
) -> None:
    """The file of any other adapter, by llama.cpp's converter: it takes alpha / rank for what PEFT multiplies by."""
    tensors = {
        f"{PEFT_PREFIX}{module}.lora_{side}.weight": tensor.contiguous()
        for module, matrices in modules.items()
        for side, tensor in zip("AB", matrices, strict=True)
    }
    with tempfile.TemporaryDirectory(prefix=".converting-", dir=file.parent) as name:
        plain, made = Path(name) / "adapter", Path(name) / "converted.gguf"
        plain.mkdir()
        save_file(tensors, plain / ADAPTER_FILES[0], {"format": "pt"})
        (plain / ADAPTER_CONFIG).write_text(json.dumps({"peft_type": "LORA", "lora_alpha": alpha}), encoding="utf-8")
        convert_adapter(base, plain, made, kind)
        with_keys(made, file, keys)


def _weight(base: Base, module: str) -> torch.Tensor:
    rows = read_base_tensors(base.path, base.config)[f"{module}.weight"]
    return rows[0 : rows.shape[0]]


def _scalings(base: Base, config: Any) -> dict[str, float]:
    """Module -> what PEFT multiplies its update by."""
    config.base_model_name_or_path = str(base.path)  # else PEFT warns of a base that was moved
    with torch.device("meta"):
        return lora_scalings(get_peft_model(meta_model(base.config), config))
