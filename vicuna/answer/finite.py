"""Logits that are no finite numbers end an answer or an evaluation in a sentence: no token follows from them."""

import torch
from transformers import LogitsProcessor

from vicuna.errors import UserError

NOT_FINITE = (
    "the model computes no finite numbers (its logits are NaN or infinite): its weights, or those of an adapter, are "
    "damaged, or too large for this precision. Copy them again, or take --bits 32."
)


class FiniteScores(LogitsProcessor):
    """Looks at the scores of every step, and changes none."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """(B, T) ids so far and (B, V) scores -> the same scores.

        Raises:
            UserError: a row has a NaN or an infinite score; -inf, which suppressed ids have, is none.
        """
        check_finite(scores.amax(-1))  # NaN, and an infinite one, is the largest
        return scores


def check_finite(values: torch.Tensor) -> torch.Tensor:
    """The values, where all are finite.

    Raises:
        UserError: they are not.
    """
    if not torch.isfinite(values).all():
        raise UserError(NOT_FINITE)
    return values
