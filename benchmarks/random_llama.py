"""A LLaMA of random weights, quantised as the product's, and real training steps on it: no files, no network.

Needs torch, transformers, peft and bitsandbytes alone. benchmarks/gpu.py times it, tests/gpu/ checks it.
"""

from dataclasses import dataclass
from typing import Any

import bitsandbytes as bnb
import torch
from peft import prepare_model_for_kbit_training
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, PreTrainedModel

from vicuna.model.base import checkpointing_kwargs, load_kwargs
from vicuna.model.config import meta_model
from vicuna.prompt.templates import IGNORE_INDEX
from vicuna.train.batches import collate
from vicuna.train.loss import step_loss
from vicuna.train.row_attention import attend_to_rows
from vicuna.train.sharing import Operations


def random_base(shape: dict[str, int], bits: int, dtype: torch.dtype, where: torch.device) -> PreTrainedModel:
    """A base ready for an adapter, as load_base and finetune.py make it, with activation checkpointing.

    Layers are made and quantised one at a time, on the device: there is never more than one in 16 bits.

    Args:
        shape: sizes, by the names of LlamaConfig.
        dtype: what activations are computed in.
    """
    config = LlamaConfig(**shape, max_position_embeddings=2048, use_cache=False)
    model = meta_model(config)
    head = model.get_output_embeddings()
    for name, layer in list(model.named_modules()):
        if bits < 16 and isinstance(layer, nn.Linear) and layer is not head:
            model.set_submodule(name, quantised(random_weight(layer.weight.shape, dtype, where), bits, dtype))
    for name, parameter in list(model.named_parameters()):
        if parameter.is_meta:
            owner, _, leaf = name.rpartition(".")
            made = random_weight(parameter.shape, dtype, where)
            if parameter.dim() == 1:  # a norm
                made.fill_(1)
            setattr(model.get_submodule(owner), leaf, nn.Parameter(made, requires_grad=False))
    with where:
        model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its buffers are computed, not loaded
    attend_to_rows(model)
    if bits < 16:
        setattr(model, f"is_loaded_in_{bits}bit", True)  # as from_pretrained does; PEFT reads it
        return prepare_model_for_kbit_training(model, True, checkpointing_kwargs(bits))
    model.activation_checkpointing_enable(checkpointing_kwargs(bits))
    return model


def random_weight(shape: torch.Size, dtype: torch.dtype, where: torch.device) -> torch.Tensor:
    """(out, in) normal values of LLaMA's initial deviation."""
    return torch.empty(shape, dtype=dtype, device=where).normal_(std=0.02)


def quantised(weight: torch.Tensor, bits: int, dtype: torch.dtype) -> nn.Module:
    """A layer of bitsandbytes that holds `weight`, (out, in), quantised where it lies with the product's settings."""
    outside, inside = weight.shape
    settings = load_kwargs(bits, dtype)["quantization_config"]
    if bits == 4:
        layer = bnb.nn.Linear4bit(
            inside, outside, False, settings.bnb_4bit_compute_dtype, settings.bnb_4bit_use_double_quant,
            settings.bnb_4bit_quant_type, settings.bnb_4bit_quant_storage, device="meta",
        )  # fmt: skip
        layer.weight = bnb.nn.Params4bit(
            weight, requires_grad=False, compress_statistics=settings.bnb_4bit_use_double_quant,
            quant_type=settings.bnb_4bit_quant_type, quant_storage=settings.bnb_4bit_quant_storage, module=layer,
        ).to(weight.device)  # fmt: skip
        return layer
    layer = bnb.nn.Linear8bitLt(
        inside, outside, False, settings.llm_int8_has_fp16_weight, settings.llm_int8_threshold, device="meta"
    )
    # Int8Params quantises by itself only what comes from the CPU.
    rows, scales, _ = bnb.functional.int8_vectorwise_quant(weight.to(torch.float16))
    layer.weight = bnb.nn.Int8Params(rows, requires_grad=False, CB=rows, SCB=scales)
    return layer


