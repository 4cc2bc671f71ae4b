"""Logits to the log likelihood of tokens, and to perplexity."""

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


def perplexity(nll: Sequence[torch.Tensor]) -> float:
    """Of tokens by their negative log likelihoods; infinite or nan where the logits were."""
    return float(torch.cat(list(nll)).double().mean().exp())
