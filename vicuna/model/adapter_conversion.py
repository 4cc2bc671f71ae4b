"""Adapters that change the base, as plain LoRA that does the same and leaves the base alone.

PiSSA, OLoRA and KaSA begin by taking something of rank r out of the base's weights. PEFT takes it out again whenever it
loads such an adapter, for all other adapters on the base too. W - s B0 A0 + s B A is W + s (B | -B0) (A over A0): plain
LoRA of twice the rank on the untouched base, which is also what PEFT converts to where an adapter was trained.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from tqdm import tqdm

from vicuna.errors import UserError, printable
from vicuna.model.adapter_files import FROZEN, lora_modules, own_module, same_but_rounded
from vicuna.model.adapter_kinds import BEGINS_FROM_WEIGHTS, WHERE_IT_WAS_TRAINED, begins_with, is_bias_of_base
from vicuna.model.adapter_names import PEFT_PREFIX
from vicuna.model.base import device
from vicuna.sentences import Sentence

Tensors = dict[str, torch.Tensor]
REPEATABLE = 0.01  # of what an adapter changes: how far apart two beginnings that were drawn may be


@dataclass(frozen=True)
class Beginning:
    """What PEFT takes out of a weight before an adapter is trained: scaling * B A."""

    a: torch.Tensor
    b: torch.Tensor
    scaling: float

    @property
    def product(self) -> torch.Tensor:
        return self.scaling * self.b @ self.a


def changes_base(config: LoraConfig) -> bool:
    """Whether PEFT changes the base's weights when it loads an adapter of this kind."""
    return begins_with(vars(config), BEGINS_FROM_WEIGHTS) or bool(config.kasa_config)


def plain_config(config: LoraConfig) -> LoraConfig:
    """The config of what `as_plain_lora` gives; the same where the adapter leaves the base alone."""
    if not changes_base(config):
        return config
    # PEFT divides alpha by the rank, or by its root: the scaling stays.
    factor = 2**0.5 if config.use_rslora else 2
    plain = copy.deepcopy(config)
    plain.init_lora_weights, plain.kasa_config = True, None
    plain.r, plain.lora_alpha = 2 * config.r, factor * config.lora_alpha
    plain.rank_pattern = {name: 2 * rank for name, rank in config.rank_pattern.items()}
    plain.alpha_pattern = {name: factor * alpha for name, alpha in config.alpha_pattern.items()}
    return plain


def as_plain_lora(
    tensors: Tensors, config: LoraConfig, weight_of: Callable[[str], torch.Tensor], folder: Path
) -> tuple[Tensors, LoraConfig, str]:
    """An adapter as plain LoRA, and a notice, "" where it leaves the base alone and stays as it is.

    Args:
        weight_of: the base's weight of a module, at the precision that it is kept in.

    Raises:
        UserError: what it began with can not be made again.
    """
    if not changes_base(config):
        return tensors, config, ""
    found = dict(tensors)
    apart = changed = 0.0
    for module in tqdm(lora_modules(tensors), desc=printable(f"converting {folder.name}"), unit="weight", disable=None):
        weight = weight_of(module).to(device(), torch.float32)
        begun = beginning(module, weight, config, seed=0)
        part = f"{PEFT_PREFIX}{module}"
        a, b = (tensors[f"{part}.lora_{one}.weight"].to(weight) for one in "AB")
        if (diagonal := found.pop(f"{part}.lora_diag", None)) is not None:
            a = diagonal.to(weight)[:, None] * a
        found[f"{part}.lora_A.weight"] = torch.cat([a, begun.a]).cpu()
        found[f"{part}.lora_B.weight"] = torch.cat([b, -begun.b], dim=1).cpu()
        if "_niter_" in str(config.init_lora_weights):
            again = beginning(module, weight, config, seed=1)
            apart += float((begun.product - again.product).square().sum())
            changed += float((begun.scaling * b @ a - begun.product).square().sum())
        left = found.pop(f"{part}{FROZEN}", None)  # PEFT saves what it left of a head
        if left is not None and not same_but_rounded(weight - begun.product, left.to(weight)):
            raise UserError(
                f"the adapter in {folder} was trained on a {module} that is not this base's: use the base it was "
                "trained on."
            )
    kind = "kasa_config" if config.kasa_config else f"init_lora_weights {config.init_lora_weights}"
    if apart > REPEATABLE**2 * changed:
        raise UserError(
            f"the adapter in {folder} was begun with {kind}, a decomposition of the base that is drawn: two of them "
            f"differ by {(apart / changed) ** 0.5:.0%} of what the adapter changes, so the one it began with can not "
            f"be made again. {WHERE_IT_WAS_TRAINED}."
        )
    plain = plain_config(config)
    return found, plain, Sentence("used_as_plain", folder=folder, kind=kind, rank=plain.r)


