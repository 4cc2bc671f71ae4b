"""Adapters on disk: finding, reading and checking them.

Adapters of every age are read the same way, without executing a pickle and without renaming or copying a file
of the user.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from peft import LoraConfig
from torch import nn

from vicuna.errors import UserError
from vicuna.files.tensors import dtype_name, read_tensor_file
from vicuna.foreign.typed import is_absent
from vicuna.model.adapter_config import LONGEST_NAME, config_for_peft, inferred_config, read_typed_config
from vicuna.model.adapter_kinds import Use
from vicuna.model.adapter_names import PEFT_PREFIX, ROWS, own_names, row_indices
from vicuna.model.base import Base, fingerprint
from vicuna.model.found import ADAPTER_CONFIG, adapter_file, model_run_args, run_args
from vicuna.model.gptq import keep_peft_silent
from vicuna.prompt.rendering import BASE, Settings
from vicuna.prompt.tokenizer import TextTokenizer

FROZEN = ".base_layer.weight"  # ends the name of a base's own weight, which PEFT saves beside a low-rank head
_ROUNDED = {"rtol": 2**-7, "atol": 2**-24}  # what 16 bits leave of a weight
_OTHER_ADAPTER = "Take another copy of the adapter."
_ONLY_FOR_TRAINING = (".lora_velora_embed", ".lora_monteclora_sampler.")


def adapter_sha256(adapter: Path) -> list[str]:
    """SHA-256 of each file that an adapter consists of: a GGUF alone, or weights and config of a folder."""
    if adapter.is_file():
        files = [adapter]
    else:
        config = adapter / ADAPTER_CONFIG
        files = [adapter_file(adapter), *([config] if config.is_file() else [])]
    found = []
    for file in files:
        with file.open("rb") as opened:
            found.append(hashlib.file_digest(opened, "sha256").hexdigest())
    return found


def model_sha256(base: Path, adapters: Sequence[Path]) -> str:
    """SHA-256 that tells a base with adapters from another one; of the base as `fingerprint` reads it."""
    parts = [fingerprint(base), *(one for adapter in adapters for one in adapter_sha256(adapter))]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def template_settings(folder: Path) -> Settings:
    """What the base's own chat template was rendered with when an adapter, or a model, was trained."""
    said = run_args(folder).get("template") or {}
    return Settings(**{name: one for name, one in said.items() if one is not None})


def as_trained(tokenizer: TextTokenizer, folder: Path) -> TextTokenizer:
    """A base's tokenizer with its own chat template as an adapter, or a model, in `folder` was trained with it."""
    return tokenizer.with_settings(**{name: one for name, one in vars(template_settings(folder)).items() if one})


def model_prompt_type(base: Base) -> str:
    """The prompt type of a model's records where nothing else says: the one it was trained with, else its own chat
    template, else instruct.
    """
    return model_run_args(base.path).get("prompt_type") or (BASE if base.tokenizer.chat else "instruct")


def read_adapter(folder: Path, *uses: Use) -> tuple[dict[str, torch.Tensor], LoraConfig, str]:
    """Tensors and config of the adapter in `folder`, and a warning, "" if none.

    What only its training needed is left out of both: one that was begun or trained in another way than the default is
    plain LoRA once it is trained.

    Args:
        uses: what is going to be done with it.

    Raises:
        UserError: see `adapter_file`, `read_adapter_tensors`, `read_adapter_config` and `check_uses`.
    """
    tensors = read_adapter_tensors(adapter_file(folder))
    config, warning = read_adapter_config(folder, tensors, *uses)
    keep_peft_silent()
    kept = {name: one for name, one in tensors.items() if not any(part in name for part in _ONLY_FOR_TRAINING)}
    return kept, config, warning


