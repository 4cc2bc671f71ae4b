"""Base + adapters by PEFT's own means, which the merged weights are compared with; and the base alone beside them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn

from vicuna.errors import UserError
from vicuna.export.meta_layout import EMBEDDING, HEAD
from vicuna.export.updates import AdapterUpdate
from vicuna.files.aside import write_text
from vicuna.files.json_files import read_json
from vicuna.files.tensors import LazyTensor, write_model
from vicuna.model.adapter_files import own_module, read_adapter
from vicuna.model.adapter_kinds import Use, uses_at
from vicuna.model.adapter_names import PEFT_PREFIX
from vicuna.model.base import Base, check_base, device, load_base
from vicuna.model.base_tensors import read_base_tensors
from vicuna.model.openable import copy_tokenizer


def load_with_adapters(base: Base, updates: Sequence[AdapterUpdate], bits: int) -> Any:
    """The base with the adapters by PEFT, each but the last merged into the weights before the next is put on.

    Raises:
        UserError: see `vicuna.model.base.load_base`; an adapter that can not be put on a base at these bits.
    """
    for update in updates:
        read_adapter(update.folder, *uses_at(base.config, bits, device().type))
    model = load_base(base, bits)
    for number, update in enumerate(updates):
        if update.grows:
            model.resize_token_embeddings(update.vocab, mean_resizing=False)
        model = _put_on(model, update)
        if number < len(updates) - 1:
            model = _merged(model)
    return model


def _put_on(model: Any, update: AdapterUpdate) -> Any:
    """An adapter on a model; embeddings that lie beside it untrained, as PEFT saves them, go into the model."""
    tensors, config = update.converted or read_adapter(update.folder, Use.MERGE)[:2]
    tensors = dict(tensors)
    config.base_model_name_or_path = model.name_or_path
    peft = get_peft_model(model, config)
    expected = set(get_peft_model_state_dict(peft, save_embedding_layers=False))
    for name in [name for name in tensors if name not in expected and name.endswith(".weight")]:
        module = name.removeprefix(PEFT_PREFIX).removesuffix(".weight").removesuffix(".base_layer")
        own_module(peft.get_base_model().get_submodule(module)).weight.data.copy_(tensors.pop(name))
    if odd := expected ^ set(tensors):
        raise UserError(
            f"PEFT does not take the adapter in {update.folder} as it is: {len(odd)} tensors differ, {min(odd)}."
        )
    set_peft_model_state_dict(peft, tensors)
    return peft


def _merged(peft: Any) -> Any:
    """The model with its adapter in the weights.

    PEFT 0.21 adds the update of a tied head and that of its embeddings to the one weight that they share: both at once
    would count twice. They are parted before, and are one again if they are still the same.
    """
    base = peft.get_base_model()
    head, embedding = (own_module(one) for one in (base.get_output_embeddings(), base.get_input_embeddings()))
    tied = head.weight is embedding.weight
    if tied:
        head.weight = nn.Parameter(embedding.weight.detach().clone(), requires_grad=False)
    model = peft.merge_and_unload()
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if tied and torch.allclose(head.weight, embedding.weight, rtol=0, atol=1e-6 * float(head.weight.abs().max())):
        head.weight = embedding.weight
    elif tied:
        model.config.tie_word_embeddings = False
    return model


def write_resized_base(base: Base, update: AdapterUpdate, folder: Path) -> Base:
    """The base with as many embeddings as an adapter brings, each new one the mean of the others; in `folder`.

    Args:
        update: the last adapter that brings embeddings.
    """
    folder.mkdir()
    tensors: dict[str, Any] = read_base_tensors(base.path, base.config)
    config = read_json(base.path / "config.json")
    config["vocab_size"] = update.vocab
    config.pop("quantization_config", None)
    for name in (EMBEDDING, HEAD):
        rows = tensors[name][0 : base.config.vocab_size].float()
        more = rows.mean(0).expand(update.vocab - len(rows), -1)
        tensors[name] = torch.cat([rows, more]).to(tensors[name].dtype)
    if base.config.tie_word_embeddings:
        del tensors[HEAD]
    return _write_base(base, folder, tensors, config, update.folder)


@dataclass(frozen=True)
class FloatTensor:
    """Rows of another tensor in float32."""

    of: LazyTensor
    dtype: torch.dtype = torch.float32

    @property
    def shape(self) -> torch.Size:
        return self.of.shape

    def __getitem__(self, rows: slice) -> torch.Tensor:
        return self.of[rows].float()


def write_dequantised_base(base: Base, folder: Path) -> Base:
    """The base whose weights bitsandbytes quantised with what they stand for in float32, as merges take them."""
    folder.mkdir()
    tensors = {name: FloatTensor(tensor) for name, tensor in read_base_tensors(base.path, base.config).items()}
    if base.config.tie_word_embeddings:
        del tensors[HEAD]
    config = read_json(base.path / "config.json")
    config.pop("quantization_config", None)
    return _write_base(base, folder, tensors, config, base.path)


def _write_base(base: Base, folder: Path, tensors: dict[str, Any], config: dict[str, Any], tokenizer: Path) -> Base:
    """A base of these tensors.

    Args:
        tokenizer: the folder that its tokenizer is taken from.
    """
    write_model(folder, tensors)
    write_text(folder / "config.json", json.dumps(config))
    base.generation_config.save_pretrained(folder)
    copy_tokenizer(tokenizer, folder)
    return check_base(str(folder))
