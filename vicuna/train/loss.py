"""Loss per supervised token: what counts, the part of a micro batch in its step, and the mean of an evaluation.

The head is computed at supervised positions alone, so logits are (N, V), one row for each of them.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import EvalPrediction

from vicuna.prompt.templates import IGNORE_INDEX

# Logits whose losses are computed together: a MiB of float32 on a CPU, elsewhere what keeps a device busy.
VALUES = {"cpu": 2**18}
VALUES_ELSEWHERE = 2**26


def supervised_positions(labels: torch.Tensor) -> torch.Tensor:
    """(B, T) bool: positions that predict a supervised token. Position t predicts token t + 1."""
    keep = torch.zeros_like(labels, dtype=torch.bool)
    keep[:, :-1] = labels[:, 1:] != IGNORE_INDEX
    return keep


def token_losses(logits: torch.Tensor, labels: torch.Tensor, predicted_by: torch.Tensor | None = None) -> torch.Tensor:
    """Cross entropy of each supervised token, float32, (N,), row by row.

    Args:
        logits: (N, V), one row for each True of `supervised_positions(labels)`.
        labels: (B, T).
        predicted_by: (N,) the row of `logits`, then (1, M, V), for each supervised token: rows that begin alike have
            what predicts one token for all of them once. No gradient goes back then: training has `step_loss`.
    """
    targets = labels[:, 1:]
    targets = targets[targets != IGNORE_INDEX]
    if predicted_by is None:
        return cross_entropy(logits.float(), targets, reduction="none")
    losses = torch.empty(logits.shape[1], dtype=torch.float32, device=logits.device)
    once = _targets_once(logits, targets, predicted_by)
    for part in _some_rows(logits):
        losses[part] = _shares(logits[0, part], once[part])[0]
    return losses[predicted_by]


def _targets_once(logits: torch.Tensor, targets: torch.Tensor, predicted_by: torch.Tensor) -> torch.Tensor:
    """(M,) what each row of logits predicts."""
    return targets.new_zeros(logits.shape[1]).scatter(0, predicted_by, targets)


class _StepLoss(torch.autograd.Function):
    """The weighted sum of the cross entropies of (1, M, V) logits, some rows at a time: what is made on the way stays
    in the processor's cache. The gradient takes the place of the logits, which nothing else needs, so that neither a
    second tensor of their size is made nor an exponential computed twice."""

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total = weights.new_zeros(())
        for part in _some_rows(logits):
            losses, shares, sums = _shares(logits[0, part], targets[part])
            total += (losses * weights[part]).sum()
            shares.scatter_add_(1, targets[part, None], -sums)
            logits[0, part] = shares.mul_(weights[part, None] / sums)
        ctx.mark_dirty(logits)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(logits)
        return total, logits

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, _: None) -> tuple[torch.Tensor, None, None]:
        (found,) = ctx.saved_tensors
        known = gradient.device.type == "cpu" and gradient == 1  # elsewhere it would have to be waited for
        return found if known else found.mul_(gradient), None, None


def _shares(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(cross entropy of each row, exponentials of its logits below the highest, their sum)."""
    shares = logits.to(torch.float32, copy=True)
    shares -= shares.amax(1, keepdim=True)
    own = shares.gather(1, targets[:, None])
    sums = shares.exp_().sum(1, keepdim=True)
    return (sums.log() - own)[:, 0], shares, sums


def _some_rows(logits: torch.Tensor) -> Iterator[slice]:
    rows = max(1, VALUES.get(logits.device.type, VALUES_ELSEWHERE) // logits.shape[2])
    for start in range(0, logits.shape[1], rows):
        yield slice(start, start + rows)


def step_loss(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor, predicted_by: torch.Tensor | None = None
) -> torch.Tensor:
    """A micro batch's part of the step's loss, which is a mean over the supervised tokens of the whole step.

    With `predicted_by` the logits are no logits any more thereafter.
    """
    if predicted_by is None:
        return token_losses(outputs.logits, labels).sum() / num_items_in_batch
    targets = labels[:, 1:]
    once = _targets_once(outputs.logits, targets[targets != IGNORE_INDEX], predicted_by)
    times = torch.bincount(predicted_by, minlength=len(once)).float()
    return _StepLoss.apply(outputs.logits, once, times / num_items_in_batch)[0]


def mean_token_loss(prediction: EvalPrediction) -> dict[str, float]:
    """Evaluation loss per supervised token over the whole set, from (rows, 2) sums and counts."""
    total, count = prediction.predictions.astype("float64").sum(axis=0)
    return {"loss": float(total / count)}
