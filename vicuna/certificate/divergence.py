"""How far a model is from another one on fixed texts.

The reference is base + adapters in float32. Its logits are kept; every other model is run on the same ids by itself,
so that memory holds one model at a time.
"""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

import torch
from tqdm import tqdm

from vicuna.errors import printable
from vicuna.evaluation.likelihood import kl_divergence, perplexity, token_nll

TOP_TOKENS = 64  # tokens a place, whose logits are looked at for the effect of the adapters
PART_TOKENS = 400  # of texts, on which parts of the adapters are looked for
# What is smaller is the rounding of float32 and counts as nothing: nats and shares, and nats of a KL divergence.
ROUNDING, KL_ROUNDING = 1e-5, 1e-9


class Model(Protocol):
    """What can be compared."""

    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        """(T,) ids -> (T, V) float32 logits of what follows each."""


class ReferenceModel(Model, Protocol):
    """What can be the reference: base + adapters.

    Attributes:
        parts: names of what of the adapters can be left out.
    """

    parts: list[str]

    def without(self, part: str) -> AbstractContextManager:
        """While it lasts, the model lacks a part of the adapters."""

    def greedy(self, ids: Sequence[int], count: int, ends: frozenset[int]) -> list[int]:
        """The `count` ids that follow, each the most likely one; fewer where one of `ends` is among them."""


@dataclass(frozen=True)
class Divergence:
    """How far a model is from the reference.

    Attributes:
        kl: Kullback-Leibler divergence of its next-token probabilities from the reference's, nats a token.
        other_top: share of places where another token is the most likely one.
        perplexity: of the texts, by this model.
        prefix: length of the greedy answers that it has in common with the reference, tokens a prompt.
        gap: by how much less likely the reference holds the token by which an answer departs, nats, the largest.
        effect: share of what the adapters change that it shows beside its control, of all and of each part: 1 is
            all of it, 0 nothing.
        finite: whether every logit is a number.
        tokens: places that were looked at; size: how far each part moves the logits at all of them, squared and
            weighted with the tokens' probabilities.
    """

    kl: float
    other_top: float
    perplexity: float
    prefix: tuple[int, ...]
    gap: float
    effect: dict[str, float]
    finite: bool
    tokens: int
    size: dict[str, float]

    @property
    def weakest(self) -> tuple[str, float]:
        """The part of the adapters whose effect is furthest from whole, and its share."""
        return max(list(self.effect.items())[1:] or [("all", self.effect["all"])], key=lambda one: abs(1 - one[1]))


@dataclass
class Part:
    """Something of what the adapters change, such as a decoder block's share of it.

    Its direction is how it moves the logits of the likeliest tokens; of a model that lacks it, the logits fall short
    in this direction, whatever else its precision does to them.

    Attributes:
        weights: (T, K) of each text that it was looked for in, the direction with the tokens' probabilities.
        own: how far the reference is along it from the reference without this part.
        apart: the same from the base alone.
    """

    name: str
    weights: list[torch.Tensor] = field(default_factory=list)
    own: float = 0.0
    apart: float = 0.0


@dataclass
class Reference:
    """Base + adapters in float32 on the fixed texts.

    Attributes:
        texts: ids that are forced upon every model.
        prompts: ids of prompts; answers: what the reference greedily answers to each.
        logits: (T, V) of each text, then (N, V) of each answer.
        parts: of what the adapters change; the first is all of it.
    """

    texts: list[list[int]]
    prompts: list[list[int]]
    answers: list[list[int]]
    logits: list[torch.Tensor]
    parts: list[Part] = field(default_factory=lambda: [Part("all")])

    @property
    def rows(self) -> list[list[int]]:
        """The ids that every model is run on."""
        return [*self.texts, *(prompt + answer for prompt, answer in zip(self.prompts, self.answers, strict=True))]

    @property
    def vocab(self) -> int:
        return self.logits[0].shape[1]

    @property
    def perplexity(self) -> float:
        pairs = zip(self.texts, self.logits, strict=False)
        return perplexity([token_nll(logits.double(), ids) for ids, logits in pairs])

    def add_ablation(self, part: Part, number: int, without: torch.Tensor) -> None:
        """Take in the logits of text `number` that base + adapters have without a part."""
        scores = self.top_logits(number, self.logits[number])
        likely, moved = scores.softmax(1), scores - self.top_logits(number, without)
        part.weights.append(likely * (moved - (likely * moved).sum(1, keepdim=True)))
        part.own += float((moved * part.weights[-1]).sum())

    def add_base(self, number: int, logits: torch.Tensor) -> None:
        """Take in the logits of text `number` that the base alone has."""
        self.add_ablation(self.parts[0], number, logits)
        moved = self.top_logits(number, self.logits[number]) - self.top_logits(number, logits)
        for part in self.parts:
            if number < len(part.weights):
                part.apart += float((moved * part.weights[number]).sum())

    def top_logits(self, number: int, logits: torch.Tensor) -> torch.Tensor:
        """(T, V) of text `number` -> (T, K) float64, for the tokens that the reference holds likeliest."""
        own = self.logits[number]
        return logits.gather(1, own.topk(min(TOP_TOKENS, own.shape[1]), 1).indices).double()


