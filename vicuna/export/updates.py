"""Adapters as what they change of a base's weights: read, and checked against the base and those before them.

An adapter does two things to a weight: it adds scaling * B A, or it puts another in its place (embeddings and head of
`modules_to_save`).
"""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

from vicuna.errors import UserError
from vicuna.log import log
from vicuna.model.adapter import lora_scalings, vocabulary_modules
from vicuna.model.adapter_conversion import as_plain_lora
from vicuna.model.adapter_files import check_compatible, check_whole_parts, read_adapter, saved_modules
from vicuna.model.adapter_kinds import Use
from vicuna.model.adapter_names import PEFT_PREFIX, ROWS
from vicuna.model.adapters_together import token_rows
from vicuna.model.base import Base
from vicuna.model.base_tensors import weight_reader
from vicuna.model.config import meta_model
from vicuna.model.found import adapter_folder, run_args
from vicuna.prompt.tokenizer import TextTokenizer
from vicuna.train.checkpoint import check_adapter_folder


@dataclass(frozen=True)
class LowRankUpdate:
    """What an adapter adds to a weight of (out, in): scaling * B A, with A (r, in) and B (out, r).

    For embeddings of (vocabulary, hidden), `transposed`, it is the transpose of B A with A (r, vocabulary). DoRA then
    gives each row its length: `magnitude`, (out,).
    """

    a: torch.Tensor
    b: torch.Tensor
    scaling: float
    transposed: bool = False
    magnitude: torch.Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        size = (len(self.b), self.a.shape[1])
        return torch.Size(reversed(size) if self.transposed else size)

    def __getitem__(self, rows: slice) -> torch.Tensor:
        """Some rows of the update in float32."""
        if self.transposed:
            return (self.b.float() @ self.a[:, rows].float()).mul_(self.scaling).T
        return (self.b[rows].float() @ self.a.float()).mul_(self.scaling)

    @property
    def changes(self) -> bool:
        """Whether it changes anything."""
        return self.magnitude is not None or bool(self.b.any())

    def apply(self, weight: torch.Tensor, rows: slice) -> None:
        """Change these rows of a float32 weight."""
        weight += self[rows]
        if self.magnitude is not None:
            weight *= (self.magnitude[rows].float() / weight.norm(dim=1))[:, None]


@dataclass(frozen=True)
class TokenRows:
    """What an adapter puts in place of some rows of an embedding or a head: `values`, (n, hidden), at `places`."""

    places: torch.Tensor
    values: torch.Tensor
    shape: torch.Size

    def apply(self, weight: torch.Tensor, rows: slice) -> None:
        """Change these rows of a float32 weight."""
        start, end, _ = rows.indices(self.shape[0])
        mine = (self.places >= start) & (self.places < end)
        weight[self.places[mine] - start] = self.values[mine].float()


Update = LowRankUpdate | TokenRows


@dataclass(frozen=True)
class AdapterUpdate:
    """An adapter, every tensor of it: how it changes weights, and what it puts in place, by the name in the base.

    Attributes:
        converted: its tensors and config as plain LoRA, where the adapter itself would change the base; else None.
        vocab: rows of the embeddings once it is merged.
        prompt_type: the template it was trained with, "" where nothing says.
        grows: whether it brings more embeddings than the base has, and the tokenizer for them.
        warning: what the user should know, "" if nothing.
        count: tensors in its file that are used: all of them.
    """

    folder: Path
    added: dict[str, Update]
    whole: dict[str, torch.Tensor]
    converted: tuple[dict[str, torch.Tensor], LoraConfig] | None
    count: int
    vocab: int
    prompt_type: str
    grows: bool
    warning: str


def read_updates(lora_path: Sequence[str], base: Base, ignore_fingerprint: bool) -> list[AdapterUpdate]:
    """Read adapters, in order.

    Args:
        ignore_fingerprint: take one that was trained on other files than the base's.

    Raises:
        UserError: see `vicuna.train.checkpoint.check_adapter_folder` and `read_update`.
    """
    config, updates = copy.deepcopy(base.config), []
    stored = weight_reader(base.path)

    def weight_of(module: str) -> torch.Tensor:
        """As the adapters before leave it."""
        weight, name = stored(module).float(), f"{module}.weight"
        for update in updates:
            weight = update.whole.get(name, weight).float().clone()
            if name in update.added:
                update.added[name].apply(weight, slice(0, len(weight)))
        return weight

    for name in lora_path:
        folder = adapter_folder(name)
        check_adapter_folder(folder, base, ignore_fingerprint)
        update = read_update(folder, config, str(base.path), weight_of)
        if update.warning:
            log.warning("%s", update.warning)
        config.vocab_size = update.vocab
        updates.append(update)
    return updates


