"""Adapters on disk: finding, reading, checking, attaching and saving them.

Adapters of every age are read the same way, without executing a pickle and without renaming or copying a file
of the user. What is saved is PEFT's own format; it is written aside, opened again and checked, then moved into place.
"""

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils.constants import DUMMY_TARGET_MODULES
from safetensors.torch import load_file
from torch import nn
from torch.distributed.tensor import DTensor

from vicuna.errors import UserError
from vicuna.files.tensors import read_file
from vicuna.model.base import Base, local_folder, meta_model
from vicuna.model.flags import LoraFlags

# Today's name first, then the two that the original wrote.
WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin", "pytorch_model.bin")
CONFIG_FILE = "adapter_config.json"
RUN_ARGS = "run_args.json"
SAVING = ".saving-"  # begins the name of a folder that an adapter is written to before it is moved into place
HUB_FILES = [*WEIGHT_FILES, CONFIG_FILE, RUN_ARGS]
SAMPLE_CONFIG = Path(__file__).parent.parent.parent / "config-sample" / CONFIG_FILE
_PREFIX = "base_model.model."  # how PEFT names the base's modules in a file
_FROZEN = ".base_layer.weight"  # ends the name of a base's own weight, which PEFT saves beside a low-rank head
_ROUNDED = {"rtol": 2**-7, "atol": 2**-24}  # what 16 bits leave of a weight


def adapter_folder(name: str, use_local: bool | None = None) -> Path:
    """The folder of `--lora_path`: a path, or a hub id. `use_local` forbids the one or the other."""
    if use_local and not Path(name).expanduser().is_dir():
        raise UserError(f"--lora_path {name} does not exist here, and --use_local 1 forbids asking the hub.")
    if use_local is False and Path(name).is_dir():
        raise UserError(f"--lora_path {name} is a folder here, but --use_local 0 means a hub id; drop --use_local.")
    return local_folder(name, "--lora_path", HUB_FILES)