@dataclass
class Measurement:
    """Sums over the texts of one model, from which its divergence follows."""

    reference: Reference
    kl: list[torch.Tensor] = field(default_factory=list)
    other: list[torch.Tensor] = field(default_factory=list)
    nll: list[torch.Tensor] = field(default_factory=list)
    prefix: list[int] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    along: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    finite: bool = True

    def add(self, number: int, logits: torch.Tensor) -> None:
        """Take in a row's (T, V) logits."""
        self.finite = self.finite and bool(logits.isfinite().all())
        if number < len(self.reference.texts):
            self._add_text(number, logits)
        else:
            self._add_answer(number - len(self.reference.texts), logits)

    def _add_text(self, number: int, logits: torch.Tensor) -> None:
        own = self.reference.logits[number]
        self.kl.append(kl_divergence(own, logits))
        chosen = logits.nan_to_num().argmax(1, keepdim=True)
        self.other.append(own.max(1).values - own.gather(1, chosen)[:, 0] > ROUNDING)
        self.nll.append(token_nll(logits.double(), self.reference.texts[number]))
        scores = self.reference.top_logits(number, logits)
        for part in self.reference.parts:
            if number < len(part.weights):
                self.along[part.name] += float((scores * part.weights[number]).sum())

    def _add_answer(self, number: int, logits: torch.Tensor) -> None:
        """A model answers greedily as the reference does up to where another token is its most likely one."""
        prompt, answer = self.reference.prompts[number], self.reference.answers[number]
        own = self.reference.logits[len(self.reference.texts) + number]
        chosen = logits[len(prompt) - 1 : -1].argmax(1).tolist()
        same = next((i for i, pair in enumerate(zip(chosen, answer, strict=True)) if pair[0] != pair[1]), len(answer))
        self.prefix.append(same)
        if same < len(answer):
            scores = own[same].double().log_softmax(0)
            self.gaps.append(float(scores[answer[same]] - scores[chosen[same]]))

    @property
    def perplexity(self) -> float:
        return perplexity(self.nll)

    def divergence(self, control: "Measurement") -> Divergence:
        """What was found, beside the base alone in the same type."""
        lacking = {
            part.name: (part.apart - (self.along[part.name] - control.along[part.name])) / part.own
            for part in self.reference.parts
        }
        return Divergence(
            kl=float(torch.cat(self.kl).mean()),
            other_top=float(torch.cat(self.other).double().mean()),
            perplexity=self.perplexity,
            prefix=tuple(self.prefix),
            gap=max(self.gaps, default=0.0),
            effect={name: 1 - lack for name, lack in lacking.items()},
            finite=self.finite,
            tokens=sum(map(len, self.kl)),
            size={part.name: part.own for part in self.reference.parts},
        )


def build_reference(
    model: ReferenceModel, texts: list[list[int]], prompts: list[list[int]], count: int, ends: frozenset[int]
) -> Reference:
    """Run base + adapters, with a progress bar.

    Args:
        count: most tokens of an answer; ends: ids that end one.
    """
    title = "base + adapters"
    bar = tqdm(prompts, desc=printable(f"{title}, answers"), unit="prompt", disable=None)
    answers = [model.greedy(ids, count, ends) for ids in bar]
    reference = Reference(texts, prompts, answers, [])
    for number, ids in enumerate(tqdm(reference.rows, desc=printable(title), unit="text", disable=None)):
        logits = model.logits(ids)
        start = len(ids) - len(answers[number - len(texts)]) - 1
        reference.logits.append(logits if number < len(texts) else logits[start:-1].clone())
    for name in tqdm(model.parts, desc=printable(f"{title}, part by part"), unit="part", disable=None):
        part = Part(name)
        with model.without(name):
            for number in range(count_part_texts(texts)):
                reference.add_ablation(part, number, model.logits(texts[number]))
        reference.parts += [part] * (part.own > 0)
    return reference


def count_part_texts(texts: Sequence[Sequence[int]]) -> int:
    """How many of the texts are looked at part by part: the first ones with `PART_TOKENS` together."""
    totals = accumulate(map(len, texts))
    return min(len(texts), 1 + sum(total < PART_TOKENS for total in totals))


def measure(model: Model, reference: Reference, title: str, is_base: bool = False) -> Measurement:
    """Run a model on every row of the reference, with a progress bar.

    Args:
        is_base: it is the base alone, and shows the reference what the adapters change.
    """
    found = Measurement(reference)
    for number, ids in enumerate(tqdm(reference.rows, desc=printable(title), unit="text", disable=None)):
        logits = model.logits(ids)
        if is_base and number < len(reference.texts):
            reference.add_base(number, logits)
        found.add(number, logits)
    return found
