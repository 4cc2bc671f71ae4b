"""Adapters on a model: planning, attaching, gathering and saving them.

What is saved is PEFT's own format; it is written aside, opened again and checked, then moved into place.
"""

import copy
import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils.constants import DUMMY_TARGET_MODULES
from safetensors.torch import load_file
from torch import nn
from torch.distributed.tensor import DTensor

from vicuna.errors import UserError
from vicuna.files.aside import aside_folder
from vicuna.files.json_files import read_json
from vicuna.files.outputs import put_all
from vicuna.foreign.libraries import refusals
from vicuna.gguf_file.link import stands_for
from vicuna.log import log
from vicuna.model.adapter_conversion import as_plain_lora, with_added_biases
from vicuna.model.adapter_files import (
    check_compatible,
    check_whole_parts,
    drop_frozen_copies,
    lora_modules,
    own_module,
    part_of,
    read_adapter,
    train_kind,
)
from vicuna.model.adapter_kinds import Use, uses_at
from vicuna.model.adapter_names import PEFT_PREFIX
from vicuna.model.adapters_together import as_told_by_names, with_whole_modules
from vicuna.model.base import Base, device
from vicuna.model.base_tensors import weight_reader
from vicuna.model.config import meta_model
from vicuna.model.flags import ALL_LINEAR, LoraFlags
from vicuna.model.found import ADAPTER_CONFIG, ADAPTER_FILES
from vicuna.model.new_rows import read_new_rows
from vicuna.model.targets import all_linear, untrained


def plan_adapter(
    base: Base, flags: LoraFlags, folder: Path | None, bits: int = 32
) -> tuple[LoraConfig, LoraFlags, str]:
    """The config a run will train, the flags that say the same, and a warning, "" if none.

    Args:
        bits: of the base that it is trained on.
        folder: where an adapter to start from lies; its rank, alpha and modules then replace the flags'. What it does
            not hold of that which the flags train begins anew.

    Raises:
        UserError: an adapter that can not be read, or of something else than the flags train.
    """
    if folder is None:
        return _new_config(base, flags), flags, ""
    uses, bare = [Use.TRAIN, *uses_at(base.config, bits, device().type)], meta_model(base.config)
    # Converted here already, if it is: what can not be is refused before the base is loaded.
    tensors, config, warning = read_plain_adapter(folder, bare, base.path, str(base.path), *uses)
    kind = train_kind(tensors)
    # Where the head is tied, both spellings train one tensor.
    one = {"head"} if base.config.tie_word_embeddings else set()
    if lacks := set(flags.trains) - set(kind.split("+")) - one:
        config = _with_more(config, _new_config(base, flags), tensors, folder)
        warning = "; ".join(
            filter(None, [warning, f"the adapter in {folder} holds {kind}: {' and '.join(sorted(lacks))} begin anew"])
        )
    if set(kind.split("+")) - set(flags.trains) - one:
        raise UserError(
            f"the adapter in {folder} was made by --train {kind}, this run has --train {flags.train}: "
            f"pass --train {kind}."
        )
    if "lora" not in kind:
        return config, flags, warning
    names = sorted({module.rsplit(".", 1)[-1] for module in lora_modules(tensors)})
    config.lora_dropout = flags.lora_dropout
    same = replace(flags, lora_r=config.r, lora_alpha=config.lora_alpha, lora_target_modules=names)
    return config, same, warning


def _with_more(config: LoraConfig, new: LoraConfig, tensors: dict[str, torch.Tensor], folder: Path) -> LoraConfig:
    """The config of a run that trains more than the adapter it starts from holds.

    Args:
        config: of that adapter, which has these tensors; new: of the run, were it begun without one.

    Raises:
        UserError: the run would train a table both by matrices and as a whole.
    """
    if not lora_modules(tensors):
        return new
    whole = [*(new.modules_to_save or ()), *(new.trainable_token_indices or ())]
    if twice := [table for table in whole if any(f".{table}.lora_" in name for name in tensors)]:
        raise UserError(
            f"the adapter in {folder} has matrices on {' and '.join(twice)}, which this run trains as a whole: "
            "merge it first (tools/merge_lora.py), or pass --train lora."
        )
    for name in ("modules_to_save", "ensure_weight_tying", "trainable_token_indices"):
        setattr(config, name, getattr(new, name))
    return config