def weight_file(folder: Path) -> Path:
    """The adapter weights in `folder`.

    Raises:
        UserError: none of the known names is there.
    """
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    found = ", ".join(sorted(file.name for file in folder.iterdir())[:12]) or "nothing"
    raise UserError(f"{folder} has no adapter: expected one of {', '.join(WEIGHT_FILES)}, found {found}.")


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of an adapter's weight file by PEFT's names; no pickle is executed.

    Raises:
        UserError: not a weight file, or one without an adapter's tensors.
    """
    tensors = read_file(file)
    if not any("lora_" in name or name.startswith(_PREFIX) for name in tensors):
        raise UserError(f"{file} holds no LoRA tensors; expected names such as …q_proj.lora_A.weight.")
    # Where the vocabulary was enlarged, PEFT also saves the base's own embeddings, and the trained ones twice.
    kept = {name: tensor for name, tensor in tensors.items() if ".original_module." not in name}
    return {name.replace(".modules_to_save.", "."): tensor for name, tensor in kept.items()}


def lora_modules(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, int, int]]:
    """Module name in the base -> (rank, in features, out features), read from the tensors' shapes."""
    found = {}
    for name, lora_a in tensors.items():
        if name.endswith(".lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            lora_b = tensors.get(f"{module}.lora_B.weight")
            if lora_b is None:
                raise UserError(f"the adapter has {name} but no lora_B beside it; the file is incomplete.")
            found[module.removeprefix(_PREFIX)] = (lora_a.shape[0], lora_a.shape[1], lora_b.shape[0])
    return found


def saved_modules(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Module name in the base -> shape of its weight, for modules that the adapter replaces as a whole."""
    return {
        name.removesuffix(".weight").removesuffix(".base_layer").removeprefix(_PREFIX): tuple(tensor.shape)
        for name, tensor in tensors.items()
        if "lora_" not in name and name.endswith(".weight")
    }


def trained_modules(tensors: dict[str, torch.Tensor]) -> list[str]:
    """Those of `saved_modules` that were trained: not the base's own weight below a low-rank head."""
    return list(saved_modules({name: one for name, one in tensors.items() if not name.endswith(_FROZEN)}))


def train_kind(tensors: dict[str, torch.Tensor]) -> str:
    """Which --train wrote an adapter."""
    return "+".join([*["lora"] * bool(lora_modules(tensors)), *["embeddings"] * bool(trained_modules(tensors))])


def drop_frozen_copies(
    tensors: dict[str, torch.Tensor], weight_of: Callable[[str], torch.Tensor], folder: Path, base_name: str
) -> dict[str, torch.Tensor]:
    """An adapter without the copy of the base's own weight that PEFT saves below a low-rank head or embeddings.

    Args:
        weight_of: the base's weight of a module.

    Raises:
        UserError: it is not the base's.
    """
    for name in [name for name in tensors if name.endswith(_FROZEN)]:
        module = name.removesuffix(_FROZEN).removeprefix(_PREFIX)
        own, copy = weight_of(module), tensors[name]
        # Of a base that ZeRO-3 keeps in parts there is nothing to compare with.
        if own.shape == copy.shape and not torch.allclose(own.float(), copy.float(), **_ROUNDED):
            raise UserError(
                f"the adapter in {folder} changes a {module} that is not that of {base_name}: use the base it was "
                "trained on; or merge the adapter, which takes the weight along: python tools/merge_lora.py"
            )
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(_FROZEN)}


def read_config(folder: Path, tensors: dict[str, torch.Tensor]) -> tuple[LoraConfig, str]:
    """The adapter's config, and a warning ("" if none) where it had to be inferred.

    Without an adapter_config.json, rank and modules are read from the tensors, alpha from config-sample/.

    Raises:
        UserError: a config that can not be read, is not LoRA's, or does not describe the tensors.
    """
    file = folder / CONFIG_FILE
    modules = lora_modules(tensors)
    names = sorted({module.rsplit(".", 1)[-1] for module in modules})
    ranks = sorted({rank for rank, _, _ in modules.values()})
    if not file.is_file():
        sample = json.loads(SAMPLE_CONFIG.read_text(encoding="utf-8"))
        alpha, dropout = sample["lora_alpha"], sample["lora_dropout"]
        if len(ranks) != 1:
            raise UserError(
                f"{folder} has no {CONFIG_FILE}, and its tensors have the ranks {ranks}: add the config it was "
                "trained with."
            )
        config = LoraConfig(
            r=ranks[0], lora_alpha=alpha, lora_dropout=dropout, target_modules=names, task_type="CAUSAL_LM"
        )
        return config, (
            f"{folder} has no {CONFIG_FILE}: rank {ranks[0]} and modules {', '.join(names)} are read from its tensors, "
            f"alpha {alpha} is assumed from {SAMPLE_CONFIG.parent.name}/{CONFIG_FILE}. Put the right config beside it "
            "if alpha differs."
        )
    try:
        config = PeftConfig.from_pretrained(folder)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise UserError(f"{file} can not be read as an adapter config ({str(error)[:160]}).") from error
    if not isinstance(config, LoraConfig):
        raise UserError(f"{file} describes a {config.peft_type} adapter; expected LORA.")
    declared = {config.r, *config.rank_pattern.values()}
    if not set(ranks) <= declared:
        raise UserError(
            f"{file} says r {config.r}, but the tensors beside it have rank {ranks}: it belongs to another adapter."
        )
    targets = config.target_modules
    if isinstance(targets, (set, list)) and not set(names) <= {target.rsplit(".", 1)[-1] for target in targets}:
        raise UserError(
            f"{file} names the modules {', '.join(sorted(targets))}, but the tensors beside it are for "
            f"{', '.join(names)}: part of the adapter would be ignored. Put the config it was trained with beside it."
        )
    return config, ""


def check_compatible(tensors: dict[str, torch.Tensor], base: nn.Module, base_name: str) -> None:
    """Refuse an adapter that was trained on a base of another architecture, size or vocabulary.

    Args:
        base: the base, or its skeleton without weights.
    """
    modules = dict(base.named_modules())
    for name, (_, inside, outside) in lora_modules(tensors).items():
        layer = modules.get(name)
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
        layer = modules.get(name)
        found = tuple(layer.weight.shape) if hasattr(layer, "weight") else None
        if found != shape:
            raise UserError(
                f"the adapter holds a {name} of {shape}, but in {base_name} it is {found}: use the base it was trained "
                "on."
            )


def plan_adapter(base: Base, flags: LoraFlags, folder: Path | None) -> tuple[LoraConfig, LoraFlags, str]:
    """The config a run will train, the flags that say the same, and a warning, "" if none.

    Args:
        folder: where an adapter to start from lies; its rank, alpha and modules then replace the flags'.
    """
    if folder is None:
        whole_modules = embedding_modules(base.config) if "embeddings" in flags.train else []
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=flags.lora_r,
            lora_alpha=flags.lora_alpha,
            lora_dropout=flags.lora_dropout,
            target_modules=flags.lora_target_modules if "lora" in flags.train else DUMMY_TARGET_MODULES,
            modules_to_save=whole_modules or None,
            ensure_weight_tying=bool(whole_modules) and base.config.tie_word_embeddings,
        )
        return config, flags, ""
    tensors = read_tensors(weight_file(folder))
    if train_kind(tensors) != flags.train:
        raise UserError(
            f"the adapter in {folder} was made by --train {train_kind(tensors)}, this run has --train {flags.train}: "
            f"pass --train {train_kind(tensors)}."
        )
    config, warning = read_config(folder, tensors)
    check_compatible(tensors, meta_model(base.config), str(base.path))
    names = sorted({module.rsplit(".", 1)[-1] for module in lora_modules(tensors)})
    config.lora_dropout = flags.lora_dropout
    same = replace(flags, lora_r=config.r, lora_alpha=config.lora_alpha)
    if names:
        same = replace(same, lora_target_modules=names)
    return config, same, warning


