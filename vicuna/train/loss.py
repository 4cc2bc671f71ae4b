"""Loss per supervised token: what counts, the part of a micro batch in its step, and the mean of an evaluation.

The head is computed at supervised positions alone, so logits are (N, V), one row for each of them.
"""

from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import EvalPrediction

from vicuna.prompt.templates import IGNORE_INDEX


def supervised_positions(labels: torch.Tensor) -> torch.Tensor:
    """(B, T) bool: positions that predict a supervised token. Position t predicts token t + 1."""
    keep = torch.zeros_like(labels, dtype=torch.bool)
    keep[:, :-1] = labels[:, 1:] != IGNORE_INDEX
    return keep


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each supervised token, float32, (N,).

    Args:
        logits: (N, V), one row for each True of `supervised_positions(labels)`.
        labels: (B, T).
    """
    targets = labels[:, 1:]
    return cross_entropy(logits.float(), targets[targets != IGNORE_INDEX], reduction="none")


def step_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor) -> torch.Tensor:
    """A micro batch's part of the step's loss, which is a mean over the supervised tokens of the whole step."""
    return token_losses(outputs.logits, labels).sum() / num_items_in_batch


def mean_token_loss(prediction: EvalPrediction) -> dict[str, float]:
    """Evaluation loss per supervised token over the whole set, from (rows, 2) sums and counts."""
    total, count = prediction.predictions.astype("float64").sum(axis=0)
    return {"loss": float(total / count)}