def _new_config(base: Base, flags: LoraFlags) -> LoraConfig:
    names = vocabulary_modules(meta_model(base.config))
    # The head of a base that ties it is left to PEFT, which finds it by itself.
    names = names[:1] if base.config.tie_word_embeddings else names
    tables = [name.rsplit(".", 1)[-1] for name in names]
    whole_modules = [name for name, part in zip(tables, ("embeddings", "head"), strict=False) if part in flags.trains]
    new_rows = read_new_rows(base.path, base.config.vocab_size) if "new_rows" in flags.trains else []
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=flags.lora_r,
        lora_alpha=flags.lora_alpha,
        lora_dropout=flags.lora_dropout,
        target_modules=flags.lora_target_modules if "lora" in flags.trains else DUMMY_TARGET_MODULES,
        modules_to_save=whole_modules or None,
        ensure_weight_tying=bool(whole_modules) and base.config.tie_word_embeddings,
        trainable_token_indices=dict.fromkeys(tables, new_rows) if new_rows else None,
    )


def with_named_modules(flags: LoraFlags, config: Any) -> LoraFlags:
    """The flags with the names that all-linear stands for on a base; what it leaves out is said.

    Raises:
        UserError: the base has no linear layers.
    """
    if flags.lora_target_modules != [ALL_LINEAR]:
        return flags
    if notice := untrained(config):
        log.info("--lora_target_modules %s: %s", ALL_LINEAR, notice)
    return replace(flags, lora_target_modules=all_linear(config))


def vocabulary_modules(model: nn.Module) -> list[str]:
    """Names of the modules with a row for each token: the input embeddings and the head."""
    names = {module: name for name, module in model.named_modules()}
    return [names[model.get_input_embeddings()], names[model.get_output_embeddings()]]


def lora_scalings(model: PeftModel) -> dict[str, float]:
    """Module name in the base -> what its update is multiplied by, as PEFT works it out from patterns and rslora."""
    return {
        name.removeprefix(PEFT_PREFIX): module.scaling["default"]
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }


def new_adapter(base: nn.Module, config: LoraConfig) -> PeftModel:
    """A new adapter on top of `base`. What it trains is float32, copied embeddings too, however the base is kept."""
    model = get_peft_model(base, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    _sort_modules(model)
    return model


def _sort_modules(model: PeftModel) -> None:
    """Have the names of modules written in order: a set's own differs from process to process."""
    for config in model.peft_config.values():
        for name in ("target_modules", "exclude_modules"):
            if isinstance(names := getattr(config, name), set):
                setattr(config, name, sorted(names))


def read_plain_adapter(
    folder: Path, base: nn.Module, base_path: str | Path, base_name: str, *uses: Use
) -> tuple[dict[str, torch.Tensor], LoraConfig, str]:
    """Tensors and config of the adapter in `folder`, and a warning, "" if none.

    One that would change the base's own weights is converted to plain LoRA, from the base's files.

    Args:
        base: the base, or its skeleton without weights.
        uses: what is going to be done with the adapter.

    Raises:
        UserError: an adapter that can not be read, does not fit, or can not be used so.
    """
    tensors, config, warning = read_adapter(folder, *uses)
    check_compatible(tensors, base, base_name)
    check_whole_parts(tensors, config, base, folder)
    tensors, config, notice = as_plain_lora(tensors, config, weight_reader(base_path), folder)
    return tensors, config, warning or notice  # one whose config is inferred is plain


def load_adapter(
    base: nn.Module,
    folder: Path,
    base_name: str,
    trainable: bool = False,
    dropout: float | None = None,
    name: str = "default",
    whole: Collection[str] = (),
    read: tuple[dict[str, torch.Tensor], LoraConfig, str] | None = None,
    within: LoraConfig | None = None,
) -> tuple[PeftModel, str]:
    """The adapter in `folder` on top of `base`, every tensor of it used; and a warning, "" if none.

    Args:
        base: the bare model, or one with other adapters on top.
        dropout: in place of the one it was trained with.
        name: what PEFT knows it by, without a full stop.
        whole: modules that it replaces as a whole, if it changes them.
        read: what `read_plain_adapter` gave for it.
        within: of an adapter to train that it is a part of; the rest of that begins anew.

    Raises:
        UserError: an adapter that can not be read or does not fit.
    """
    bare = base.get_base_model() if isinstance(base, PeftModel) else base
    tensors, config, warning = read or read_plain_adapter(folder, bare, bare.name_or_path, base_name)
    if not trainable:
        tensors, config = with_added_biases(tensors, config, bare, folder)
        config = as_told_by_names(tensors, config)
    tensors = drop_frozen_copies(tensors, lambda module: _weight(bare.get_submodule(module)), folder, base_name)
    tensors, config = with_whole_modules(tensors, config, whole, bare)
    config = copy.deepcopy(within or config)
    config.inference_mode = not trainable
    config.lora_dropout = config.lora_dropout if dropout is None else dropout
    # PEFT looks there for the base's config, which a GGUF file itself does not have.
    config.base_model_name_or_path = bare.name_or_path if stands_for(Path(bare.name_or_path)) else base_name
    with refusals(f"PEFT can not put the adapter in {folder} on {base_name} ({{}}).".format):
        if isinstance(base, PeftModel):
            base.add_adapter(name, config)
            model = base
        else:
            model = new_adapter(base, config) if trainable else get_peft_model(base, config, adapter_name=name)
    own, kind = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False), train_kind(tensors)
    anew = {tensor: value for tensor, value in own.items() if within and part_of(tensor) not in kind.split("+")}
    if odd := sorted(own.keys() ^ (anew | tensors).keys()):
        raise UserError(
            f"{folder} and its config do not describe the same adapter: {len(odd)} tensors differ, such as {odd[0]}."
        )
    for tensor, value in tensors.items():
        if value.shape != own[tensor].shape:
            raise UserError(
                f"{folder} holds {tensor} of {tuple(value.shape)}, and on {base_name} it is "
                f"{tuple(own[tensor].shape)}: it belongs to another base, or to another config."
            )
    set_peft_model_state_dict(model, anew | tensors, adapter_name=name)
    return model, warning


