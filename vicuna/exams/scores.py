"""Log-likelihoods to scores, and scores to figures; all of them in percent."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 1.96  # standard deviations on either side that hold 95 %


def credit(log_likelihoods: Sequence[float], right: Sequence[int]) -> float:
    """1 where the likeliest option is a right one, 0 where it is not; of k that tie, the share of right ones."""
    best = max(log_likelihoods)
    tied = [place for place, one in enumerate(log_likelihoods) if one == best]
    return sum(place in right for place in tied) / len(tied)


@dataclass(frozen=True)
class Figures:
    """What a model has of a set of questions.

    Attributes:
        score: mean over the questions; chance: of somebody who guesses, from how many options are right.
        spread: half of the interval in which 95 % of those who guess are.
        one_letter: best score of who always says the same letter.
        tied: questions with several likeliest options.
        shots, dropped: examples that were shown, and that had no room.
    """

    questions: int
    score: float
    chance: float
    spread: float
    one_letter: float
    tied: int
    shots: int
    dropped: int


def figures(lines: Sequence[Mapping[str, Any]]) -> Figures:
    """Over questions: the weight of each is the same."""
    chances = [len(line["right"]) / len(line["log_likelihoods"]) for line in lines]
    letters = Counter(place for line in lines for place in line["right"])
    return Figures(
        questions=len(lines),
        score=_percent([line["score"] for line in lines]),
        chance=_percent(chances),
        spread=100 * WIDTH * math.sqrt(sum(one * (1 - one) for one in chances)) / len(lines),
        one_letter=100 * max(letters.values()) / len(lines),
        tied=sum(line["log_likelihoods"].count(max(line["log_likelihoods"])) > 1 for line in lines),
        shots=sum(line["shots"] for line in lines),
        dropped=sum(line["dropped"] for line in lines),
    )


def over_subjects(found: Sequence[Figures]) -> tuple[float, float, float]:
    """Score, chance and spread as means over subjects: the weight of each is the same."""
    count = len(found)
    spread = math.sqrt(sum(one.spread**2 for one in found)) / count
    return math.fsum(one.score for one in found) / count, math.fsum(one.chance for one in found) / count, spread


def _percent(values: Sequence[float]) -> float:
    return 100 * math.fsum(values) / len(values)
