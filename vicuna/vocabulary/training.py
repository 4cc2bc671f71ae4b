"""A SentencePiece model trained on lines of text, with the settings of LLaMA's own.

The same lines give the same bytes, in every process and on any number of cores: one thread, whose number is stored in
the file and changes a unigram model's scores; a sample that is drawn here, because SentencePiece draws another one in
every process; no name of a file.
"""

import io
import random
import re
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from vicuna.errors import UserError, first_line

# LLaMA's: with the default normaliser `，！？（）２` would become ASCII, and runs of spaces one.
LLAMA_SETTINGS: dict[str, Any] = {
    "model_type": "bpe",
    "byte_fallback": True,
    "split_digits": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "allow_whitespace_only_pieces": True,
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "pad_id": -1,
    "num_threads": 1,
}
LONGEST_LINE = 4192  # bytes; SentencePiece passes over a longer one
_ENDS = "。！？；，、：!?;,:. \t"
_LIMITS = (
    (r"smaller than required_chars\. (\d+) vs (\d+)", "small: the text's characters alone take {1}, so take more than"),
    (r"too high \((\d+)\)\. .*<= (\d+)", "large: the text has no more than {1} pieces, so take at most"),
)


def train_sentencepiece(lines: Iterable[str], vocab_size: int, loud: bool = False, **settings: Any) -> bytes:
    """A serialised model. Ctrl-C ends it, too: it is trained in a thread, and SentencePiece lets others run.

    Args:
        settings: in place of LLaMA's, by SentencePiece's names.
        loud: have SentencePiece tell of its progress.

    Raises:
        UserError: a size that the text does not give.
    """
    from sentencepiece import SentencePieceTrainer

    model, failed = io.BytesIO(), []

    def train() -> None:
        try:
            SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=model,
                vocab_size=vocab_size,
                minloglevel=0 if loud else 2,
                **{**LLAMA_SETTINGS, **settings},
            )
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    if failed:
        raise _explained(failed[0], vocab_size)
    return model.getvalue()


def _explained(error: Exception, vocab_size: int) -> Exception:
    if not isinstance(error, RuntimeError):
        return error
    said = first_line(error)
    for pattern, text in _LIMITS:
        if found := re.search(pattern, said):
            words = text.format(*found.groups())
            return UserError(f"--vocab_size {vocab_size} is too {words} {found[2]}.")
    return UserError(f"SentencePiece can not be trained on this text ({said}).")


def cut_line(line: str, longest: int = LONGEST_LINE) -> list[str]:
    """A line in parts of at most `longest` bytes, cut behind punctuation or a space where there is one."""
    parts, rest = [], line
    while len(rest.encode()) > longest:
        head = rest.encode()[:longest].decode(errors="ignore")
        cut = max(head.rfind(sign) for sign in _ENDS) + 1 or len(head)
        parts.append(rest[:cut])
        rest = rest[cut:]
    return [*parts, rest]


def draw_lines(lines: Iterator[str], count: int, seed: int) -> tuple[list[str], int]:
    """`count` of the lines, each as likely as any other, in their order; 0 for all. And how many there were."""
    if not count:
        kept = list(lines)
        return kept, len(kept)
    draw, chosen, number = random.Random(seed), [], 0
    for number, line in enumerate(lines, 1):
        if number <= count:
            chosen.append((number, line))
        elif (place := draw.randrange(number)) < count:
            chosen[place] = (number, line)
    return [line for _, line in sorted(chosen)], number
