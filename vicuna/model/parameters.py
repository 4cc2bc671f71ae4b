"""How many parameters a run trains, and what the others take in memory; counted without weights."""

import copy
from dataclasses import dataclass

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import nn

from vicuna.model.adapter_names import row_indices
from vicuna.model.gptq import keep_peft_silent
from vicuna.model.targets import check_targets


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters: trainable ones, those of the linear layers bitsandbytes quantises, those of the base that
    stay as they are, and all: of a table that is trained, the base's own is not counted.

    `saved` are those in an adapter's file: PEFT's holds embeddings that are the head too under both names, and asks for
    both. `whole_modules` are the names of what is trained beside LoRA's matrices; `row_modules` of what some rows are
    trained of, and `rows` how many of each.
    """

    trainable: int
    quantisable: int
    frozen: int
    total: int
    saved: int
    whole_modules: tuple[str, ...] = ()
    row_modules: tuple[str, ...] = ()
    rows: int = 0

    def weight_bytes(self, bits: int, dtype: torch.dtype) -> float:
        """What the frozen weights take. On a quantised base all but the linear layers is float32 while training."""
        if bits >= 16:
            return self.frozen * dtype.itemsize
        return self.quantisable * bits / 8 + (self.frozen - self.quantisable) * torch.float32.itemsize


def count_parameters(skeleton: nn.Module, config: LoraConfig | None) -> ParameterCounts:
    """Count with a new adapter on top, or with every weight trained; `skeleton` has no weights and is used up.

    Raises:
        UserError: target modules the base does not have.
    """
    keep_peft_silent()
    layers = {name: layer for name, layer in skeleton.named_modules() if isinstance(layer, nn.Linear)}
    names = {name.rsplit(".", 1)[-1] for name in layers}
    if config is None:
        total = skeleton.num_parameters()
        return ParameterCounts(total, 0, 0, total, total)
    if not isinstance(config.target_modules, str) and set(config.target_modules) - names:
        check_targets(skeleton.config, config.target_modules)
    head = skeleton.get_output_embeddings()
    quantisable = sum(layer.weight.numel() for layer in layers.values() if layer is not head)
    whole_modules = tuple(config.modules_to_save or ())  # PEFT adds to the list where the head is tied
    rows = row_indices(config)
    frozen = skeleton.num_parameters()
    config = copy.copy(config)
    config.inference_mode = False  # as the config of a saved adapter is not
    model = get_peft_model(skeleton, config)
    trainable, _ = model.get_nb_trainable_parameters()
    # PEFT keeps the base's own table below a trained copy of it.
    matrices = sum(one.numel() for name, one in model.named_parameters() if ".lora_" in name)
    saved = sum(one.numel() for one in get_peft_model_state_dict(model, save_embedding_layers=False).values())
    count = max(map(len, rows.values()), default=0)
    return ParameterCounts(trainable, quantisable, frozen, frozen + matrices, saved, whole_modules, tuple(rows), count)
