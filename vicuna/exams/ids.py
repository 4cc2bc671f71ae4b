"""A question and an option to the ids of a model that is asked: BOS and the first ▁ as it was trained.

lm-eval's own models ask LLaMA of 2023 without BOS, and cut what is too long from the left, BOS and description first.
"""

from collections.abc import Sequence

from vicuna.errors import UserError
from vicuna.prompt.templates import prompt_ids
from vicuna.prompt.tokenizer import TextTokenizer


class Encoder:
    """Texts to ids, within a template or, as text, without one.

    Args:
        length: tokens that a question and its option may have.
    """

    def __init__(self, tokenizer: TextTokenizer, prompt_type: str, length: int):
        self.tokenizer, self.prompt_type, self.length = tokenizer, prompt_type, length

    def context(self, text: str) -> list[int]:
        """Ids of what is asked, BOS included."""
        return prompt_ids(self.tokenizer, self.prompt_type, [{"role": "user", "content": text}])

    def pairs(self, text: str, options: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        """Ids of what is asked, and of each option behind it; in plain text as one text is cut."""
        context = self.context(text)
        return [(context, self._option(text, context, option)) for option in options]

    def _option(self, text: str, context: list[int], option: str) -> list[int]:
        if self.prompt_type != "text":
            return self.tokenizer.encode_continuation(option.lstrip(" "))
        whole = self.context(text + option)
        if whole[: len(context)] == context and len(whole) > len(context):
            return whole[len(context) :]
        return self.tokenizer.encode_continuation(option)  # a piece would have grown over the seam

    def fits(self, text: str, options: Sequence[str]) -> bool:
        """Whether there is room for the question with each of its options; the last token of one is never read."""
        room = self.length - len(self.context(text))
        return room >= 0 and all(len(option) - 1 <= room for _, option in self.pairs(text, options))

    def check_letters(self, letters: str, name: str) -> None:
        """Refuse a model to which the letters are one and the same.

        Raises:
            UserError: all of them would tie, and the first would be "chosen".
        """
        found = {tuple(option) for _, option in self.pairs("答案：", letters)}
        if len(found) < len(letters):
            raise UserError(
                f"{name} has no pieces for the letters {letters[0]} to {letters[-1]}: to its tokenizer they are the "
                "same tokens, so every option ties, and its score says nothing. Take a model that knows them, or, with "
                "AGIEval, --style lm-eval, which compares the options' texts."
            )
