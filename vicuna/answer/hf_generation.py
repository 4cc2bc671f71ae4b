"""One answer of a Hugging Face model: `model.generate` with public hooks, which look on and end it but change nothing.

A prompt is computed in chunks before `generate` takes over, so that it can be ended there too, and so that the beams of
a search share it. What a `PrefixCache` still has of it is not computed at all; afterwards the cache gets what is new.
"""

import contextlib
from typing import Any

import torch
from torch import nn
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    set_seed,
)

from vicuna.answer.detokenize import Detokenizer
from vicuna.answer.engine import GenerationRequest
from vicuna.answer.kv_cache import PreallocatedCache
from vicuna.answer.prefix_cache import PrefixCache, common_prefix_length
from vicuna.answer.stream import EMPTY_RESULT, GenerationResult, Streamer, is_out_of_memory
from vicuna.foreign.odd_files import NEVER_RUN

CHUNK = 256  # tokens of a prompt between two looks at whether the answer is still wanted
NO_BEAM = -1e9  # the score `generate` gives the rows that are no beams yet


class StreamingCriteria(StoppingCriteria):
    """Shows an answer after every token, and ends it when it is told to or a text that ends answers appears."""

    def __init__(self, streamer: Streamer, eos_ids: set[int]):
        self.streamer, self.eos_ids = streamer, eos_ids
        self.ids: list[int] = []
        self.texts = Detokenizer(streamer.tokenizer)

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:
        """(1, T) ids so far -> (1,) whether they end here."""
        self.ids.append(int(input_ids[0, -1]))
        ended = self.streamer.ends(self.ids, self.texts)
        if not ended and self.ids[-1] not in self.eos_ids:
            self.streamer.put([list(self.ids)], [None])
        return torch.full((1,), ended, dtype=torch.bool, device=input_ids.device)


class BeamTracker(LogitsProcessor):
    """Shows the running beams before every step but the first, best first; changes no score.

    Attributes:
        ids: of each row; totals: what the search has added up for it.
        scores: (K, V) of the last step, every processor applied.
    """

    def __init__(self, streamer: Streamer, cache: PreallocatedCache, count: int):
        self.streamer, self.cache = streamer, cache
        self.ids: list[list[int]] = [[] for _ in range(count)]
        self.totals = [0.0] + [NO_BEAM] * (count - 1)
        self.scores: torch.Tensor | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """(K, T) ids so far and (K, V) scores -> the same scores."""
        order, self.cache.order = self.cache.order, None
        if order is not None:
            tokens = input_ids[:, -1]
            # One transfer from the device; float32 holds every id below 2**24.
            table = torch.stack([order.float(), tokens.float(), self.scores[order, tokens].float()]).tolist()
            rows = [(int(row), int(token), gain) for row, token, gain in zip(*table, strict=True)]
            self.ids, self.totals = (
                [[*self.ids[row], token] for row, token, _ in rows],
                [self.totals[row] + gain for row, _, gain in rows],
            )
            best = sorted(range(len(rows)), key=lambda i: -self.totals[i])
            self.streamer.put([self.ids[i] for i in best], [self.totals[i] for i in best])
        return scores

    def cached(self, best: list[int]) -> tuple[int, list[int]]:
        """The row of the cache that shares most with the `best` answer, and the shared ids."""
        order = self.cache.order.tolist() if self.cache.order is not None else range(len(self.ids))
        shared = [common_prefix_length(self.ids[row], best) for row in order]
        row = max(range(len(shared)), key=shared.__getitem__)
        return row, best[: shared[row]]


class BeamStoppingCriteria(StoppingCriteria):
    """Ends beams in which a text that ends answers appears, and all of them once it is told to stop."""

    def __init__(self, streamer: Streamer, beams: BeamTracker, prompt_len: int):
        self.streamer, self.beams, self.prompt_len = streamer, beams, prompt_len
        self.texts: Detokenizer | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: tuple[torch.Tensor, ...], **kwargs: Any) -> torch.Tensor:
        """(C, T) ids of candidates, of which the best will run on -> (C,) whether they end here."""
        if len(scores) > 1:
            # `generate` gives the beams' final scores only to who has it keep all scores, which can be gigabytes; they
            # are asked for here, and read by nobody but `beams`, a step later.
            scores[-2].untyped_storage().resize_(0)
        self.beams.scores = scores[-1]
        if self.streamer.stops and not self.streamer.stopped:
            self.texts = self.texts or Detokenizer(self.streamer.tokenizer, 2 * len(input_ids))
            rows = input_ids[:, self.prompt_len :].tolist()
            ended = [self.streamer.ends_in(row, self.texts) for row in rows]
            return torch.tensor(ended, device=input_ids.device)
        return torch.full((len(input_ids),), self.streamer.stopped, dtype=torch.bool, device=input_ids.device)


