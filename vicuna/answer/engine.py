"""What makes answers, whichever library computes them: what it is asked for, and what is refused before its turn comes.

`vicuna.answer.hf_engine` and `vicuna.answer.llama_cpp_engine` do the rest, in the worker.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vicuna.answer.grammar import Grammar
from vicuna.answer.scoring import Scored
from vicuna.answer.stream import GenerationResult, Streamer, Submit, Update, last_update, stream
from vicuna.errors import UserError
from vicuna.prompt.tokenizer import TextTokenizer
from vicuna.sentences import Sentence


@dataclass(frozen=True)
class GenerationRequest:
    """A prompt, and how it is to be answered.

    Attributes:
        prompt_ids: BOS included.
        chosen: generate()'s arguments, from `generation_kwargs`.
        seed: fixes what sampling draws.
        adapter: name of a choice, "" for the base alone.
        stop: set it to end the answer at the next token; the last update then says "stopped".
        stops: texts that end the answer, and are no part of it.
        apart: the answer is a text of its own, see `vicuna.prompt.templates.Template`.
        grammar: what the answer has to be; not of a beam search.
    """

    prompt_ids: list[int]
    chosen: dict[str, Any]
    seed: int | None = None
    adapter: str = ""
    stop: threading.Event | None = None
    stops: Sequence[str] = ()
    apart: bool = False
    grammar: Grammar | None = None

    def limited_to(self, context: int) -> "GenerationRequest":
        """The same, with as many new tokens as the context leaves.

        Raises:
            UserError: the prompt fills the context.
        """
        length = len(self.prompt_ids)
        if length >= context:
            raise UserError(Sentence("prompt_beyond_context", tokens=length, context=context))
        new = min(self.chosen["max_new_tokens"], context - length)
        chosen = {**self.chosen, "max_new_tokens": new, "min_new_tokens": min(self.chosen["min_new_tokens"], new)}
        return replace(self, prompt_ids=list(self.prompt_ids), chosen=chosen)


class Engine(ABC):
    """A loaded base and the adapters on it.

    Attributes:
        tokenizer, context, generation_config: the base's.
        adapters: by the name of their choice.
        max_beams: most beams it can search with.
    """

    tokenizer: TextTokenizer
    context: int
    generation_config: Any
    adapters: Mapping[str, Any]
    max_beams: int

    def stream(self, request: GenerationRequest, submit: Submit) -> Iterator[Update]:
        """Growing answers; see `vicuna.answer.stream.stream`.

        Raises:
            UserError: no such adapter, a prompt that fills the context; see `vicuna.answer.stream.stream`.
        """
        self._check(request)
        request = request.limited_to(self.context)
        streamer = Streamer(self.tokenizer, request.stop, request.stops, request.apart)
        return stream(lambda: self._generate(request, streamer), streamer, request.chosen["max_new_tokens"], submit)

    def answer(self, requests: Sequence[GenerationRequest]) -> list[Update]:
        """Whole answers to several prompts under the same adapter and settings. For the worker to call.

        Raises:
            UserError: no such adapter, a prompt that fills the context.
        """
        begin = time.perf_counter()
        for request in requests:
            self._check(request)
        requests = [request.limited_to(self.context) for request in requests]
        streamers = [Streamer(self.tokenizer, one.stop, one.stops, one.apart) for one in requests]
        results = self._generate_all(requests, streamers)
        return [
            last_update(result, streamer, request.chosen["max_new_tokens"], begin)
            for result, streamer, request in zip(results, streamers, requests, strict=True)
        ]

    def answers_together(self, chosen: dict[str, Any]) -> bool:
        """Whether several prompts are computed at once, under these settings, rather than one after the other."""
        return False

    def embed(self, rows: Sequence[list[int]], adapter: str) -> list[list[float]]:
        """A vector of length 1 for each text: the mean of its last hidden states. For the worker to call.

        Args:
            rows: ids of each text, BOS included.
            adapter: name of a choice, "" for the base alone.

        Raises:
            UserError: no such adapter, a text without tokens or longer than the context.
        """
        self._check_rows(rows, adapter)
        return self._embed(rows, adapter)

    def score(self, rows: Sequence[list[int]], adapter: str, top: int) -> list[Scored]:
        """How likely each text is, token by token. For the worker to call.

        Args:
            rows: ids of each text, BOS included.
            adapter: name of a choice, "" for the base alone.
            top: how many of the likeliest tokens of each place are named.

        Raises:
            UserError: no such adapter, a text without tokens or longer than the context.
        """
        self._check_rows(rows, adapter)
        return self._score(rows, adapter, top)

    def _check_rows(self, rows: Sequence[list[int]], adapter: str) -> None:
        self._check_adapter(adapter)
        for number, ids in enumerate(rows, 1):
            if not 0 < len(ids) <= self.context:
                raise UserError(
                    f"text {number} has {len(ids)} tokens; expected 1 to {self.context}, the base's context."
                )

    def _check(self, request: GenerationRequest) -> None:
        """Refuse what this engine can not do."""
        self._check_adapter(request.adapter)

    def _check_adapter(self, name: str) -> None:
        if name and name not in self.adapters:
            names = ", ".join(self.adapters) or Sentence("none")
            raise UserError(Sentence("no_such_adapter", name=name, names=names))

    @abstractmethod
    def _generate(self, request: GenerationRequest, streamer: Streamer) -> GenerationResult:
        """The answer, every step of it shown to `streamer`; what runs in the worker."""

    def _generate_all(
        self, requests: Sequence[GenerationRequest], streamers: Sequence[Streamer]
    ) -> list[GenerationResult]:
        """The answers to all of them; what runs in the worker."""
        return [self._generate(*pair) for pair in zip(requests, streamers, strict=True)]

    @abstractmethod
    def _embed(self, rows: Sequence[list[int]], adapter: str) -> list[list[float]]:
        """The vectors; what runs in the worker."""

    @abstractmethod
    def _score(self, rows: Sequence[list[int]], adapter: str, top: int) -> list[Scored]:
        """The scores; what runs in the worker."""
