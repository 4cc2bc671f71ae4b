"""Logits to the log likelihood of tokens, to perplexity, and to how far two models are apart."""

from collections.abc import Sequence

import torch

ROWS = 256  # of logits that are looked at together: a copy of all of a long text would take more than they do


def token_nll(logits: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
    """(T, V) -> (T - 1,): the negative log likelihood of each token but the first, in nats.

    In float32 at least, whatever the logits are in; log probabilities are logits, too.
    """
    following = torch.tensor(ids[1:], device=logits.device)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    parts = [
        -rows.to(dtype).log_softmax(1).gather(1, next_ids[:, None])[:, 0]
        for rows, next_ids in zip(logits[:-1].split(ROWS), following.split(ROWS), strict=True)
    ]
    return torch.cat(parts)


def kl_divergence(expected: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """(T, V) logits of a reference and of another model -> (T,): KL(reference || other) of what follows each, in nats.

    In float64: where the two are near each other, it is a small difference of large numbers.
    """
    parts = []
    for own, other in zip(expected.split(ROWS), found.split(ROWS), strict=True):
        first, second = own.double().log_softmax(1), other.double().log_softmax(1)
        parts.append((first.exp() * (first - second)).sum(1))
    return torch.cat(parts)


def perplexity(nll: Sequence[torch.Tensor]) -> float:
    """Of tokens by their negative log likelihoods; infinite or nan where the logits were."""
    return float(torch.cat(list(nll)).double().mean().exp())
