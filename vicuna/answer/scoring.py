"""How likely a model holds the ids of a text, whichever library gives its logits: the work of /v1/completions' `echo`.

Logits are looked at in parts, so a long text takes no more memory than a short one.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from vicuna.answer.finite import check_finite

PART = 256  # places of a text whose logits are there together


@dataclass(frozen=True)
class Scored:
    """A text of T ids as a model sees it, in natural logarithms.

    Attributes:
        log_probs: of each id but the first, which follows nothing.
        likeliest: ids and log probabilities of what may stand at each place behind the first, and behind the last: T of
            them, each with the likeliest first.
    """

    log_probs: list[float]
    likeliest: list[list[tuple[int, float]]]


def score_logits(parts: Iterable[torch.Tensor], ids: Sequence[int], top: int) -> Scored:
    """Logits (n, V) of a text's places, part after part, to what is said of its ids.

    Args:
        top: how many of the likeliest ids of each place are named; of what follows the last one at least one.
    """
    log_probs: list[float] = []
    likeliest: list[list[tuple[int, float]]] = []
    for logits in parts:
        check_finite(logits.amax(-1))
        found = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        begin = len(likeliest)
        following = torch.tensor(ids[begin + 1 : begin + 1 + len(found)], device=found.device, dtype=torch.long)
        log_probs += found[: len(following)].gather(1, following[:, None])[:, 0].tolist()
        values, places = found.topk(max(top, 1), -1)
        likeliest += [list(zip(*row, strict=True)) for row in zip(places.tolist(), values.tolist(), strict=True)]
    return Scored(log_probs, likeliest)


@torch.inference_mode()
def score_rows(model: Any, rows: Sequence[Sequence[int]], top: int, at_once: bool) -> list[Scored]:
    """The same of each row of ids, by a model of transformers.

    Args:
        at_once: what it computes depends on the length, so that a text can not be given in parts.
    """
    return [score_logits(_parts(model, row, at_once), row, top) for row in rows]


def _parts(model: Any, ids: Sequence[int], at_once: bool) -> Iterator[torch.Tensor]:
    if at_once or len(ids) <= PART:
        yield from model(torch.tensor([list(ids)], device=model.device), use_cache=False).logits[0].split(PART)
        return
    cache = DynamicCache(config=model.config)
    for begin in range(0, len(ids), PART):
        part = torch.tensor([list(ids[begin : begin + PART])], device=model.device)
        yield model(part, past_key_values=cache, use_cache=True).logits[0]
