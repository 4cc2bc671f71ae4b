"""Models that answer, whatever they are: a base with an adapter or without, a GGUF, or an address that is asked.

Everything that needs no weights is checked when one is found. A respondent is then given conversations of the same
settings, and gives an answer for each as it comes.
"""

import asyncio
import gc
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urldefrag

from transformers import GenerationConfig

from vicuna.answer.assistant import Assistant
from vicuna.answer.decoding import SAMPLING_ONLY, derive_seed, generation_kwargs
from vicuna.answer.flags import DecodingFlags, ServeFlags
from vicuna.answer.history import MessageTooLong, Trimmed, trim
from vicuna.answer.loading import Checked, check_assistant, check_beams
from vicuna.answer.prediction import make_batches
from vicuna.answer.stream import is_out_of_memory
from vicuna.crawling.client import MOST_FAILURES, as_they_come, ask, check_address, make_client, reply_text
from vicuna.errors import UserError
from vicuna.evaluation.flags import AnswersFlags, ModelsFlags, is_address
from vicuna.log import log
from vicuna.model.adapter_files import model_sha256
from vicuna.model.flags import ModelFlags
from vicuna.prompt.own_template import split_answer
from vicuna.prompt.templates import Message, unsupported

NO_ROOM = "no room"  # why there is no answer: the question alone fills the context


@dataclass(frozen=True)
class Asked:
    """A conversation to answer; `record` tells it from others, and its seed."""

    record: int
    messages: list[Message]


@dataclass(frozen=True)
class Answered:
    """An answer.

    Attributes:
        prompt_tokens, tokens: None where a server does not say.
        forgotten: earlier turns that the context had no room for.
    """

    record: int
    text: str
    finish_reason: str
    prompt_tokens: int | None = None
    tokens: int | None = None
    forgotten: int = 0


class Respondent(ABC):
    """A model that answers.

    Attributes:
        name: as the user typed it, with its adapter; prompt_type: "" where the server knows it.
        sha256: of its files, "" for an address.
    """

    name: str
    prompt_type: str
    sha256: str

    @abstractmethod
    def settings(self, decoding: DecodingFlags) -> dict[str, Any]:
        """What the flags come to for this model.

        Raises:
            UserError: what it can not do.
        """

    @abstractmethod
    def check(self, messages: Sequence[Message]) -> str:
        """What its prompt type has no place for in these messages, as the end of a sentence; "" when all fits."""

    @abstractmethod
    def answer(self, asked: Sequence[Asked], settings: dict[str, Any], seed: int, done: set[int]) -> Iterator[Answered]:
        """Answers as they come, but for the records that are `done`.

        Raises:
            UserError: whatever the model fails with, as a sentence.
        """

    def close(self) -> None:
        """Nothing more will be asked."""
        return


class LocalModel(Respondent):
    """A model that is read here; batches are made of all that is asked, so that what is done changes no answer."""

    def __init__(self, name: str, model_path: str, checked: Checked, micro_batch: int):
        self.name, self.model_path, self.checked, self.micro_batch = name, model_path, checked, micro_batch
        self.prompt_type, self.sha256 = checked.prompt_type, model_sha256(checked.path, checked.adapters)
        self.assistant: Assistant | None = None

    def settings(self, decoding: DecodingFlags) -> dict[str, Any]:
        check_beams(self.model_path, decoding)
        return generation_kwargs(decoding, self.checked.generation_config)

    def check(self, messages: Sequence[Message]) -> str:
        return unsupported(self.prompt_type, messages)

    def answer(self, asked: Sequence[Asked], settings: dict[str, Any], seed: int, done: set[int]) -> Iterator[Answered]:
        prompts = {one.record: self._prompt(one.messages, settings["max_new_tokens"]) for one in asked}
        yield from (Answered(one, "", NO_ROOM) for one, prompt in prompts.items() if not prompt and one not in done)
        fitting = [record for record, prompt in prompts.items() if prompt]
        if set(fitting) <= done:
            return
        assistant = self._opened()
        size = self.micro_batch if assistant.engine.answers_together(settings) else 1
        for batch in make_batches(fitting, [len(prompts[one].ids) for one in fitting], size):
            if set(batch) <= done:
                continue
            seeds = [derive_seed(seed, record - 1) for record in batch]
            try:
                updates = assistant.answer([prompts[record].ids for record in batch], settings, seeds)
            except UserError as error:
                if error.__cause__ is None or not is_out_of_memory(error.__cause__) or len(batch) == 1:
                    raise
                raise UserError(
                    f"{self.name} ran out of memory on {len(batch)} questions at once: lower --micro_batch "
                    f"{len(batch)}; what was answered stays."
                ) from error
            for record, update in zip(batch, updates, strict=True):
                if record not in done:
                    counts = len(prompts[record].ids), update.tokens, prompts[record].forgotten
                    text = split_answer(prompts[record].prompt_end, update.text).content
                    yield Answered(record, text, update.finish_reason, *counts)

    def _prompt(self, messages: Sequence[Message], max_new_tokens: int) -> Trimmed | None:
        """The prompt of a conversation; None where its last message alone fills the context."""
        try:
            return trim(self.checked.tokenizer, self.prompt_type, messages, self.checked.context, max_new_tokens)
        except MessageTooLong:
            return None

    def _opened(self) -> Assistant:
        if self.assistant is None:
            self.assistant = self.checked.load()
            for warning in self.assistant.warnings:
                log.warning("WARNING %s", warning)
        return self.assistant

    def close(self) -> None:
        self.assistant = None
        gc.collect()  # models refer to themselves, and would stay beside the next one