def set_dtypes(base: PreTrainedModel, compute: torch.dtype, rest: torch.dtype) -> None:
    """Compute dtype of the 4-bit layers, and dtype of what is not quantised."""
    for module in base.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.compute_dtype = compute
    for parameter in base.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(rest)


def weight_bytes(model: nn.Module) -> int:
    """What parameters take, with the scales of quantised ones."""
    total = 0
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            parts = [parameter, getattr(parameter, "SCB", None), getattr(getattr(module, "state", None), "SCB", None)]
            if (state := getattr(parameter, "quant_state", None)) is not None:
                parts += [state.absmax, state.state2.absmax if state.nested else None]
            total += sum(part.numel() * part.element_size() for part in parts if part is not None)
    return total


def random_rows(
    rows: int, tokens: int, vocabulary: int, common: int = 0, packed: bool = False
) -> list[dict[str, list[int]]]:
    """Rows of `tokens` random tokens; the second half of each is supervised.

    Args:
        common: tokens that all begin with; packed: rows of half of the tokens up to all, evenly.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, vocabulary, (rows, tokens), generator=generator)
    ids[:, :common] = ids[0, :common]
    lengths = [tokens - (tokens // 2 * i // max(rows - 1, 1) if packed else 0) for i in range(rows)]
    whole = [row[:length] for row, length in zip(ids.tolist(), lengths, strict=True)]
    halves = [max(len(row) // 2, common) for row in whole]
    return [
        {"input_ids": row, "labels": [IGNORE_INDEX] * half + row[half:]}
        for row, half in zip(whole, halves, strict=True)
    ]


def random_batch(rows: int, tokens: int, vocabulary: int, where: torch.device) -> dict[str, Any]:
    """A micro batch of rows of equal length that have nothing in common."""
    return batch_of(random_rows(rows, tokens, vocabulary), where)


def batch_of(rows: list[dict[str, Any]], where: torch.device, operations: Operations | None = None) -> dict[str, Any]:
    """A micro batch, laid into one another where that takes fewer `operations`."""
    batch = collate(rows, operations)
    return {name: value.to(where) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


@dataclass
class Steps:
    """Optimizer steps of one micro batch, always the same.

    Attributes:
        dtype: of autocast; with float16 the loss is scaled, as the Trainer does with fp16.
        full_logits: compute the head over every position, as a plain loss has it.
        skipped: steps that the scaler left out because a gradient was not finite.
    """

    model: nn.Module
    batch: dict[str, Any]
    dtype: torch.dtype
    full_logits: bool = False
    learning_rate: float = 3e-4
    skipped: int = 0

    def __post_init__(self) -> None:
        self.device_type = self.batch["input_ids"].device.type
        self.trainable = [value for value in self.model.parameters() if value.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trainable, lr=self.learning_rate)
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=self.dtype is torch.float16)

    def loss(self) -> torch.Tensor:
        """Mean over the supervised tokens."""
        inputs = dict(self.batch)
        labels, predicted_by = inputs.pop("labels"), inputs.pop("predicted_by", None)
        tokens = (labels[:, 1:] != IGNORE_INDEX).sum()
        with torch.autocast(self.device_type, self.dtype, enabled=self.dtype is not torch.float32):
            if not self.full_logits:
                return step_loss(self.model(**inputs), labels, tokens, predicted_by)
            inputs.pop("logits_to_keep")
            logits = self.model(**inputs).logits[:, :-1].float().flatten(0, 1)
            return cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX, reduction="sum") / tokens

    def step(self) -> float:
        """Take a step; the loss before it."""
        loss = self.loss()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.trainable, 1.0)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.skipped += self.scaler.get_scale() < scale
        self.optimizer.zero_grad()
        return loss.item()

    def settle(self) -> list[float]:
        """Step until one was not skipped, at most 20 times: the scale of the loss starts too high. The losses."""
        losses = [self.step()]
        while self.skipped == len(losses) < 20:
            losses.append(self.step())
        return losses