class Generation:
    """An answer in the making.

    Args:
        model: a causal language model, an adapter within it or not; the request's is in use.
        prefixes: what is left of earlier prompts; what an adapter left holds for it alone.
        at_once: the prompt is left to `generate`, for keys depend on how long the text is.
    """

    def __init__(self, model: nn.Module, request: GenerationRequest, prefixes: PrefixCache, at_once: bool = False):
        self.at_once = at_once
        self.model, self.request, self.prefixes = model, request, prefixes
        self.prompt_ids, self.beams = request.prompt_ids, request.chosen["num_beams"]
        self.eos_ids = eos_ids_of(model)

    @torch.inference_mode()
    def run(self, streamer: Streamer) -> GenerationResult:
        """Generate, every step shown to `streamer`; the prefix cache learns what was computed, also when this fails."""
        cache = PreallocatedCache(self.model.config)
        try:
            if not self._prefill(cache, streamer):
                self.prefixes.keep(self.request.adapter, self.prompt_ids, cache)
                return EMPTY_RESULT
            return self._search(cache, streamer) if self.beams > 1 else self._single(cache, streamer)
        except Exception as error:
            if not is_out_of_memory(error):
                with contextlib.suppress(RuntimeError):  # a device that has failed for good, say
                    self.prefixes.keep(self.request.adapter, self.prompt_ids, cache)
            raise

    def _prefill(self, cache: PreallocatedCache, streamer: Streamer) -> bool:
        """Compute all of the prompt but its last chunk, or last token before a search; False once told to stop."""
        if self.at_once:
            # A dynamic RoPE keeps the frequencies of the longest text so far until it sees a short one.
            self.model.base_model(input_ids=self._tensor(self.prompt_ids[:1]), use_cache=False)
            return not streamer.stopped
        known = self.prefixes.fill(cache, self.request.adapter, self.prompt_ids[:-1])
        rest = 1 if self.beams > 1 else CHUNK
        until = max(known, len(self.prompt_ids) - rest)
        prompt = self._tensor(self.prompt_ids)
        for begin in range(known, until, CHUNK):
            if streamer.stopped:
                return False
            chunk = prompt[:, begin : min(begin + CHUNK, until)]
            self.model.base_model(input_ids=chunk, past_key_values=cache, use_cache=True)
        return not streamer.stopped

    def _tensor(self, ids: list[int]) -> torch.LongTensor:
        """(1, T), where the embedding lies."""
        return torch.tensor([ids], device=self.model.get_input_embeddings().weight.device)

    def _single(self, cache: PreallocatedCache, streamer: Streamer) -> GenerationResult:
        """Greedy or sampling."""
        ends = StoppingCriteriaList([StreamingCriteria(streamer, self.eos_ids)])
        sequence = self._generate(cache, stopping_criteria=ends).sequences[0].tolist()
        stopped = streamer.stopped
        self.prefixes.keep(self.request.adapter, sequence, cache)
        return GenerationResult([sequence[len(self.prompt_ids) :]], [None], self.eos_ids, stopped)

    def _search(self, cache: PreallocatedCache, streamer: Streamer) -> GenerationResult:
        """Beam search or beam sampling."""
        if not self.at_once:
            cache.batch_repeat_interleave(self.beams)
        beams = BeamTracker(streamer, cache, self.beams)
        output = self._generate(
            cache,
            logits_processor=LogitsProcessorList([beams]),
            stopping_criteria=StoppingCriteriaList([BeamStoppingCriteria(streamer, beams, len(self.prompt_ids))]),
            num_return_sequences=self.beams,
            output_scores=True,
        )
        stopped = streamer.stopped
        answers = [until_eos(row, self.eos_ids) for row in output.sequences[:, len(self.prompt_ids) :].tolist()]
        row, ids = beams.cached(answers[0])
        self.prefixes.keep(self.request.adapter, self.prompt_ids + ids, cache, row)
        return GenerationResult(answers, output.sequences_scores.tolist(), self.eos_ids, stopped)

    def _generate(self, cache: PreallocatedCache, **hooks: Any) -> Any:
        if self.request.seed is not None:
            set_seed(self.request.seed)
        prompt = self._tensor(self.prompt_ids)
        return self.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            past_key_values=cache,
            **{"cache_implementation": None, "use_cache": True},  # whatever the base declares: ours is in use
            **self.request.chosen,
            pad_token_id=min(self.eos_ids),
            return_dict_in_generate=True,
            **hooks,
            **NEVER_RUN,
        )


def eos_ids_of(model: nn.Module) -> set[int]:
    """The ids that end an answer."""
    eos = model.generation_config.eos_token_id
    return set(eos if isinstance(eos, list) else [eos])


def until_eos(ids: list[int], eos_ids: set[int]) -> list[int]:
    """The ids up to and including the first eos; what follows is padding."""
    end = next((i for i, token in enumerate(ids) if token in eos_ids), len(ids) - 1)
    return ids[: end + 1]