def read_adapter_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of an adapter's weight file by PEFT's names, whatever wrapped the model that it was saved from.

    No pickle is executed.

    Raises:
        UserError: not a weight file, or one without an adapter's tensors.
    """
    found = read_tensor_file(file)
    for name, tensor in found.items():
        _check_tensor(name, tensor, file)
    tensors = own_names(found, file)
    if not any("lora_" in name or name.startswith(PEFT_PREFIX) for name in tensors):
        raise UserError(f"{file} holds no LoRA tensors; expected names such as …q_proj.lora_A.weight.")
    return tensors


def _check_tensor(name: str, tensor: torch.Tensor, file: Path) -> None:
    """Refuse a tensor that is not made of finite floats which are all in the file."""
    if len(name) > LONGEST_NAME:
        raise UserError(f"{file} holds a tensor with a name of {len(name):,} signs. {_OTHER_ADAPTER}")
    if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.device.type != "cpu":
        kind = dtype_name(tensor.dtype) if tensor.layout == torch.strided else str(tensor.layout)
        raise UserError(
            f"{file} holds {name} as {kind}; an adapter is made of floating-point numbers. {_OTHER_ADAPTER}"
        )
    # A view of one number may pass for a matrix of any size.
    if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        raise UserError(f"{file} holds {name} of {tuple(tensor.shape)}, and fewer numbers than that. {_OTHER_ADAPTER}")
    if not torch.isfinite(tensor if tensor.itemsize > 1 else tensor.float()).all():
        raise UserError(f"{file} holds {name} with values that are not finite: its training diverged. {_OTHER_ADAPTER}")


def read_adapter_config(folder: Path, tensors: dict[str, torch.Tensor], *uses: Use) -> tuple[LoraConfig, str]:
    """The adapter's config, and a warning ("" if none) where it had to be inferred.

    Without an adapter_config.json, rank and modules are read from the tensors, alpha from config-sample/.

    Args:
        uses: what is going to be done with the adapter.

    Raises:
        UserError: a config that can not be read, is not LoRA's, or does not describe the tensors; see `check_uses`.
    """
    file = folder / ADAPTER_CONFIG
    said = None if is_absent(file) else read_typed_config(file, tensors, uses)
    ranks = module_ranks(tensors)
    names = sorted({module.rsplit(".", 1)[-1] for module in ranks})
    if said is None:
        return inferred_config(folder, sorted(set(ranks.values())), names)
    config = config_for_peft(said, ranks, file)
    targets = config.target_modules
    if config.ensure_weight_tying:  # PEFT names the embeddings, and changes the head with them
        names = [name for name in names if name != "lm_head"]
    if not isinstance(targets, str) and not set(names) <= {target.rsplit(".", 1)[-1] for target in targets}:
        raise UserError(
            f"{file} names the modules {', '.join(sorted(targets))}, but the tensors beside it are for "
            f"{', '.join(names)}: part of the adapter would be ignored. Put the config it was trained with beside it."
        )
    _check_rows(config, tensors, file)
    return config, ""


def _check_rows(config: LoraConfig, tensors: dict[str, torch.Tensor], file: Path) -> None:
    """Refuse rows of embeddings that are others than the tensors have."""
    for module, rows in row_indices(config).items():
        for name, tensor in tensors.items():
            if name.endswith(f"{module}.{ROWS}") and len(set(rows)) != tensor.shape[0]:
                raise UserError(
                    f"{file}: trainable_token_indices names {len(set(rows))} rows of {module}, the tensors beside it "
                    f"have {tensor.shape[0]}: it belongs to another adapter."
                )


def module_ranks(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    """Module name in the base -> rank, of all that have matrices, embeddings too."""
    found = {name: rank for name, (rank, _, _) in lora_modules(tensors).items()}
    for name, tensor in tensors.items():
        if name.endswith(".lora_embedding_A"):
            found[name.removesuffix(".lora_embedding_A").removeprefix(PEFT_PREFIX)] = tensor.shape[0]
    return found


def lora_modules(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, int, int]]:
    """Module name in the base -> (rank, in features, out features), read from the tensors' shapes."""
    found = {}
    for name, lora_a in tensors.items():
        if name.endswith(".lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            lora_b = tensors.get(f"{module}.lora_B.weight")
            if lora_b is None:
                raise UserError(f"the adapter has {name} but no lora_B beside it; the file is incomplete.")
            if lora_a.dim() != 2 or lora_b.dim() != 2 or not lora_a.shape[0] == lora_b.shape[1] > 0:
                raise UserError(
                    f"the adapter has {name} of {tuple(lora_a.shape)} and lora_B of {tuple(lora_b.shape)}, which are "
                    f"no matrices of one rank. {_OTHER_ADAPTER}"
                )
            found[module.removeprefix(PEFT_PREFIX)] = (lora_a.shape[0], lora_a.shape[1], lora_b.shape[0])
    return found


def saved_modules(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Module name in the base -> shape of its weight, for modules that the adapter replaces as a whole."""
    return {
        name.removesuffix(".weight").removesuffix(".base_layer").removeprefix(PEFT_PREFIX): tuple(tensor.shape)
        for name, tensor in tensors.items()
        if "lora_" not in name and name.endswith(".weight")
    }


def train_kind(tensors: dict[str, torch.Tensor]) -> str:
    """Which --train wrote an adapter."""
    found = {part_of(name) for name in tensors if not name.endswith(FROZEN)}
    found |= {"embeddings"} if "head" in found else set()
    return "+".join(part for part in ("lora", "embeddings", "head", "new_rows") if part in found)


def part_of(name: str) -> str:
    """Which part of an adapter a tensor belongs to, as --train names them; what else is whole counts as the head."""
    if name.endswith(ROWS):
        return "new_rows"
    if "lora_" in name or not name.endswith(".weight"):
        return "lora"
    return "embeddings" if name.endswith("embed_tokens.weight") else "head"


def drop_frozen_copies(
    tensors: dict[str, torch.Tensor], weight_of: Callable[[str], torch.Tensor], folder: Path, base_name: str
) -> dict[str, torch.Tensor]:
    """An adapter without the copy of the base's own weight that PEFT saves below a low-rank head or embeddings.

    Args:
        weight_of: the base's weight of a module.

    Raises:
        UserError: it is not the base's.
    """
    for name in [name for name in tensors if name.endswith(FROZEN)]:
        module = name.removesuffix(FROZEN).removeprefix(PEFT_PREFIX)
        own, copy = weight_of(module), tensors[name]
        # Of a base that ZeRO-3 keeps in parts there is nothing to compare with.
        if own.shape == copy.shape and not same_but_rounded(own, copy):
            raise UserError(
                f"the adapter in {folder} changes a {module} that is not that of {base_name}: use the base it was "
                "trained on; or merge the adapter, which takes the weight along: python tools/merge_lora.py"
            )
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(FROZEN)}


def own_module(module: nn.Module | None) -> nn.Module | None:
    """The base's own module, also where adapters lie on it."""
    while (below := getattr(module, "base_layer", getattr(module, "original_module", None))) is not None:
        module = below
    return module


def same_but_rounded(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two weights are the same but for what is lost at 16 bits."""
    return torch.allclose(one.float(), other.float(), **_ROUNDED)


def check_compatible(tensors: dict[str, torch.Tensor], base: nn.Module, base_name: str) -> None:
    """Refuse an adapter that was trained on a base of another architecture, size or vocabulary.

    Args:
        base: the base, or its skeleton without weights.
    """
    modules = dict(base.named_modules())
    for name, (_, inside, outside) in lora_modules(tensors).items():
        layer = own_module(modules.get(name))
        if layer is None:
            raise UserError(
                f"the adapter changes {name}, which {base_name} does not have: it was trained on another kind of base."
            )
        shape = (layer.in_features, layer.out_features)
        if shape != (inside, outside):
            raise UserError(
                f"the adapter was trained on a base whose {name} is {inside} -> {outside}, but in {base_name} it is "
                f"{shape[0]} -> {shape[1]}: use the base it was trained on."
            )
    for name, shape in saved_modules(tensors).items():
        layer = own_module(modules.get(name))
        found = tuple(layer.weight.shape) if hasattr(layer, "weight") else None
        if found != shape:
            raise UserError(
                f"the adapter holds a {name} of {shape}, but in {base_name} it is {found}: use the base it was trained "
                "on."
            )


def check_whole_parts(tensors: dict[str, torch.Tensor], config: LoraConfig, base: nn.Module, folder: Path) -> None:
    """Refuse a config that has PEFT copy modules, or put rows into tables, which the tensors do not have.

    Args:
        base: the base, or its skeleton without weights.
    """
    modules = dict(base.named_modules())
    held = {name.rpartition(".")[0].removesuffix(".base_layer").removeprefix(PEFT_PREFIX) for name in tensors}
    for end in config.modules_to_save or ():
        # PEFT copies whatever ends so, whole blocks too. Where weights are tied, the head may lie in the file or not.
        copied = [name for name in modules if name.endswith(end) and ".lora_" not in name]
        if lacking := [name for name in copied if name not in held and not name.endswith("lm_head")]:
            raise UserError(
                f"{folder / ADAPTER_CONFIG} has {end} in modules_to_save, and the tensors beside it have nothing of "
                f"{lacking[0] or 'the model itself'}: it belongs to another adapter."
            )
    for end, rows in row_indices(config).items():
        for name in (name for name in modules if name.endswith(end)):
            weight = getattr(own_module(modules[name]), "weight", None)
            if weight is not None and rows and max(rows) >= weight.shape[0]:
                raise UserError(
                    f"{folder / ADAPTER_CONFIG} has row {max(rows)} of {name} in trainable_token_indices, and the base "
                    f"has {weight.shape[0]} rows: use the base it was trained on."
                )
