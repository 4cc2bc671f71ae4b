"""Base + adapters by PEFT's own means, which the merged weights are compared with; and the base alone beside them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

from vicuna.errors import UserError
from vicuna.export.meta_layout import EMBEDDING, HEAD
from vicuna.export.updates import AdapterUpdate
from vicuna.files.json_files import read_json
from vicuna.files.tensors import write_model
from vicuna.model.adapter_files import PEFT_PREFIX, read_adapter
from vicuna.model.base import Base, check_base, load_base
from vicuna.model.base_tensors import read_base_tensors
from vicuna.train.checkpoint import write_text
from vicuna.train.trainable import copy_tokenizer


def load_with_adapters(base: Base, updates: Sequence[AdapterUpdate], bits: int) -> Any:
    """The base with the adapters by PEFT, each but the last merged into the weights before the next is put on.

    Raises:
        UserError: see `vicuna.model.base.load_base`.
    """
    model = load_base(base, bits)
    for number, update in enumerate(updates):
        if update.grows:
            model.resize_token_embeddings(update.vocab, mean_resizing=False)
        model = _put_on(model, update.folder)
        if number < len(updates) - 1:
            model = model.merge_and_unload()
    return model


def _put_on(model: Any, folder: Path) -> Any:
    """An adapter on a model; embeddings that lie beside it untrained, as PEFT saves them, go into the model."""
    tensors, config, _ = read_adapter(folder)
    config.base_model_name_or_path = model.name_or_path
    named = set(config.modules_to_save or ())
    beside = {name for name in tensors if "lora_" not in name and name.split(".")[-2] not in named}
    beside |= {name for name in tensors if ".base_layer." in name}
    weights = model.state_dict()
    for name in beside:
        weights[name.removeprefix(PEFT_PREFIX).replace(".base_layer.", ".")].copy_(tensors.pop(name))
    peft = get_peft_model(model, config)
    if odd := set(get_peft_model_state_dict(peft, save_embedding_layers=False)) ^ set(tensors):
        raise UserError(f"PEFT does not take the adapter in {folder} as it is: {len(odd)} tensors differ, {min(odd)}.")
    set_peft_model_state_dict(peft, tensors)
    return peft


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
    write_model(folder, tensors)
    write_text(folder / "config.json", json.dumps(config))
    base.generation_config.save_pretrained(folder)
    copy_tokenizer(update.folder, folder)
    return check_base(str(folder))
