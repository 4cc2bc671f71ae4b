"""What of a conversation a model is shown: as many of the latest turns as its context holds."""

import hashlib
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from vicuna.answer import leaving
from vicuna.errors import UserError
from vicuna.prompt.templates import BASE, Message, prompt_ids, segments, split_system, with_tools
from vicuna.prompt.tokenizer import TextTokenizer
from vicuna.prompt.traits import first_messages, takes_turns
from vicuna.sentences import Sentence

SHOWN_END = 32  # characters of a prompt's end, which an opened block of thinking is found in
KEPT = 0.75  # of the budget, once turns are forgotten: the next turns then share their beginning with this one


class PromptLengths:
    """Lengths of prompts in tokens, remembered by a hash of their text: a turn then costs its own prompt only.

    Args:
        most: prompts to remember; the one not asked for the longest goes first.
    """

    def __init__(self, most: int = 1 << 15):
        self.most = most
        self._found: OrderedDict[bytes, int] = OrderedDict()
        self._lock = threading.Lock()

    def count(self, tokenizer: TextTokenizer, prompt_type: str, messages: Sequence[Message]) -> int:
        """Tokens of the prompt for the last message, BOS included."""
        key = hashlib.blake2b(
            "\0".join([prompt_type, *segments(prompt_type, messages, tokenizer.chat)]).encode(errors="surrogatepass"),
            digest_size=16,
        ).digest()
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
        length = len(prompt_ids(tokenizer, prompt_type, messages))
        with self._lock:
            self._found[key] = length
            while len(self._found) > self.most:
                self._found.popitem(last=False)
        return length


_lengths: WeakKeyDictionary[TextTokenizer, PromptLengths] = WeakKeyDictionary()


class MessageTooLong(UserError):
    """The newest message alone does not fit."""


@dataclass(frozen=True)
class Trimmed:
    """A prompt that fits.

    Attributes:
        ids: of the prompt, BOS included.
        messages: those it was made of.
        forgotten: turns left out, the oldest; a turn is a question with its answer.
        budget: most tokens that the prompt may have.
        max_new_tokens: as asked for, or lowered to what the context leaves.
        prompt_end: how the prompt ends, by which thinking is told from the answer (see `split_answer`); None of prompt
            types that know no thinking.
    """

    ids: list[int]
    messages: list[Message]
    forgotten: int
    budget: int
    max_new_tokens: int
    prompt_end: str | None = None


def trim(
    tokenizer: TextTokenizer,
    prompt_type: str,
    messages: Sequence[Message],
    context: int,
    max_new_tokens: int,
    max_memory: int | None = None,
) -> Trimmed:
    """The prompt for the last message, with as many earlier turns as there is room for.

    Whole turns are left out, from the front. Once they do not fit, they go down to KEPT of the budget; which ones is
    found by going through the conversation from its beginning, so that it does not depend on who asks.

    Args:
        messages: perhaps a system message, then user, assistant, …, user; unchanged.
        max_memory: most tokens of the prompt; None for what the context leaves.

    Raises:
        MessageTooLong: the last message alone does not fit.
        UserError: messages that do not alternate.
    """
    tokenizer = with_tools(tokenizer, messages) if prompt_type == BASE else tokenizer
    system, others = split_system(messages)
    lengths = _lengths.setdefault(tokenizer, PromptLengths())
    # A turn begins with a question, and has several answers where functions were called between them.
    starts = first_messages(others) or [0]
    asked = [*(start + 1 for start in starts[:-1]), len(others)]

    def length(first: int, last: int) -> int:
        return lengths.count(tokenizer, prompt_type, [*system, *others[starts[first] : asked[last]]])

    turns = len(starts) - 1
    alone = length(turns, turns)
    memory = context if max_memory is None else max_memory
    if alone >= context:
        raise MessageTooLong(Sentence("message_beyond_context", tokens=alone, context=context))
    if alone > memory:
        raise MessageTooLong(Sentence("message_beyond_memory", tokens=alone, memory=memory))
    new = min(max_new_tokens, context - alone)
    budget = min(memory, context - new)
    first = 0 if takes_turns(prompt_type) else turns  # a prompt type without earlier turns forgets them all
    for last in range(first, turns + 1):
        leaving.check()
        if length(first, last) > budget:
            # The fewer turns, the shorter: halving does not read a long answer once for every turn before it.
            first += bisect_left(
                range(first, last), True, key=lambda tried, last=last: length(tried, last) <= KEPT * budget
            )
    shown = [*system, *others[starts[first] :]]
    ids = prompt_ids(tokenizer, prompt_type, shown)
    prompt_end = segments(prompt_type, shown, tokenizer.chat)[-1][-SHOWN_END:] if prompt_type == BASE else None
    return Trimmed(ids, shown, first, budget, new, prompt_end)