def beginning(module: str, weight: torch.Tensor, config: LoraConfig, seed: int) -> Beginning:
    """What PEFT takes out of this weight."""
    alone = copy.deepcopy(config)
    alone.use_dora = False
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        lora = lora_alone(module, weight, alone).get_submodule(f"{PEFT_PREFIX}{module}")
    a, b = (one["default"].weight.detach().float() for one in (lora.lora_A, lora.lora_B))
    scaling = lora.scaling["default"]
    if config.kasa_config:  # of which only what is left of the weight shows what was taken
        left, values, right = torch.linalg.svd(weight - lora.get_base_layer().weight)
        a, b = right[: len(a)], left[:, : len(a)] * (values[: len(a)] / scaling)
    return Beginning(a, b, scaling)


def lora_alone(module: str, weight: torch.Tensor, config: LoraConfig, embedding: bool = False) -> PeftModel:
    """One module of a base with its adapter, as a model that has nothing else.

    Args:
        weight: a float32 copy is taken.
        embedding: it is an embedding, not a linear layer.
    """
    alone = copy.deepcopy(config)
    alone.target_modules, alone.exclude_modules, alone.task_type = {module}, None, None
    alone.modules_to_save = alone.trainable_token_indices = alone.layers_to_transform = alone.layers_pattern = None
    alone.bias, alone.inference_mode, alone.ensure_weight_tying = "none", True, False
    kind = nn.Embedding if embedding else nn.Linear
    layer: nn.Module = kind(*(weight.shape if embedding else weight.shape[::-1]), device="meta")
    layer.weight = nn.Parameter(weight.float().clone(), requires_grad=False)
    if not embedding:
        layer.bias = None
    for name in reversed(module.split(".")):
        layer = nn.ModuleDict({name: layer})
    return get_peft_model(layer, alone)


def with_added_biases(
    tensors: Tensors, config: LoraConfig, base: nn.Module, folder: Path
) -> tuple[Tensors, LoraConfig]:
    """An adapter that puts other biases into the base, as one that adds to them; any other as it is.

    A module of which it changes nothing but the bias gets matrices of zeros.

    Raises:
        UserError: DoRA's magnitudes would be multiplied with what is added.
    """
    own = {
        name.removeprefix(PEFT_PREFIX).replace(".base_layer.", "."): name for name in tensors if is_bias_of_base(name)
    }
    if not own:
        return tensors, config
    if config.use_dora:
        raise UserError(f"{folder} has DoRA and biases, which are not answered with: merge it into its base.")
    plain = copy.deepcopy(config)
    plain.bias, plain.lora_bias = "none", True
    parts = {*lora_modules(tensors), *(name.removesuffix(".bias") for name in own)}
    plain.target_modules, plain.exclude_modules, plain.layers_to_transform, plain.layers_pattern = (
        parts,
        None,
        None,
        None,
    )
    found = {name: tensor for name, tensor in tensors.items() if not is_bias_of_base(name)}
    for part in parts:
        module = own_module(base.get_submodule(part))
        lora = lora_alone(part, torch.zeros(module.out_features, module.in_features), plain)
        lora = lora.get_submodule(f"{PEFT_PREFIX}{part}")
        for side in "AB":
            zeros = torch.zeros_like(getattr(lora, f"lora_{side}")["default"].weight)
            found.setdefault(f"{PEFT_PREFIX}{part}.lora_{side}.weight", zeros)
        added = torch.zeros(module.out_features)
        if (name := own.get(f"{part}.bias")) is not None:
            added = (tensors[name].float() - module.bias.detach().cpu().float()) / lora.scaling["default"]
        found[f"{PEFT_PREFIX}{part}.lora_B.bias"] = added
    return found, plain