class Endpoint(Respondent):
    """A model behind an address of OpenAI's form, several questions at a time.

    It is sent what OpenAI's API has, and of the other settings those that were asked for.
    """

    sha256 = prompt_type = ""

    def __init__(self, model_path: str, flags: AnswersFlags):
        self.name = model_path
        self.address, self.model = urldefrag(model_path)
        if not self.model:
            raise UserError(f"--model_path {model_path} names no model there: put it behind a #, {model_path}#NAME.")
        check_address(self.address)
        self.flags = flags
        make_client(self.address, flags.key_variable, flags.retries, flags.timeout)  # the key is there

    def settings(self, decoding: DecodingFlags) -> dict[str, Any]:
        chosen = generation_kwargs(decoding, GenerationConfig())
        sent = {"temperature": 0.0, "max_tokens": chosen["max_new_tokens"]}
        if chosen["do_sample"]:
            sent |= {name: chosen[name] for name in ("temperature", "top_p") if name in chosen}
        own = {"top_k": "top_k", "repetition_penalty": "repetition_penalty", "num_beams": "num_beams",
               "min_new_tokens": "min_tokens"}  # fmt: skip
        more = {sent_as: value for name, sent_as in own.items() if (value := getattr(decoding, name)) is not None
                and (chosen["do_sample"] or name not in SAMPLING_ONLY)}  # fmt: skip
        return {**sent, "extra_body": more} if more else sent

    def check(self, messages: Sequence[Message]) -> str:
        return ""

    def answer(self, asked: Sequence[Asked], settings: dict[str, Any], seed: int, done: set[int]) -> Iterator[Answered]:
        calls = self._calls([one for one in asked if one.record not in done], settings, seed)
        with asyncio.Runner() as runner:
            while True:
                with suppress(StopAsyncIteration):
                    yield runner.run(_next(calls))
                    continue
                return

    async def _calls(self, asked: Sequence[Asked], settings: dict[str, Any], seed: int) -> Any:
        client = make_client(self.address, self.flags.key_variable, self.flags.retries, self.flags.timeout)

        async def call(one: Asked) -> tuple[Asked, Any, str]:
            messages = [{"role": part["role"], "content": _content(part)} for part in one.messages]
            own = {**settings, "seed": derive_seed(seed, one.record - 1)}
            return one, *await ask(client, self.model, messages, **own)

        failures = missing = 0
        async for one, reply, problem in as_they_come((call(one) for one in asked), self.flags.jobs):
            failures = failures + 1 if problem else 0
            if failures == MOST_FAILURES:
                said = problem.rstrip(".")
                raise UserError(f"{failures} questions in a row got no answer from {self.name}, the last: {said}.")
            if problem:
                log.warning("WARNING %s: no answer to question %d: %s", self.name, one.record, problem)
                missing += 1
                continue
            usage = getattr(reply, "usage", None)
            tokens = (getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens"))
            choices = getattr(reply, "choices", None)
            yield Answered(one.record, reply_text(reply), choices[0].finish_reason if choices else "stop", *tokens)
        if missing:
            raise UserError(f"{missing} questions got no answer from {self.name}; the same command asks them again.")


async def _next(calls: Any) -> Answered:
    return await anext(calls)


def _content(message: Message) -> str:
    return "\n".join(filter(None, [message["content"], message.get("input", "")]))


def find_respondents(models: ModelsFlags, flags: AnswersFlags) -> list[Respondent]:
    """The models, each checked; one that --bits does not change comes once.

    A base that says nothing is asked with the prompt type that the others were trained with, where that is one.

    Raises:
        UserError: one that can not be opened or asked.
    """
    found: dict[tuple[str, int | None], Respondent] = {}
    local: list[tuple[tuple[str, int | None], str, str, int, Checked]] = []
    for model, lora, bits in models.pairs():
        name = f"{model} + {lora}" if lora else model
        if is_address(model):
            if lora:
                raise UserError(f"--lora_path {lora}: {model} is an address, which has its own; put - in its place.")
            found[name, None] = Endpoint(model, flags)
            continue
        checked = _check(model, lora, bits, models.gpu_layers, flags.prompt_type)
        key = name, checked.bits
        if key not in found:
            found[key] = LocalModel(name, model, checked, flags.micro_batch)
            local.append((key, model, lora, bits, checked))
    trained = {checked.trained_as for *_, checked in local if checked.trained_as}
    if len(trained) == 1 and not flags.prompt_type:
        for key, model, lora, bits, checked in local:
            if not checked.trained_as:
                again = _check(model, lora, bits, models.gpu_layers, next(iter(trained)))
                found[key] = LocalModel(key[0], model, again, flags.micro_batch)
    names = [name for name, _ in found]
    for (name, bits), one in found.items():
        one.name = f"{name} ({bits} bit)" if names.count(name) > 1 else name
    return _named(list(found.values()), flags.names)


def _check(model: str, lora: str, bits: int, gpu_layers: int | None, prompt_type: str | None) -> Checked:
    from vicuna.gguf_file.reader import in_llama_cpp

    layers = gpu_layers if in_llama_cpp(model, [lora]) else None
    serve = ServeFlags(prompt_type=prompt_type, cache_gib=0, gpu_layers=layers)
    return check_assistant(ModelFlags(model, bits), serve, [lora])


def _named(found: list[Respondent], names: Sequence[str]) -> list[Respondent]:
    if names and len(names) != len(found):
        there = ", ".join(one.name for one in found)
        raise UserError(f"--names has {len(names)} names, and there are {len(found)} models: {there}.")
    if len(set(names)) < len(names):
        raise UserError(f"--names {' '.join(names)}: two models have the same name; give each its own.")
    for one, name in zip(found, names, strict=False):
        one.name = name
    return found