def read_update(folder: Path, config: Any, base_name: str, weight_of: Callable[[str], torch.Tensor]) -> AdapterUpdate:
    """Read an adapter and check that it fits a base, or a base with the adapters before it.

    Args:
        config: of the base, with the vocabulary that the adapters before this one left.
        base_name: as messages show it.
        weight_of: the weight of a module as they left it, asked for where the adapter itself would change the base.

    Raises:
        UserError: what does not fit, or can not be merged.
    """
    read, lora, warning = read_adapter(folder, Use.MERGE)
    config, grows = _with_vocabulary(config, read, folder, base_name)
    model = meta_model(config)
    check_compatible(read, model, base_name)
    check_whole_parts(read, lora, model, folder)
    tensors, lora, notice = as_plain_lora(read, lora, weight_of, folder)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    scalings = _scalings(model, lora, tensors, folder)
    added, whole = _sorted_out(tensors, scalings, lora, shapes, folder)
    if config.tie_word_embeddings:
        _as_one(added, model.all_tied_weights_keys)
    if odd := [name for name, one in added.items() if one.shape != shapes.get(name)]:
        raise UserError(
            f"the adapter in {folder} changes {odd[0]} by {tuple(added[odd[0]].shape)}, in {base_name} it is "
            f"{tuple(shapes.get(odd[0], ()))}: use the base it was trained on."
        )
    if grows and config.tie_word_embeddings:
        whole = {name: whole[embedding] for name, embedding in model.all_tied_weights_keys.items()} | whole
    if not whole and not any(isinstance(one, TokenRows) or one.changes for one in added.values()):
        raise UserError(f"{folder} changes nothing: every lora_B is zero. It was never trained, or saved too early.")
    prompt_type = run_args(folder).get("prompt_type", "")
    warning = "; ".join(filter(None, [warning, notice, _tokenizer_warning(folder, config.vocab_size)]))
    converted = (tensors, lora) if notice else None
    return AdapterUpdate(folder, added, whole, converted, len(read), config.vocab_size, prompt_type, grows, warning)


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


def _sorted_out(
    tensors: Mapping, scalings: dict[str, float], lora: LoraConfig, shapes: Mapping[str, torch.Size], folder: Path
) -> tuple[dict, dict]:
    """What is changed and what is put in place, by the base's names.

    Raises:
        UserError: a tensor that is neither.
    """
    left = {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in tensors.items()}
    added: dict[str, Update] = {}
    for module, scaling in scalings.items():
        if f"{module}.lora_embedding_A" in left:
            a, b = (left.pop(f"{module}.lora_embedding_{one}") for one in "AB")
            added[f"{module}.weight"] = LowRankUpdate(a, b, scaling, transposed=True)
        else:
            a, b = (left.pop(f"{module}.lora_{one}.weight") for one in "AB")
            magnitude = left.pop(f"{module}.lora_magnitude_vector", None)
            added[f"{module}.weight"] = LowRankUpdate(a, b, scaling, magnitude=magnitude)
    for name in [name for name in left if name.endswith(ROWS)]:
        weight = name.replace(ROWS, "weight")
        places = torch.tensor(token_rows(lora, name.removesuffix(f".{ROWS}")))
        added[weight] = TokenRows(places, left.pop(name), shapes[weight])
    whole = {name.replace(".base_layer.", "."): left.pop(name) for name in list(left) if "lora_" not in name}
    if left:
        raise UserError(f"the adapter in {folder} holds {min(left)}, which this program does not know how to merge.")
    return added, whole


def _as_one(added: dict[str, Update], tied: Mapping[str, str]) -> None:
    """Have tied weights that an adapter changes alike changed by one update, so that they stay the same bit by bit.

    Args:
        tied: name of a head -> name of the embeddings that it is tied to.
    """
    for head, embedding in tied.items():
        of_head, of_embedding = added.get(head), added.get(embedding)
        if isinstance(of_embedding, TokenRows) and of_head is None:  # of both, as PEFT has it
            added[head] = of_embedding
        elif isinstance(of_head, LowRankUpdate) and isinstance(of_embedding, LowRankUpdate):
            same = torch.equal(of_head.a, of_embedding.b.T) and torch.equal(of_head.b, of_embedding.a.T)
            if same and of_head.scaling == of_embedding.scaling and of_head.magnitude is None:
                added[head] = of_embedding
