"""Adapters as what they change of a base's weights: read, and checked against the base and those before them.

An adapter does two things to a weight: it adds scaling * B A, or it puts another in its place (embeddings and head of
`modules_to_save`).
"""

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

from vicuna.errors import UserError
from vicuna.log import log
from vicuna.model.adapter import lora_scalings, vocabulary_modules
from vicuna.model.adapter_files import (
    ADAPTER_CONFIG,
    PEFT_PREFIX,
    adapter_folder,
    check_compatible,
    read_adapter,
    run_args,
    saved_modules,
)
from vicuna.model.base import Base
from vicuna.model.config import meta_model
from vicuna.prompt.tokenizer import TextTokenizer
from vicuna.train.checkpoint import check_adapter_folder

# What LoRA's relatives do with a weight is another thing than adding B A to it.
_OTHER_MATHS = (
    *("use_dora", "use_qalora", "use_bdlora", "lora_bias", "kasa_config", "arrow_config", "alora_invocation_tokens"),
    *("trainable_token_indices", "layer_replication", "target_parameters", "monteclora_config"),
)
# Initialisations that change the base's weights too, which a merge into the untouched base would miss.
_CHANGES_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")


@dataclass(frozen=True)
class LowRankUpdate:
    """What an adapter adds to a weight of (out, in): scaling * B A, with A (r, in) and B (out, r).

    For embeddings of (vocabulary, hidden), `transposed`, it is the transpose of B A with A (r, vocabulary).
    """

    a: torch.Tensor
    b: torch.Tensor
    scaling: float
    transposed: bool = False

    @property
    def shape(self) -> torch.Size:
        size = (len(self.b), self.a.shape[1])
        return torch.Size(reversed(size) if self.transposed else size)

    def __getitem__(self, rows: slice) -> torch.Tensor:
        """Some rows of the update in float32."""
        if self.transposed:
            return (self.b.float() @ self.a[:, rows].float()).mul_(self.scaling).T
        return (self.b[rows].float() @ self.a.float()).mul_(self.scaling)


@dataclass(frozen=True)
class AdapterUpdate:
    """An adapter, every tensor of it: what it adds, and what it puts in place, by the name of the base's weight.

    Attributes:
        vocab: rows of the embeddings once it is merged.
        prompt_type: the template it was trained with, "" where nothing says.
        grows: whether it brings more embeddings than the base has, and the tokenizer for them.
        warning: what the user should know, "" if nothing.
    """

    folder: Path
    added: dict[str, LowRankUpdate]
    whole: dict[str, torch.Tensor]
    vocab: int
    prompt_type: str
    grows: bool
    warning: str

    @property
    def count(self) -> int:
        """Tensors of the adapter that are used: all of them."""
        return 2 * len(self.added) + len(self.whole)


def read_updates(lora_path: Sequence[str], base: Base, ignore_fingerprint: bool) -> list[AdapterUpdate]:
    """Read adapters, in order.

    Args:
        ignore_fingerprint: take one that was trained on other files than the base's.

    Raises:
        UserError: see `vicuna.train.checkpoint.check_adapter_folder` and `read_update`.
    """
    config, updates = copy.deepcopy(base.config), []
    for name in lora_path:
        folder = adapter_folder(name)
        check_adapter_folder(folder, base, ignore_fingerprint)
        update = read_update(folder, config, str(base.path))
        if update.warning:
            log.warning("%s", update.warning)
        config.vocab_size = update.vocab
        updates.append(update)
    return updates


def read_update(folder: Path, config: Any, base_name: str) -> AdapterUpdate:
    """Read an adapter and check that it fits a base, or a base with the adapters before it.

    Args:
        config: of the base, with the vocabulary that the adapters before this one left.
        base_name: as messages show it.

    Raises:
        UserError: what does not fit, or can not be merged.
    """
    tensors, lora, warning = read_adapter(folder)
    _check_kind(folder, lora)
    config, grows = _with_vocabulary(config, tensors, folder, base_name)
    model = meta_model(config)
    check_compatible(tensors, model, base_name)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    scalings = _scalings(model, lora, tensors, folder)
    added, whole = _sorted_out(tensors, scalings, folder)
    if odd := [name for name, one in added.items() if one.shape != shapes.get(name)]:
        raise UserError(
            f"the adapter in {folder} changes {odd[0]} by {tuple(added[odd[0]].shape)}, in {base_name} it is "
            f"{tuple(shapes.get(odd[0], ()))}: use the base it was trained on."
        )
    if grows and config.tie_word_embeddings:
        whole = {name: whole[embedding] for name, embedding in model.all_tied_weights_keys.items()} | whole
    if not whole and not any(one.b.any() for one in added.values()):
        raise UserError(f"{folder} changes nothing: every lora_B is zero. It was never trained, or saved too early.")
    prompt_type = run_args(folder).get("prompt_type", "")
    warning = "; ".join(filter(None, [warning, _tokenizer_warning(folder, config.vocab_size)]))
    return AdapterUpdate(folder, added, whole, config.vocab_size, prompt_type, grows, warning)


