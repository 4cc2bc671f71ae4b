"""Answers that are JSON: which tokens may come next, by llguidance, which goes through the grammar on the CPU.

Why this library: docs/log.md.
"""

import json
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from vicuna.errors import UserError
from vicuna.prompt.tokenizer import TextTokenizer

ANY_OBJECT: dict[str, Any] = {"type": "object"}
MOST_SCHEMA = 64 << 10  # bytes of a schema: an honest one has a few thousand
# One line, as OpenAI writes it: a small model that may put blanks anywhere puts nothing else.
WRITING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_tokenizers: WeakKeyDictionary[TextTokenizer, Any] = WeakKeyDictionary()
_lock = Lock()


class Grammar:
    """What a JSON schema allows, in the tokens of one tokenizer.

    Args:
        schema: a JSON schema, or `ANY_OBJECT`.

    Raises:
        UserError: a schema that is too large, or asks for what the library does not know.
    """

    def __init__(self, schema: dict[str, Any], tokenizer: TextTokenizer):
        from llguidance import LLMatcher

        if len(json.dumps(schema)) > MOST_SCHEMA:
            raise UserError(f"the schema is larger than {MOST_SCHEMA >> 10} KB, the most that is followed.")
        self._tokenizer = _tokenizer_of(tokenizer)
        try:
            self._grammar = LLMatcher.grammar_from_json_schema(schema, defaults=WRITING)
        except ValueError as error:
            raise UserError(f"the schema can not be followed: {error}.") from error
        self._matcher = LLMatcher(self._tokenizer, self._grammar, log_level=0)
        if self._matcher.is_error():
            reason = self._matcher.get_error().split("\n")[0][:300]
            raise UserError(f"the schema can not be followed: {reason}.")

    def follow(self, eos_ids: set[int]) -> "Follower":
        """The beginning of an answer."""
        return Follower(self._matcher.deep_copy(), eos_ids)


class Follower:
    """Goes through one answer.

    Args:
        matcher: an `llguidance.LLMatcher` at its beginning; eos_ids: that end an answer.
    """

    def __init__(self, matcher: Any, eos_ids: set[int]):
        self._matcher, self._eos_ids, self._seen = matcher, sorted(eos_ids), 0

    def allowed(self, ids: list[int], size: int) -> np.ndarray:
        """Which of `size` tokens may follow; `ids` are those of the answer so far, of which it has seen the first.

        Raises:
            UserError: the schema is too much to follow.
        """
        for token in ids[self._seen :]:
            if not self._matcher.is_stopped():
                self._matcher.consume_token(token)
        self._seen = len(ids)
        found = np.zeros(size, dtype=bool)
        is_over = self._matcher.is_stopped() and not self._matcher.is_error()
        if not is_over:
            bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
            mask = np.unpackbits(bits, bitorder="little")[:size].astype(bool)
            found[: len(mask)] = mask
        if self._matcher.is_error():
            raise UserError(f"the schema can not be followed: {self._matcher.get_error().splitlines()[0][:300]}.")
        # Of several ids that end an answer the library knows one.
        found[self._eos_ids] = is_over or self._matcher.is_accepting() or not found.any()
        return found


class _Pieces:
    """A SentencePiece vocabulary, as llguidance asks for one."""

    def __init__(self, tokenizer: TextTokenizer):
        self.tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.size)]
        self.bos_token_id, self.eos_token_id = tokenizer.bos_id, tokenizer.eos_id
        self.special_token_ids = sorted(i for i in tokenizer.controls if i < tokenizer.size)
        self._encode = tokenizer.encode_continuation

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


def _tokenizer_of(tokenizer: TextTokenizer) -> Any:
    from llguidance import LLTokenizer, TokenizerWrapper

    with _lock:
        if tokenizer not in _tokenizers:
            if tokenizer.files.json is not None:
                made = LLTokenizer(tokenizer.files.json, eos_token=tokenizer.eos_id)
            else:
                made = LLTokenizer(TokenizerWrapper(_Pieces(tokenizer)), eos_token=tokenizer.eos_id)
            _tokenizers[tokenizer] = made
        return _tokenizers[tokenizer]
