"""Texts of answers while they grow: only new ids are decoded, and a text that ends the answer is never shown."""

from collections import deque
from collections.abc import Sequence

from vicuna.prompt.tokenizer import TextTokenizer


class Detokenizer:
    """The text of ids that mostly continue ids asked for before: what was decoded then is not decoded again.

    The text is `tokenizer.decode_continuation(tokenizer.drop_partial_character(ids))`.

    Args:
        kept: texts to remember; as many as grow side by side, and those they came from.
    """

    def __init__(self, tokenizer: TextTokenizer, kept: int = 2):
        self._tokenizer = tokenizer
        self._known: deque[tuple[list[int], str]] = deque(maxlen=kept)  # ids whose text nothing can change, and it

    def decode(self, ids: list[int]) -> str:
        """The text of an answer's ids so far."""
        begin, text = 0, ""
        for known, known_text in self._known:
            n = len(known)
            # Beams mostly differ in the last id: of others than the right one, no more is compared.
            if begin < n <= len(ids) and ids[n - 1] == known[-1] and ids[:n] == known:
                begin, text = n, known_text
        new = ids[begin:]
        end, more = self._tokenizer.stable_prefix(new)
        text += more
        self._known.append((ids[: begin + end], text))
        rest = self._tokenizer.drop_partial_character(new[end:]) if end < len(new) else []
        return text + self._tokenizer.decode_continuation(rest) if rest else text


class StopStrings:
    """Texts that end an answer, and are no part of it."""

    def __init__(self, texts: Sequence[str] = ()):
        self.texts = tuple(text for text in texts if text)

    def __bool__(self) -> bool:
        return bool(self.texts)

    def find(self, text: str) -> int:
        """Where the first of them begins, -1 if none is there."""
        return min((at for stop in self.texts if (at := text.find(stop)) >= 0), default=-1)

    def cut(self, text: str) -> str:
        """`text` up to the first of them."""
        at = self.find(text)
        return text if at < 0 else text[:at]

    def visible(self, text: str) -> str:
        """What may be shown of a growing text: nothing of one of them, also where it is not complete yet."""
        if not self.texts:
            return text
        cut = self.cut(text)
        return cut if len(cut) < len(text) else text[: len(text) - self._begun(text)]

    def _begun(self, text: str) -> int:
        """Characters at the end that one of them begins with."""
        return max(
            (n for stop in self.texts for n in range(1, min(len(stop), len(text) + 1)) if text.endswith(stop[:n])),
            default=0,
        )


class TextDelta:
    """What is new in an answer since it was last looked at, for readers that can not take back what they were told.

    Args:
        steady: the answer only ever grows; beams overtake each other, so theirs is told when it is finished.
    """

    def __init__(self, steady: bool):
        self.steady = steady
        self.told = ""

    def new(self, text: str, finished: bool) -> str:
        """The part of `text` that was not told before."""
        if not (self.steady or finished) or not text.startswith(self.told):
            return ""
        new = text[len(self.told) :]
        self.told = text
        return new
