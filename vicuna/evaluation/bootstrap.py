"""What a difference between two models on the same questions is worth: a paired bootstrap.

Questions are drawn anew, with replacement, as many as there are, and the difference is taken. Done often,
its quantiles are an interval for what other questions of the same kind would show (Efron and Tibshirani, An
Introduction to the Bootstrap, 1993, chapter 13; Koehn, Statistical Significance Tests for Machine Translation
Evaluation, EMNLP 2004). Both models have every draw in common, so hard questions count for neither.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

DRAWS = 10_000
CONFIDENCE = 0.95
BLOCK = 2_000_000  # numbers that are drawn at once


@dataclass(frozen=True)
class Difference:
    """after - before, and the interval that it is in."""

    before: float
    after: float
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.after - self.before


@dataclass(frozen=True)
class Scores:
    """A score of each question, as total / weight: of a loss the sum over the tokens, and their number."""

    totals: Sequence[float]
    weights: Sequence[float]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Scores":
        """Scores of which each question counts the same."""
        return cls(values, [1.0] * len(values))


def paired_difference(
    before: Scores, after: Scores, seed: int = 42, draws: int = DRAWS, confidence: float = CONFIDENCE
) -> Difference:
    """The difference of two means over the same questions, given in the same order.

    A mean is sum(totals) / sum(weights) of what is drawn; the interval is that of the quantiles, widened around the
    difference by sqrt(n / (n - 1)) (1 + (z^2 + 1) / (4 n)), with z the normal quantile: of few questions n a plain one
    is too narrow (Hesterberg, What Teachers Should Know About the Bootstrap, 2015; the second factor is the beginning
    of Student's t in powers of 1 / n).

    Args:
        seed: the same gives the same interval.
    """
    columns = np.array([before.totals, before.weights, after.totals, after.weights], dtype=np.float64).T  # (n, 4)
    count, rng = len(columns), np.random.default_rng(seed)
    found = _difference(columns.sum(0)[None])
    drawn = [
        _difference(columns[rng.integers(0, count, (size, count))].sum(1))
        for size in _blocks(draws, max(1, BLOCK // count))
    ]
    low, high = np.quantile(np.concatenate(drawn), [(1 - confidence) / 2, (1 + confidence) / 2])
    value, wider = float(found[0]), _small_sample(count, confidence)
    first, second = (float(sum(one.totals) / sum(one.weights)) for one in (before, after))
    return Difference(first, second, value - (value - float(low)) * wider, value + (float(high) - value) * wider)


def share_interval(count: int, of: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    if not of:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    middle, spread = count / of + z * z / (2 * of), z * (count / of * (1 - count / of) / of + (z / of / 2) ** 2) ** 0.5
    whole = 1 + z * z / of
    return max(0.0, (middle - spread) / whole), min(1.0, (middle + spread) / whole)


def _difference(sums: np.ndarray) -> np.ndarray:
    """(B, 4) sums of totals and weights before and after -> (B,)."""
    return sums[:, 2] / sums[:, 3] - sums[:, 0] / sums[:, 1]


def _blocks(total: int, most: int) -> list[int]:
    return [min(most, total - at) for at in range(0, total, most)]


def _small_sample(count: int, confidence: float) -> float:
    """By how much an interval of `count` questions is to be wider than the quantiles are apart."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return math.sqrt(count / (count - 1)) * (1 + (z * z + 1) / (4 * count)) if count > 1 else math.inf
