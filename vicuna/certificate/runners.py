"""Base + adapters by PEFT as the reference: it answers, and parts of the adapters can be left out."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from peft.helpers import rescale_adapter_scale
from peft.tuners.lora import LoraLayer

from vicuna.evaluation.runners import HFRunner


class PeftRunner(HFRunner):
    """Base + adapters by PEFT, of which parts can be left out: a decoder block, or a kind of layer, of the last one.

    Attributes:
        parts: their names.
    """

    def __init__(self, model: Any):
        super().__init__(model)
        self._layers: dict[str, list[LoraLayer]] = {}
        for name, module in model.named_modules():
            if isinstance(module, LoraLayer):
                block = re.search(r"\.(\d+)\.", name)
                for part in ([f"block {block[1]}"] if block else []) + [name.rsplit(".", 1)[-1]]:
                    self._layers.setdefault(part, []).append(module)
        self.parts = list(self._layers)

    @contextlib.contextmanager
    def without(self, part: str) -> Iterator[None]:
        """While it lasts, the model lacks a part of the last adapter."""
        with contextlib.ExitStack() as stack:
            for layer in self._layers[part]:
                stack.enter_context(rescale_adapter_scale(layer, 0.0))
            yield

    @torch.inference_mode()
    def greedy(self, ids: Sequence[int], count: int, ends: frozenset[int]) -> list[int]:
        """The `count` ids that follow, each the most likely one; fewer where one of `ends` is among them."""
        new: list[int] = []
        step, cache = list(ids), None
        while len(new) < count and not (new and new[-1] in ends):
            given = torch.tensor([step], device=self.model.device)
            out = self.model(given, past_key_values=cache, use_cache=True)
            step, cache = [int(out.logits[0, -1].argmax())], out.past_key_values
            new += step
        return new
