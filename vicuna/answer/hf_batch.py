"""Answers of a Hugging Face model to several prompts at once: each as the prompt is answered alone, rounding apart.

Prompts stand at the right, behind padding that no position counts and nothing looks at.
"""

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from vicuna.answer.decoding import SAMPLING_DEFAULTS, SAMPLING_ONLY
from vicuna.answer.engine import GenerationRequest
from vicuna.answer.hf_generation import eos_ids_of, until_eos
from vicuna.answer.kv_cache import PreallocatedCache
from vicuna.answer.stream import GenerationResult
from vicuna.foreign.odd_files import NEVER_RUN

# What a base's generation config may declare: with anything else its prompts are answered alone.
KNOWN = {
    *("max_new_tokens", "min_new_tokens", "max_length", "do_sample", "num_beams", *SAMPLING_ONLY, "repetition_penalty"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "suppress_tokens", "begin_suppress_tokens"),
    *("transformers_version", "_from_model_config", "use_cache", "cache_implementation"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
}


class StopTogether(StoppingCriteria):
    """Ends all rows once they are told to stop."""

    def __init__(self, stop: threading.Event | None):
        self.stop = stop

    @property
    def stopped(self) -> bool:
        return self.stop is not None and self.stop.is_set()

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:
        """(B, T) ids so far -> (B,) whether they end here."""
        return torch.full((len(input_ids),), self.stopped, dtype=torch.bool, device=input_ids.device)


class RowDraws(LogitsProcessor):
    """Draws each row's next token by a generator of its own, so that no other row has a say in it, and leaves no other.

    What `generate` would draw for the row alone, from the same seed.
    """

    def __init__(self, chosen: dict[str, Any], seeds: Sequence[int]):
        temperature, top_p, top_k = (chosen.get(name, default) for name, default in SAMPLING_DEFAULTS.items())
        self.warpers = LogitsProcessorList(
            [
                *([TemperatureLogitsWarper(temperature)] if temperature != 1 else []),
                *([TopKLogitsWarper(top_k)] if top_k else []),
                *([TopPLogitsWarper(top_p)] if top_p < 1 else []),
            ]
        )
        self.seeds = seeds
        self.generators: list[torch.Generator] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """(B, T) ids so far and (B, V) scores -> (B, V), of each row one that is not -inf."""
        if not self.generators:
            self.generators = [torch.Generator(scores.device).manual_seed(seed) for seed in self.seeds]
        shares = self.warpers(input_ids, scores).softmax(dim=-1)
        rows = zip(shares.split(1), self.generators, strict=True)
        drawn = torch.cat([torch.multinomial(row, 1, generator=generator) for row, generator in rows])
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)


def can_share_a_batch(declared: GenerationConfig, chosen: dict[str, Any]) -> bool:
    """Whether rows answered together are answered as they are alone: beams, and what looks at a whole row, is not."""
    return chosen["num_beams"] == 1 and set(declared.to_diff_dict()) <= KNOWN


@torch.inference_mode()
def generate_batch(model: nn.Module, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
    """The answers to several prompts, of the same settings but for their limits and seeds.

    Args:
        model: a causal language model, an adapter within it or not; the requests' is in use.
    """
    where = model.get_input_embeddings().weight.device
    width = max(len(request.prompt_ids) for request in requests)
    gaps = [width - len(request.prompt_ids) for request in requests]
    # With the row's own first id: what looks at ids and not at the mask sees none that is not there anyway.
    rows = [[request.prompt_ids[0]] * gap + request.prompt_ids for gap, request in zip(gaps, requests, strict=True)]
    mask = [[0] * gap + [1] * (width - gap) for gap in gaps]
    chosen, ends = requests[0].chosen, StopTogether(requests[0].stop)
    eos_ids = eos_ids_of(model)
    settings = {name: value for name, value in chosen.items() if name not in (*SAMPLING_ONLY, "do_sample")}
    for name in ("max_new_tokens", "min_new_tokens"):
        settings[name] = max(request.chosen[name] for request in requests)
    draws = [RowDraws(chosen, [request.seed for request in requests])] if chosen["do_sample"] else []
    sequences = model.generate(
        input_ids=torch.tensor(rows, device=where),
        attention_mask=torch.tensor(mask, device=where),
        past_key_values=PreallocatedCache(model.config),
        **{"cache_implementation": None, "use_cache": True},  # whatever the base declares: ours is in use
        **settings,
        do_sample=False,  # `generate` draws for all rows with one generator
        pad_token_id=min(eos_ids),
        logits_processor=LogitsProcessorList(draws),
        stopping_criteria=StoppingCriteriaList([ends]),
        return_dict_in_generate=True,  # whatever the base declares
        **NEVER_RUN,
    ).sequences
    # A row that has less room than others runs on with them, which costs nothing.
    limits = [request.chosen["max_new_tokens"] for request in requests]
    answers = zip(sequences[:, width:].tolist(), limits, strict=True)
    stopped = ends.stopped
    return [GenerationResult([until_eos(ids[:limit], eos_ids)], [None], eos_ids, stopped) for ids, limit in answers]