def embedding_modules(config: Any) -> list[str]:
    """Names of the input embeddings and the head in a base with this config.

    The head of a base that ties them is left to PEFT, which finds it by itself.
    """
    model = meta_model(config)
    names = {module: name.rsplit(".", 1)[-1] for name, module in model.named_modules()}
    found = [names[model.get_input_embeddings()]]
    return found if config.tie_word_embeddings else [*found, names[model.get_output_embeddings()]]


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters: trainable ones, those of the linear layers bitsandbytes quantises, and all.

    `whole_modules` are the names of what is trained beside LoRA's matrices.
    """

    trainable: int
    quantisable: int
    total: int
    whole_modules: tuple[str, ...] = ()

    def weight_bytes(self, bits: int, dtype: torch.dtype) -> float:
        """What the frozen weights take. On a quantised base all but the linear layers is float32 while training."""
        frozen = self.total - self.trainable
        if bits >= 16:
            return frozen * dtype.itemsize
        return self.quantisable * bits / 8 + (frozen - self.quantisable) * torch.float32.itemsize


def count_parameters(skeleton: nn.Module, config: LoraConfig | None) -> Parameters:
    """Count with a new adapter on top, or with every weight trained; `skeleton` has no weights and is used up.

    Raises:
        UserError: target modules the base does not have.
    """
    layers = {name: layer for name, layer in skeleton.named_modules() if isinstance(layer, nn.Linear)}
    names = {name.rsplit(".", 1)[-1] for name in layers}
    if config is None:
        total = skeleton.num_parameters()
        return Parameters(total, 0, total)
    unknown = sorted(set(config.target_modules) - names) if not isinstance(config.target_modules, str) else []
    if unknown:
        raise UserError(
            f"--lora_target_modules {' '.join(unknown)}: no such linear layers in this base; it has "
            f"{', '.join(sorted(names))}."
        )
    head = skeleton.get_output_embeddings()
    quantisable = sum(layer.weight.numel() for layer in layers.values() if layer is not head)
    whole_modules = tuple(config.modules_to_save or ())  # PEFT adds to the list where the head is tied
    trainable, total = get_peft_model(skeleton, config).get_nb_trainable_parameters()
    return Parameters(trainable, quantisable, total, whole_modules)


def new_adapter(base: nn.Module, config: LoraConfig) -> PeftModel:
    """A new adapter on top of `base`. What it trains is float32, copied embeddings too, however the base is kept."""
    model = get_peft_model(base, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def attach(
    base: nn.Module,
    folder: Path,
    base_name: str,
    trainable: bool = False,
    dropout: float | None = None,
    name: str = "default",
) -> tuple[PeftModel, str]:
    """The adapter in `folder` on top of `base`, every tensor of it used; and a warning, "" if none.

    Args:
        base: the bare model, or one with other adapters on top.
        dropout: in place of the one it was trained with.
        name: what PEFT knows it by, without a full stop.

    Raises:
        UserError: an adapter that can not be read or does not fit.
    """
    tensors = read_tensors(weight_file(folder))
    config, warning = read_config(folder, tensors)
    bare = base.get_base_model() if isinstance(base, PeftModel) else base
    check_compatible(tensors, bare, base_name)
    tensors = drop_frozen_copies(tensors, lambda module: _weight(bare.get_submodule(module)), folder, base_name)
    config.inference_mode = not trainable
    config.lora_dropout = config.lora_dropout if dropout is None else dropout
    config.base_model_name_or_path = base_name
    if isinstance(base, PeftModel):
        base.add_adapter(name, config)
        model = base
    else:
        model = new_adapter(base, config) if trainable else get_peft_model(base, config, adapter_name=name)
    expected = set(get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False))
    if expected != set(tensors):
        odd = sorted(expected ^ set(tensors))
        raise UserError(
            f"{folder} and its config do not describe the same adapter: {len(odd)} tensors differ, such as {odd[0]}."
        )
    set_peft_model_state_dict(model, tensors, adapter_name=name)
    return model, warning


def _weight(module: nn.Module) -> torch.Tensor:
    """A module's weight on the CPU, that of the base where an adapter lies on it."""
    return getattr(module, "base_layer", module).weight.detach().cpu()


