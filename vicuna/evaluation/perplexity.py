"""A model run on the windows of a text: perplexity of the tokens that count, by token, character and byte."""

import math
import time
from dataclasses import dataclass

import torch
from tqdm import tqdm

from vicuna.errors import printable
from vicuna.evaluation.likelihood import perplexity
from vicuna.evaluation.runners import Runner
from vicuna.evaluation.windows import Windows


@dataclass(frozen=True)
class TextResult:
    """What a model makes of a text.

    Attributes:
        perplexity: by counted token; infinite or nan where the model's logits are.
        per_character: the same by character of what the counted tokens stand for; bits_per_byte: by byte of it.
        tokens_per_s: tokens that the model was given, counted or not, without the first batch where there are more.
    """

    counted: int
    perplexity: float
    per_character: float
    bits_per_byte: float
    tokens_per_s: float


def measure_text(runner: Runner, text: Windows, batch_size: int, title: str) -> TextResult:
    """Run a model on every window of a text, with a progress bar.

    Args:
        batch_size: windows that are run together.
    """
    windows = sorted(text.windows, key=lambda one: len(one.ids), reverse=True)  # what has no room fails at once
    batches = [windows[at : at + batch_size] for at in range(0, len(windows), batch_size)]
    nll: list[torch.Tensor] = []
    times: list[tuple[int, float]] = []
    with tqdm(total=len(windows), desc=printable(title), unit="window", disable=None, leave=False) as bar:
        for batch in batches:
            begin = time.perf_counter()
            found = runner.nll([window.ids for window in batch])
            times.append((sum(len(window.ids) for window in batch), time.perf_counter() - begin))
            nll += [one[window.start - 1 :] for one, window in zip(found, batch, strict=True)]
            bar.update(len(batch))
    tokens, seconds = map(sum, zip(*(times[1:] or times), strict=True))
    total = float(torch.cat(nll).double().sum())
    return TextResult(
        counted=text.counted,
        perplexity=perplexity(nll),
        per_character=_exp(total / text.characters) if text.characters else math.nan,
        bits_per_byte=total / math.log(2) / text.size_bytes if text.size_bytes else math.nan,
        tokens_per_s=tokens / seconds,
    )


def _exp(value: float) -> float:
    """Infinite where Python's own has no number."""
    return float(torch.tensor(value, dtype=torch.float64).exp())
