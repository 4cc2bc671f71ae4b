"""Models that the certificate runs, whatever opened them: ids in, logits out."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from peft.helpers import rescale_adapter_scale
from peft.tuners.lora import LoraLayer

from vicuna.gguf.reader import GGUFFile


class HFRunner:
    """A model of transformers."""

    def __init__(self, model: Any):
        self.model = model.eval()

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        """(T,) ids -> (T, V)."""
        return self.model(torch.tensor([list(ids)], device=self.model.device)).logits[0].float().cpu()

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


class LlamaCppRunner:
    """A GGUF model in llama.cpp, with one adapter or none; keys and values are not rounded."""

    def __init__(self, file: GGUFFile, context: int, lora: GGUFFile | None = None):
        from vicuna.answer.llama_cpp_context import LlamaContext
        from vicuna.gguf.library import load_llama_cpp

        kind = load_llama_cpp().GGML_TYPE_F32
        adapters = {"adapter": lora} if lora else {}
        self.loaded = LlamaContext(file, context, adapters, logits_all=True, type_k=kind, type_v=kind)
        self.adapter = next(iter(adapters), "")

    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        """(T,) ids -> (T, V)."""
        with self.loaded.using(self.adapter) as llama:
            llama.reset()
            llama.eval(list(ids))
            return torch.from_numpy(llama.scores[: len(ids)].copy())