def run_args(folder: Path) -> dict[str, Any]:
    """What training wrote beside the adapter, or beside the checkpoint's parent; {} for an adapter from elsewhere."""
    for file in (folder / RUN_ARGS, folder.parent / RUN_ARGS):
        if file.is_file() and (file.parent == folder or folder.name.startswith("checkpoint-")):
            try:
                return json.loads(file.read_text(encoding="utf-8"))
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{file} is not JSON ({error.msg} in line {error.lineno}). Delete it, or train again."
                ) from error
    return {}


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
    with tempfile.TemporaryDirectory(prefix=SAVING, dir=folder) as aside:
        model.save_pretrained(aside, state_dict=weights, save_embedding_layers=False)
        _verify(load_file(Path(aside) / WEIGHT_FILES[0]), expected)
        for name in (WEIGHT_FILES[0], CONFIG_FILE):
            os.replace(Path(aside) / name, folder / name)


def _verify(written: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    if not written or set(written) != set(expected):
        raise RuntimeError(f"the adapter file has {len(written)} tensors, the adapter {len(expected)}")
    for name, tensor in expected.items():
        if written[name].shape != tensor.shape:
            raise RuntimeError(f"{name} was written as {tuple(written[name].shape)}, it is {tuple(tensor.shape)}")
        if not torch.isfinite(written[name]).all():
            raise RuntimeError(f"{name} has values that are not finite: the run has diverged")
    learnt = [written[name].any() for name in written if ".lora_B." in name]
    if learnt and not any(learnt):
        raise RuntimeError("every lora_B is zero: nothing was learnt")