def _check_kind(folder: Path, lora: LoraConfig) -> None:
    """Refuse what is more than LoRA."""
    odd = [name for name in _OTHER_MATHS if getattr(lora, name, None)]
    if odd:
        raise UserError(
            f"{folder / ADAPTER_CONFIG} says {odd[0]}, which does more to a weight than add B A to it, and is not "
            "merged by this program; PEFT's own merge_and_unload does."
        )
    begun = str(lora.init_lora_weights).lower()
    if begun.startswith(_CHANGES_BASE):
        raise UserError(
            f"{folder} was begun with init_lora_weights {begun}, which changes the base's weights too: convert it to a "
            "plain LoRA first, by save_pretrained with path_initial_model_for_weight_conversion."
        )


def _with_vocabulary(config: Any, tensors: Mapping, folder: Path, base_name: str) -> tuple[Any, bool]:
    """The config with as many embeddings as the adapter brings, and whether these are more than before.

    Raises:
        UserError: more of them in one of embeddings and head alone, or without the tokenizer they are for.
    """
    saved = saved_modules(tensors)
    names = vocabulary_modules(meta_model(config))
    if config.tie_word_embeddings:
        names = names[:1]
    rows = {name: saved[name][0] for name in names if name in saved}
    sizes = set(rows.values()) - {config.vocab_size}
    if not sizes:
        return config, False
    vocab = max(rows.values())
    what = ", ".join(f"{name} {count}" for name, count in sorted(rows.items()))
    if len(set(rows.values())) > 1 or vocab < config.vocab_size or len(rows) < len(names):
        raise UserError(
            f"the adapter in {folder} holds {what} rows, but {base_name} has a vocabulary of {config.vocab_size}: it "
            "was trained on another base, or before another adapter was merged; several are merged in the order given."
        )
    if not any((folder / name).is_file() for name in ("tokenizer.model", "tokenizer.json")):
        raise UserError(
            f"the adapter in {folder} enlarges the vocabulary from {config.vocab_size} to {vocab}, but its tokenizer "
            "is not there: put the tokenizer.model that it was published with beside it."
        )
    pieces = TextTokenizer(folder).size
    if not config.vocab_size <= pieces <= vocab:
        raise UserError(
            f"the tokenizer in {folder} has {pieces} pieces, the embeddings beside it have {vocab} rows: it belongs to "
            "another adapter."
        )
    grown = copy.deepcopy(config)
    grown.vocab_size = vocab
    return grown, True


def _tokenizer_warning(folder: Path, vocab: int) -> str:
    if not (folder / "tokenizer.model").is_file() or (pieces := TextTokenizer(folder).size) <= vocab:
        return ""
    return (
        f"the tokenizer beside the adapter in {folder} has {pieces} pieces, but nothing brings embeddings for more "
        f"than {vocab}: the base's tokenizer is kept"
    )


def _scalings(model: torch.nn.Module, lora: LoraConfig, tensors: Mapping, folder: Path) -> dict[str, float]:
    """Module -> alpha / r, as PEFT itself works it out from patterns and rslora; every tensor is asked for by it."""
    vocabulary = vocabulary_modules(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tied weights and fan_in_fan_out, which are dealt with here
        peft = get_peft_model(model, lora)
        expected = set(get_peft_model_state_dict(peft, save_embedding_layers=False))
    # Embeddings and head may be there in addition: PEFT saves them where they are changed, or were enlarged.
    more = {f"{PEFT_PREFIX}{module}.{name}" for module in vocabulary for name in ("weight", "base_layer.weight")}
    if odd := sorted((expected ^ set(tensors)) - (more - expected)):
        raise UserError(
            f"{folder} and its config do not describe the same adapter: {len(odd)} tensors differ, such as {odd[0]}."
        )
    return lora_scalings(peft)


def _sorted_out(tensors: Mapping, scalings: dict[str, float], folder: Path) -> tuple[dict, dict]:
    """What is added and what is put in place, by the base's names.

    Raises:
        UserError: a tensor that is neither.
    """
    left = {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in tensors.items()}
    added = {}
    for module, scaling in scalings.items():
        if f"{module}.lora_embedding_A" in left:
            a, b = (left.pop(f"{module}.lora_embedding_{one}") for one in "AB")
            added[f"{module}.weight"] = LowRankUpdate(a, b, scaling, transposed=True)
        else:
            a, b = (left.pop(f"{module}.lora_{one}.weight") for one in "AB")
            added[f"{module}.weight"] = LowRankUpdate(a, b, scaling)
    whole = {name.replace(".base_layer.", "."): left.pop(name) for name in list(left) if "lora_" not in name}
    if left:
        raise UserError(f"the adapter in {folder} holds {min(left)}, which this program does not know how to merge.")
    return added, whole
