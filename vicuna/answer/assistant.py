"""A base with its adapters, ready to answer: what pages, terminal, API and tools hold in common."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from vicuna.answer.choices import Choice
from vicuna.answer.engine import Engine, GenerationRequest
from vicuna.answer.fair_queue import Client
from vicuna.answer.grammar import Grammar
from vicuna.answer.scoring import Scored
from vicuna.answer.stream import POLL_S, Update, to_user_error
from vicuna.answer.worker import Worker
from vicuna.errors import as_exception
from vicuna.prompt.own_template import SplitAnswer, split_answer
from vicuna.prompt.templates import ALL_PROMPT_TYPES, BASE, Message, prompt_ids, render
from vicuna.prompt.tokenizer import TextTokenizer
from vicuna.prompt.traits import answers_apart, takes_system
from vicuna.sentences import told

Done = TypeVar("Done")


@dataclass
class Assistant:
    """A loaded model.

    Attributes:
        base_name: as the status line shows it; where: its precision and device.
        choices: by name, the one in use first; the base alone is always among them.
        warnings: what the user should know before the first answer.
    """

    engine: Engine
    base_name: str
    where: str
    choices: dict[str, Choice]
    warnings: list[str] = field(default_factory=list)
    worker: Worker = field(default_factory=Worker)

    @property
    def first(self) -> Choice:
        """The choice that is in use until another is chosen."""
        return next(iter(self.choices.values()))

    @property
    def names(self) -> dict[str, str]:
        """What clients and users call a choice by -> its name; the base alone goes by its own. The first one first."""
        named = {name: name for name in self.choices if name}
        named[f"{self.base_name} (base)" if self.base_name in named else self.base_name] = ""
        return dict(sorted(named.items(), key=lambda item: item[1] != self.first.name))

    def find(self, called: str) -> str | None:
        """The name of the choice that is called so, or lies at that path as --lora_path or --model_path has it."""
        paths = {choice.path.rstrip("/"): name for name, choice in self.choices.items() if choice.path}
        return self.names.get(called, paths.get(called.rstrip("/")))

    @property
    def tokenizer(self) -> TextTokenizer:
        return self.engine.tokenizer

    def status(self, line: str, name: str | None = None, prompt_type: str | None = None, language: str = "en") -> str:
        """What is loaded, on one line; `line` is its pattern in the reader's language."""
        choice = self.first if name is None else self.choices[name]
        shown = f"{choice.name} ({told(choice.detail, language)})" if choice.name else "–"
        facts = {"base": self.base_name, "adapter": shown, "where": told(self.where, language)}
        return line.format(**facts, prompt_type=prompt_type or choice.prompt_type)

    def prompt_text(self, messages: Sequence[Message], prompt_type: str | None = None) -> str:
        """The prompt for the last message, as text."""
        return render(prompt_type or self.first.prompt_type, messages, self.tokenizer_of().chat)

    def prompt_ids(self, messages: Sequence[Message], prompt_type: str | None = None) -> list[int]:
        """Ids of the prompt for the last message, BOS included: the same that training saw."""
        return prompt_ids(self.tokenizer_of(), prompt_type or self.first.prompt_type, messages)

    def split(self, messages: Sequence[Message], text: str) -> SplitAnswer:
        """A whole answer to the last message, by the first choice: what was thought, and what is answered."""
        return split_answer(self.prompt_text(messages) if self.first.prompt_type == BASE else None, text)

    def tokenizer_of(self, adapter: str | None = None, **changed: str) -> TextTokenizer:
        """The tokenizer with the base's own template as a choice was trained with it.

        Args:
            adapter: name of a choice, None for the first; changed: settings in place of those.
        """
        settings = (self.first if adapter is None else self.choices[adapter]).settings
        said = {name: value for name, value in vars(settings).items() if value}
        return self.tokenizer.with_settings(**said | changed)

    @property
    def prompt_types(self) -> list[str]:
        """The prompt types that can be asked for: the base's own template where it declares one."""
        return [name for name in ALL_PROMPT_TYPES if name != BASE or self.tokenizer.chat]

    def takes_system(self, prompt_type: str) -> bool:
        """Whether a prompt type has a place for a system message here."""
        return takes_system(prompt_type, self.tokenizer.chat)

    def shown(self, text: str, prompt_type: str | None = None) -> str:
        """What of the text of an answer's ids is the answer."""
        apart = answers_apart(prompt_type or self.first.prompt_type)
        return self.tokenizer.without_dummy(text) if apart else text

    def stream(
        self,
        prompt_ids: list[int],
        chosen: dict[str, Any],
        seed: int | None = None,
        stop: threading.Event | None = None,
        adapter: str | None = None,
        client: Client | str = "",
        stops: Sequence[str] = (),
        prompt_type: str = "",
        grammar: Grammar | None = None,
    ) -> Iterator[Update]:
        """Growing answers; see `GenerationRequest` and `Engine.stream`.

        Args:
            adapter: name of a choice, "" for the base alone, None for the first choice.
            client: who asks; clients take turns.
            prompt_type: what the prompt was made with, "" for a text that is continued.
            grammar: what the answer has to be.
        """
        name = self.first.name if adapter is None else adapter
        apart = bool(prompt_type) and answers_apart(prompt_type)
        request = GenerationRequest(prompt_ids, chosen, seed, name, stop, stops, apart, grammar)
        return self.engine.stream(request, lambda work: self.worker.submit(work, client))

    def answer(self, prompts: Sequence[list[int]], chosen: dict[str, Any], seeds: Sequence[int | None]) -> list[Update]:
        """Whole answers to several prompts by the first choice, at once where the engine can; see `Engine.answer`.

        Raises:
            UserError: whatever the model fails with, as a sentence.
        """
        stop, name = threading.Event(), self.first.name
        apart = answers_apart(self.first.prompt_type)
        requests = [
            GenerationRequest(ids, chosen, seed, name, stop, apart=apart)
            for ids, seed in zip(prompts, seeds, strict=True)
        ]
        return self._in_worker(lambda: self.engine.answer(requests), stop=stop)

    def embed(
        self,
        rows: Sequence[list[int]],
        adapter: str | None = None,
        client: Client | str = "",
        stop: threading.Event | None = None,
    ) -> list[list[float]]:
        """A vector of length 1 for each text's ids, BOS included; waits until it is this client's turn.

        Args:
            stop: set while it waits for its turn, it is taken out of the queue, and nothing is returned.

        Raises:
            UserError: an adapter or a text that can not be had, or whatever the model fails with, as a sentence.
        """
        name = self.first.name if adapter is None else adapter
        return self._in_worker(lambda: self.engine.embed(rows, name), client, stop) or []

    def score(
        self,
        rows: Sequence[list[int]],
        top: int,
        adapter: str | None = None,
        client: Client | str = "",
        stop: threading.Event | None = None,
    ) -> list[Scored]:
        """How likely each text's ids are, BOS included; waits until it is this client's turn. See `Engine.score`.

        Args:
            stop: set while it waits for its turn, it is taken out of the queue, and nothing is returned.

        Raises:
            UserError: an adapter or a text that can not be had, or whatever the model fails with, as a sentence.
        """
        name = self.first.name if adapter is None else adapter
        return self._in_worker(lambda: self.engine.score(rows, name, top), client, stop) or []

    def _in_worker(
        self, made: Callable[[], Done], client: Client | str = "", stop: threading.Event | None = None
    ) -> Done | None:
        """What `made` returns, in this client's turn; None if it was stopped before that came.

        Args:
            stop: set, too, when a signal ends the caller; what has begun is then waited for.
        """
        done: list[Done | BaseException] = []

        def work() -> None:
            try:
                done.append(made())
            except BaseException as error:  # delivered to the caller
                done.append(as_exception(error))

        call = self.worker.submit(work, client)
        try:
            while not call.done.wait(None if stop is None else POLL_S):
                if stop.is_set() and call.cancel():
                    return None
        except BaseException:
            if stop is not None:
                stop.set()
            if not call.cancel():
                call.wait()
            raise
        if call.refused:
            raise call.refused
        if isinstance(done[0], BaseException):
            raise to_user_error(done[0]) from done[0]
        return done[0]
