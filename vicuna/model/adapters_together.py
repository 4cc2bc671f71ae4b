"""Several adapters on one base: what PEFT 0.21 can not lay on each other is made alike first, or laid on in order.

A module of a base, such as its head, may be changed by one adapter through matrices, by another in some rows, and
replaced by a third. PEFT puts a wrapper of its own around it for each, and takes no other on top. Where adapters differ
about a module, each of them replaces it as a whole.
"""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from peft import LoraConfig, set_peft_model_state_dict
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn

from vicuna.model.adapter_conversion import Tensors, lora_alone
from vicuna.model.adapter_files import own_module
from vicuna.model.adapter_names import PEFT_PREFIX, ROWS, row_indices

_MATRICES = (".lora_A.weight", ".lora_embedding_A")


@dataclass(frozen=True)
class Arrangement:
    """How adapters go onto one base.

    Attributes:
        order: in which they are loaded, by number.
        whole: modules that each of those which change them replaces as a whole.
    """

    order: list[int]
    whole: frozenset[str]


def changed_modules(tensors: Collection[str] | Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Module in the base -> how an adapter changes it: by matrices, in some rows, or as a whole."""
    found = {}
    for name in tensors:
        inside = name.removeprefix(PEFT_PREFIX)
        if inside.endswith(_MATRICES):
            found[inside.split(".lora_")[0]] = "matrices"
        elif inside.endswith(f".{ROWS}"):
            found[inside.removesuffix(f".{ROWS}")] = "rows"
        elif name.endswith(".weight") and ".base_layer." not in name and ".lora_" not in name:
            found[inside.removesuffix(".weight")] = "whole"
    return found


def arrange(adapters: Sequence[Collection[str]]) -> Arrangement:
    """How adapters go onto one base.

    Args:
        adapters: names of the tensors of each.
    """
    changes = [changed_modules(names) for names in adapters]
    every = {module: {one[module] for one in changes if module in one} for one in changes for module in one}
    whole = {module for module, kinds in every.items() if len(kinds) > 1}
    rows = [{module for module, kind in one.items() if kind == "rows"} - whole for one in changes]
    # PEFT looks for the rows of every adapter that is already there in each one that comes later.
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    if any(not rows[one] <= rows[following] for one, following in pairwise(order)):
        whole = whole.union(*rows)
    return Arrangement(order, frozenset(whole))


def replacing(adapters: Sequence[Collection[str]], arrangement: Arrangement, tied: Collection[str]) -> list[int]:
    """Which adapters can not be on one base that ties modules: they replace one of these, as a whole or in rows.

    PEFT 0.21 ties the modules of one adapter only; rows it ties in several, if nobody changes these by matrices.
    """
    changes = [changed_modules(names) for names in adapters]
    ways = {
        number: {"whole" if module in arrangement.whole else one[module] for module in tied if module in one}
        for number, one in enumerate(changes)
    }
    every = [way for found in ways.values() for way in found]
    if "whole" not in every and not ("matrices" in every and every.count("rows") > 1):
        return []
    return [number for number, found in ways.items() if found - {"matrices"}]


def as_told_by_names(tensors: Tensors, config: LoraConfig) -> LoraConfig:
    """The config of an adapter that is not trained, with the head that it changes along with the embeddings by name.

    What `ensure_weight_tying` has PEFT do lies in the tensors then; PEFT does it for one adapter on a base only.
    """
    if not config.ensure_weight_tying or "matrices" not in changed_modules(tensors).values():
        return config
    named = copy.deepcopy(config)
    named.ensure_weight_tying = any(kind != "matrices" for kind in changed_modules(tensors).values())
    named.target_modules = {module for module, kind in changed_modules(tensors).items() if kind == "matrices"}
    named.exclude_modules = named.layers_to_transform = named.layers_pattern = None
    return named


def with_whole_modules(
    tensors: Tensors, config: LoraConfig, modules: Collection[str], base: nn.Module
) -> tuple[Tensors, LoraConfig]:
    """An adapter that replaces as a whole those of `modules` which it changes; any other as it is."""
    changes = changed_modules(tensors)
    if not (mine := sorted(module for module in modules if changes.get(module, "whole") != "whole")):
        return tensors, config
    found, indices = dict(tensors), row_indices(config)
    for module in mine:
        part, own = f"{PEFT_PREFIX}{module}", own_module(base.get_submodule(module))
        weight = own.weight.detach().float().cpu().clone()
        taken = {name: found.pop(name) for name in list(found) if name.startswith(f"{part}.")}
        if changes[module] == "rows":
            weight[token_rows(config, module)] = taken[f"{part}.{ROWS}"].float()
        else:
            alone = lora_alone(module, weight, config, isinstance(own, nn.Embedding))
            set_peft_model_state_dict(alone, taken)
            weight = alone.merge_and_unload().get_submodule(module).weight.detach()
        found[f"{part}.weight"] = weight
    alike, left = copy.deepcopy(config), changed_modules(found)
    alike.modules_to_save = [*(config.modules_to_save or ()), *mine]
    alike.target_modules = {module for module, kind in left.items() if kind == "matrices"} or DUMMY_TARGET_MODULES
    alike.exclude_modules = alike.layers_to_transform = alike.layers_pattern = None
    others = {name: one for name, one in indices.items() if not any(module.endswith(name) for module in mine)}
    alike.trainable_token_indices = others or None
    return found, alike


def token_rows(config: LoraConfig, module: str) -> list[int]:
    """The rows of an embedding or a head that an adapter with trainable_token_indices puts others in place of."""
    return next((rows for name, rows in row_indices(config).items() if module.endswith(name)), [])
