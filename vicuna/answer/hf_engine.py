"""A Hugging Face model with its adapters, as what answers: every call runs in the worker."""

import contextlib
import secrets
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeVar

from vicuna.answer.generation import Answer, vectors
from vicuna.answer.prefix_cache import PrefixCache
from vicuna.answer.stream import Generated, Run, Submit, Update, out_of_memory, stream
from vicuna.errors import UserError
from vicuna.model.base import Base
from vicuna.prompt.tokenizer import TextTokenizer

GIB = 1 << 30
Done = TypeVar("Done")


def check_adapter(name: str, adapters: Collection[str]) -> None:
    """Refuse a name that is not among those of the loaded adapters; "" is the base alone."""
    if name and name not in adapters:
        raise UserError(f"no adapter {name!r} is loaded; there is {', '.join(adapters) or 'none'}.")


def check_rows(rows: Sequence[list[int]], context: int) -> None:
    """Refuse texts to embed without tokens, or longer than the context."""
    for number, ids in enumerate(rows, 1):
        if not 0 < len(ids) <= context:
            raise UserError(f"text {number} has {len(ids)} tokens; expected 1 to {context}, the base's context.")


def fitted(chosen: dict[str, Any], prompt_ids: Sequence[int], context: int) -> dict[str, Any]:
    """generate()'s arguments with as many new tokens as the context leaves.

    Raises:
        UserError: a prompt that fills the context.
    """
    room = context - len(prompt_ids)
    if room < 1:
        raise UserError(f"the prompt has {len(prompt_ids)} tokens, the base's context is {context}: shorten it.")
    new = min(chosen["max_new_tokens"], room)
    return {**chosen, "max_new_tokens": new, "min_new_tokens": min(chosen["min_new_tokens"], new)}


class HFEngine:
    """A loaded base and the adapters on it; `vicuna.answer.llama_cpp_engine` has the same for llama.cpp.

    Args:
        model: the base, or the base with adapters by PEFT.
        adapters: name of a choice -> what PEFT knows the adapter by.
        cache_gib: most memory for what earlier prompts have in common with the next; 0 for none.

    Attributes:
        tokenizer, context, generation_config: the base's.
        max_beams: most beams it can search with.
    """

    max_beams = 10

    def __init__(self, base: Base, model: Any, adapters: dict[str, str], cache_gib: float = 0):
        self.base, self.model, self.adapters = base, model, adapters
        self._plain = model.get_base_model() if adapters else model  # what generates; adapters lie within its layers
        self.tokenizer: TextTokenizer = base.tokenizer
        self.context, self.generation_config = base.context, base.generation_config
        self.prefixes = PrefixCache(int(cache_gib * GIB) if _stays(base.config) else 0)

    def stream(
        self,
        prompt_ids: list[int],
        chosen: dict[str, Any],
        seed: int | None,
        stop: threading.Event | None,
        adapter: str,
        submit: Submit,
        stops: Sequence[str] = (),
    ) -> Iterator[Update]:
        """Growing answers to a prompt; see `vicuna.answer.stream.stream`.

        Args:
            prompt_ids: BOS included.
            chosen: generate()'s arguments, from `generation_kwargs`; max_new_tokens is lowered to what the context
                leaves.
            seed: fixes what sampling draws.
            stop: set it to end the answer at the next token; the last update then says "stopped".
            adapter: name of a choice, "" for the base alone.
            stops: texts that end the answer, and are no part of it.

        Raises:
            UserError: no such adapter, a prompt that fills the context; see `vicuna.answer.stream.stream`.
        """
        check_adapter(adapter, self.adapters)
        chosen = fitted(chosen, prompt_ids, self.context)
        if chosen["do_sample"] and seed is None:
            seed = secrets.randbelow(1 << 32)  # so that a second attempt draws the same
        answer = Answer(self._plain, list(prompt_ids), chosen, seed, self.prefixes, adapter)
        return stream(
            lambda run: self._make(answer, run), Run(self.tokenizer, stop, stops), chosen["max_new_tokens"], submit
        )

    def _make(self, answer: Answer, run: Run) -> Generated:
        """The answer, with its adapter."""
        with self._set(answer.adapter):
            return self._with_room(lambda: answer.make(run))

    def embed(self, rows: Sequence[list[int]], adapter: str) -> list[list[float]]:
        """A vector of length 1 for each text: the mean of its last hidden states. For the worker to call.

        Args:
            rows: ids of each text, BOS included.
            adapter: name of a choice, "" for the base alone.

        Raises:
            UserError: no such adapter, a text without tokens or longer than the context.
        """
        check_adapter(adapter, self.adapters)
        check_rows(rows, self.context)
        with self._set(adapter):
            return self._with_room(lambda: vectors(self._plain.base_model, rows))

    def _with_room(self, work: Callable[[], Done]) -> Done:
        """What `work` returns; when memory runs out, at a second attempt without the prefix cache."""
        try:
            return work()
        except Exception as error:
            if not (out_of_memory(error) and self.prefixes.clear()):
                raise
        return work()  # behind the handler, which would keep alive what the first attempt held

    def _set(self, adapter: str) -> contextlib.AbstractContextManager:
        """What holds while an answer with this adapter is made; entered in the worker."""
        if not self.adapters:
            return contextlib.nullcontext()
        if not adapter:
            return self.model.disable_adapter()
        self.model.set_adapter(self.adapters[adapter], inference_mode=True)
        return contextlib.nullcontext()


def _stays(config: Any) -> bool:
    """A position's keys do not depend on how long the text becomes, as they do with LongRoPE (2402.13753)."""
    rope = getattr(config, "rope_parameters", None) or {}
    return "longrope" not in {rope.get("rope_type"), *(r["rope_type"] for r in rope.values() if isinstance(r, dict))}