def _weight(module: nn.Module) -> torch.Tensor:
    """A module's weight on the CPU, that of the base where an adapter lies on it."""
    return own_module(module).weight.detach().cpu()


def gather_tensors(model: nn.Module, keep: bool = True) -> dict[str, torch.Tensor]:
    """What was trained, by name, on the CPU; also where ZeRO-3 or FSDP2 keeps it in parts: one tensor at a time.

    Every rank must call it together. A whole model's frozen buffers are among it.

    Args:
        keep: False for a rank that only takes part, and gets {}.
    """
    if isinstance(model, PeftModel):  # the state dict of a quantised base is never asked for
        tensors = model.named_parameters(remove_duplicate=False)
    else:
        tensors = model.state_dict(keep_vars=True).items()
    found = {}
    for name, tensor in tensors:
        if tensor.requires_grad or not isinstance(model, PeftModel):
            gathered = _gathered(tensor)
            if keep:
                found[name] = gathered.detach().cpu()
    return found


def _gathered(tensor: torch.Tensor) -> torch.Tensor:
    if isinstance(tensor, DTensor):
        return tensor.full_tensor()
    if not hasattr(tensor, "ds_id"):
        return tensor
    import deepspeed

    with deepspeed.zero.GatheredParameters([tensor]):
        return tensor.detach().cpu().clone()


def save_adapter(model: PeftModel, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write the adapter to `folder`: aside first, opened again and checked, then moved into place.

    Args:
        weights: from `gather_tensors`, where several processes hold them.

    Raises:
        RuntimeError: what was written is not what was trained; the folder is as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = gather_tensors(model) if weights is None else weights
    # Of a low-rank head only the matrices: what lies below is the base's own.
    expected = get_peft_model_state_dict(model, state_dict=weights, save_embedding_layers=False)
    with aside_folder(folder) as aside:
        model.save_pretrained(aside, state_dict=weights, save_embedding_layers=False)
        name_base_file(aside)
        _verify(load_file(aside / ADAPTER_FILES[0]), expected)
        put_all([aside / ADAPTER_FILES[0], aside / ADAPTER_CONFIG], folder)


def name_base_file(folder: Path) -> None:
    """Have the config of an adapter on a GGUF name the file, not the folder that stands for it."""
    config = folder / ADAPTER_CONFIG
    said = read_json(config)
    if file := stands_for(Path(said.get("base_model_name_or_path") or "")):
        config.write_text(json.dumps(said | {"base_model_name_or_path": str(file)}, indent=2), encoding="utf-8")


def _verify(written: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    if not written or set(written) != set(expected):
        raise RuntimeError(f"the adapter file has {len(written)} tensors, the adapter {len(expected)}")
    for name, tensor in expected.items():
        if written[name].shape != tensor.shape:
            raise RuntimeError(f"{name} was written as {tuple(written[name].shape)}, it is {tuple(tensor.shape)}")
        if not torch.isfinite(written[name]).all():
            raise RuntimeError(f"{name} has values that are not finite: the run has diverged")
