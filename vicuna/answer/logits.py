"""What changes logits before a token is chosen, and neither transformers nor llama.cpp have as it is meant here."""

from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from vicuna.answer.decoding import COUNTED
from vicuna.answer.grammar import Follower, Grammar


class CountPenalty(LogitsProcessor):
    """Makes tokens that are in the answer already less likely: by `presence` once, and by `frequency` for each time.

    OpenAI's formula; the prompt does not count, as in vLLM.

    Args:
        prompt_len: in tokens.
    """

    def __init__(self, presence: float, frequency: float, prompt_len: int):
        self.presence, self.frequency, self.prompt_len = presence, frequency, prompt_len

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """(K, T) ids so far and (K, V) scores -> (K, V)."""
        scores = scores.clone()
        for row, ids in zip(scores, input_ids[:, self.prompt_len :], strict=True):
            seen, counts = ids.unique(return_counts=True)
            row[seen] -= self.presence + self.frequency * counts
        return scores


class FollowGrammar(LogitsProcessor):
    """Leaves only the tokens that the text may go on with, of one row.

    Args:
        eos_ids: that end an answer, which they may where the text is whole.
    """

    def __init__(self, grammar: Grammar, eos_ids: set[int], prompt_len: int):
        self.follower: Follower = grammar.follow(eos_ids)
        self.prompt_len = prompt_len

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """(1, T) ids so far and (1, V) scores -> (1, V)."""
        allowed = self.follower.allowed(input_ids[0, self.prompt_len :].tolist(), scores.shape[-1])
        return scores.masked_fill(~torch.from_numpy(allowed).to(scores.device), -torch.inf)


def processors(
    chosen: dict[str, Any], grammar: Grammar | None, eos_ids: set[int], prompt_len: int
) -> tuple[dict[str, Any], LogitsProcessorList]:
    """What of `chosen` generate() takes itself, and what does the rest."""
    rest = {name: value for name, value in chosen.items() if name not in COUNTED}
    presence, frequency = (chosen.get(name, 0.0) for name in COUNTED)
    found: list[LogitsProcessor] = [CountPenalty(presence, frequency, prompt_len)] if presence or frequency else []
    if grammar:
        found.append(FollowGrammar(grammar, eos_ids, prompt_len))
    return rest, LogitsProcessorList(found)
