"""A Hugging Face model with its adapters, as what answers: every call runs in the worker."""

import contextlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.functional import normalize

from vicuna.answer.engine import Engine, GenerationRequest
from vicuna.answer.hf_batch import can_share_a_batch, generate_batch
from vicuna.answer.hf_generation import Generation
from vicuna.answer.prefix_cache import PrefixCache
from vicuna.answer.scoring import Scored, score_rows
from vicuna.answer.stream import GenerationResult, Streamer, is_out_of_memory
from vicuna.model.base import Base
from vicuna.model.context import depends_on_length

GIB = 1 << 30
EMBEDDED_TOKENS = 4096  # tokens of texts that are embedded at once
Done = TypeVar("Done")


class HFEngine(Engine):
    """A loaded base and the adapters on it, answering in every decoding mode.

    Args:
        model: the base, or the base with adapters by PEFT.
        adapters: name of a choice -> what PEFT knows the adapter by.
        cache_gib: most memory for what earlier prompts have in common with the next; 0 for none.
    """

    max_beams = 10

    def __init__(self, base: Base, model: Any, adapters: dict[str, str], cache_gib: float = 0):
        self.base, self.model, self.adapters = base, model, adapters
        self._plain = model.get_base_model() if adapters else model  # what generates; adapters lie within its layers
        self.tokenizer = base.tokenizer
        self.context, self.generation_config = base.context, base.generation_config
        self.at_once = depends_on_length(base.config, base.context)
        self.prefixes = PrefixCache(0 if self.at_once else int(cache_gib * GIB))

    def _generate(self, request: GenerationRequest, streamer: Streamer) -> GenerationResult:
        if request.chosen["do_sample"] and request.seed is None:
            request = replace(request, seed=secrets.randbelow(1 << 32))  # so that a second attempt draws the same
        generation = Generation(self._plain, request, self.prefixes, self.at_once)
        with self._using(request.adapter):
            return self._with_room(lambda: generation.run(streamer))

    def answers_together(self, chosen: dict[str, Any]) -> bool:
        return not self.at_once and can_share_a_batch(self.generation_config, chosen)

    def _generate_all(
        self, requests: Sequence[GenerationRequest], streamers: Sequence[Streamer]
    ) -> list[GenerationResult]:
        alone = len(requests) == 1 or any(request.stops for request in requests)
        if alone or not self.answers_together(requests[0].chosen):
            return super()._generate_all(requests, streamers)
        with self._using(requests[0].adapter):
            return self._with_room(lambda: generate_batch(self._plain, requests))

    def _embed(self, rows: Sequence[list[int]], adapter: str) -> list[list[float]]:
        with self._using(adapter):
            return self._with_room(lambda: mean_pooled_embeddings(self._plain.base_model, rows))

    def _score(self, rows: Sequence[list[int]], adapter: str, top: int) -> list[Scored]:
        with self._using(adapter):
            return self._with_room(lambda: score_rows(self._plain, rows, top, self.at_once))

    def _with_room(self, work: Callable[[], Done]) -> Done:
        """What `work` returns; when memory runs out, at a second attempt without the prefix cache."""
        try:
            return work()
        except Exception as error:
            if not (is_out_of_memory(error) and self.prefixes.clear()):
                raise
        return work()  # behind the handler, which would keep alive what the first attempt held

    def _using(self, adapter: str) -> contextlib.AbstractContextManager:
        """What holds while an answer with this adapter is made; entered in the worker."""
        if not self.adapters:
            return contextlib.nullcontext()
        if not adapter:
            return self.model.disable_adapter()
        self.model.set_adapter(self.adapters[adapter], inference_mode=True)
        return contextlib.nullcontext()


@torch.inference_mode()
def mean_pooled_embeddings(body: nn.Module, rows: Sequence[list[int]]) -> list[list[float]]:
    """The mean of the last hidden states of each row of ids, scaled to length 1.

    Args:
        body: the model without its head.
    """
    where = body.get_input_embeddings().weight.device
    found: dict[int, list[float]] = {}
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    while order:
        longest = len(rows[order[-1]])
        batch = [order.pop() for _ in range(min(len(order), max(1, EMBEDDED_TOKENS // longest)))]
        mask = torch.tensor([[1] * len(rows[i]) + [0] * (longest - len(rows[i])) for i in batch], device=where)
        ids = torch.tensor([rows[i] + [0] * (longest - len(rows[i])) for i in batch], device=where)
        states = body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.float()
        weights = mask.to(states.device)[..., None].float()
        means = (states * weights).sum(dim=1) / weights.sum(dim=1)
        found |= dict(zip(batch, normalize(means, dim=-1).tolist(), strict=True))
    return [found[i] for i in range(len(rows))]
