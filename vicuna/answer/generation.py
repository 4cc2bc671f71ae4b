"""One answer of a Hugging Face model: `model.generate` with public hooks, which look on and end it but change nothing.

A prompt is computed in chunks before `generate` takes over, so that it can be ended there too, and so that the beams of
a search share it. What a `PrefixCache` still has of it is not computed at all; afterwards the cache gets what is new.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    set_seed,
)

from vicuna.answer.detokenize import Detokenizer
from vicuna.answer.kv_cache import RowCache
from vicuna.answer.prefix_cache import PrefixCache, common
from vicuna.answer.stream import NOTHING, Generated, Run, out_of_memory

CHUNK = 256  # tokens of a prompt between two looks at whether the answer is still wanted
TOGETHER = 4096  # tokens of texts that are embedded at once
NO_BEAM = -1e9  # the score `generate` gives the rows that are no beams yet


class LastToken(StoppingCriteria):
    """Shows an answer after every token, and ends it when it is told to or a text that ends answers appears."""

    def __init__(self, run: Run, eos_ids: set[int]):
        self.run, self.eos_ids = run, eos_ids
        self.ids: list[int] = []
        self.texts = Detokenizer(run.tokenizer)

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:
        """(1, T) ids so far -> (1,) whether they end here."""
        self.ids.append(int(input_ids[0, -1]))
        ended = self.run.stopped or bool(self.run.stops and self.run.stops.find(self.texts.of(self.ids)) >= 0)
        if not ended and self.ids[-1] not in self.eos_ids:
            self.run.show([list(self.ids)], [None])
        return torch.full((1,), ended, dtype=torch.bool, device=input_ids.device)


class Beams(LogitsProcessor):
    """Shows the running beams before every step but the first, best first; changes no score.

    Attributes:
        ids: of each row; totals: what the search has added up for it.
        scores: (K, V) of the last step, every processor applied.
    """

    def __init__(self, run: Run, cache: RowCache, count: int):
        self.run, self.cache = run, cache
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
            self.run.show([self.ids[i] for i in best], [self.totals[i] for i in best])
        return scores

    def cached(self, best: list[int]) -> tuple[int, list[int]]:
        """The row of the cache that shares most with the `best` answer, and the shared ids."""
        order = self.cache.order.tolist() if self.cache.order is not None else range(len(self.ids))
        shared = [common(self.ids[row], best) for row in order]
        row = max(range(len(shared)), key=shared.__getitem__)
        return row, best[: shared[row]]


class BeamEnds(StoppingCriteria):
    """Ends beams in which a text that ends answers appears, and all of them once the run is told to stop."""

    def __init__(self, run: Run, beams: Beams, prompt_len: int):
        self.run, self.beams, self.prompt_len = run, beams, prompt_len
        self.texts: Detokenizer | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: tuple[torch.Tensor, ...], **kwargs: Any) -> torch.Tensor:
        """(C, T) ids of candidates, of which the best will run on -> (C,) whether they end here."""
        if len(scores) > 1:
            # `generate` gives the beams' final scores only to who has it keep all scores, which can be gigabytes; they
            # are asked for here, and read by nobody but `beams`, a step later.
            scores[-2].untyped_storage().resize_(0)
        self.beams.scores = scores[-1]
        if self.run.stops and not self.run.stopped:
            self.texts = self.texts or Detokenizer(self.run.tokenizer, 2 * len(input_ids))
            rows = input_ids[:, self.prompt_len :].tolist()
            ended = [self.run.stops.find(self.texts.of(row)) >= 0 for row in rows]
            return torch.tensor(ended, device=input_ids.device)
        return torch.full((len(input_ids),), self.run.stopped, dtype=torch.bool, device=input_ids.device)


@dataclass
class Answer:
    """An answer in the making.

    Args:
        model: a causal language model, an adapter within it or not.
        prompt_ids: BOS included.
        chosen: generate()'s arguments.
        seed: fixes what sampling draws.
        prefixes: what is left of earlier prompts; adapter: the one in use, for which alone it holds.
    """

    model: nn.Module
    prompt_ids: list[int]
    chosen: dict[str, Any]
    seed: int | None
    prefixes: PrefixCache
    adapter: str
    eos_ids: set[int] = field(init=False)

    def __post_init__(self) -> None:
        eos = self.model.generation_config.eos_token_id
        self.eos_ids = set(eos if isinstance(eos, list) else [eos])
        self.beams = self.chosen["num_beams"]

    @torch.inference_mode()
    def make(self, run: Run) -> Generated:
        """Generate, showing every step to `run`; the prefix cache learns what was computed, also when this fails."""
        cache = RowCache(self.model.config)
        try:
            if not self._prefill(cache, run):
                self.prefixes.keep(self.adapter, self.prompt_ids, cache)
                return NOTHING
            return self._search(cache, run) if self.beams > 1 else self._single(cache, run)
        except Exception as error:
            if not out_of_memory(error):
                with contextlib.suppress(RuntimeError):  # a device that has failed for good, say
                    self.prefixes.keep(self.adapter, self.prompt_ids, cache)
            raise

    def _prefill(self, cache: RowCache, run: Run) -> bool:
        """Compute all of the prompt but its last chunk, or last token before a search; False once told to stop."""
        known = self.prefixes.fill(cache, self.adapter, self.prompt_ids[:-1])
        rest = 1 if self.beams > 1 else CHUNK
        until = max(known, len(self.prompt_ids) - rest)
        prompt = self._tensor(self.prompt_ids)
        for begin in range(known, until, CHUNK):
            if run.stopped:
                return False
            chunk = prompt[:, begin : min(begin + CHUNK, until)]
            self.model.base_model(input_ids=chunk, past_key_values=cache, use_cache=True)
        return not run.stopped

    def _tensor(self, ids: list[int]) -> torch.LongTensor:
        """(1, T), where the embedding lies."""
        return torch.tensor([ids], device=self.model.get_input_embeddings().weight.device)

    def _single(self, cache: RowCache, run: Run) -> Generated:
        """Greedy or sampling."""
        ends = StoppingCriteriaList([LastToken(run, self.eos_ids)])
        sequence = self._generate(cache, stopping_criteria=ends).sequences[0].tolist()
        stopped = run.stopped
        self.prefixes.keep(self.adapter, sequence, cache)
        return Generated([sequence[len(self.prompt_ids) :]], [None], self.eos_ids, stopped)

    def _search(self, cache: RowCache, run: Run) -> Generated:
        """Beam search or beam sampling."""
        cache.batch_repeat_interleave(self.beams)
        beams = Beams(run, cache, self.beams)
        output = self._generate(
            cache,
            logits_processor=LogitsProcessorList([beams]),
            stopping_criteria=StoppingCriteriaList([BeamEnds(run, beams, len(self.prompt_ids))]),
            num_return_sequences=self.beams,
            output_scores=True,
        )
        stopped = run.stopped
        answers = [self._until_eos(row) for row in output.sequences[:, len(self.prompt_ids) :].tolist()]
        row, ids = beams.cached(answers[0])
        self.prefixes.keep(self.adapter, self.prompt_ids + ids, cache, row)
        return Generated(answers, output.sequences_scores.tolist(), self.eos_ids, stopped)

    def _generate(self, cache: RowCache, **hooks: Any) -> Any:
        if self.seed is not None:
            set_seed(self.seed)
        prompt = self._tensor(self.prompt_ids)
        return self.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            past_key_values=cache,
            **{"cache_implementation": None, "use_cache": True},  # whatever the base declares: ours is in use
            **self.chosen,
            pad_token_id=min(self.eos_ids),
            return_dict_in_generate=True,
            **hooks,
        )

    def _until_eos(self, ids: list[int]) -> list[int]:
        """The ids up to and including the first eos; what follows is padding."""
        end = next((i for i, token in enumerate(ids) if token in self.eos_ids), len(ids) - 1)
        return ids[: end + 1]


@torch.inference_mode()
def vectors(body: nn.Module, rows: Sequence[list[int]]) -> list[list[float]]:
    """The mean of the last hidden states of each row of ids, scaled to length 1.

    Args:
        body: the model without its head.
    """
    where = body.get_input_embeddings().weight.device
    found: dict[int, list[float]] = {}
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    while order:
        longest = len(rows[order[-1]])
        batch = [order.pop() for _ in range(min(len(order), max(1, TOGETHER // longest)))]
        mask = torch.tensor([[1] * len(rows[i]) + [0] * (longest - len(rows[i])) for i in batch], device=where)
        ids = torch.tensor([rows[i] + [0] * (longest - len(rows[i])) for i in batch], device=where)
        states = body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.float()
        weights = mask.to(states.device)[..., None].float()
        means = (states * weights).sum(dim=1) / weights.sum(dim=1)
        found |= dict(zip(batch, normalize(means, dim=-1).tolist(), strict=True))
    return [found[i] for i in range(len(rows))]
