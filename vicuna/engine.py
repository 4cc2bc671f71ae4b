"""A Hugging Face model with its adapters, as what answers: every call runs in the worker."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from vicuna.model import Base
from vicuna.stream import Submit, Update, stream
from vicuna.tokenizer import TextTokenizer


class HFEngine:
    """A loaded base and the adapters on it; `vicuna.gguf` has the same for llama.cpp.

    Args:
        adapters: name of a choice -> what PEFT knows the adapter by.

    Attributes:
        tokenizer, context, generation_config: the base's.
        max_beams: most beams it can search with.
    """

    max_beams = 10

    def __init__(self, base: Base, model: Any, adapters: dict[str, str]):
        self.base, self.model, self.adapters = base, model, adapters
        self.tokenizer: TextTokenizer = base.tokenizer
        self.context, self.generation_config = base.context, base.generation_config

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
        """Growing answers; see `vicuna.stream.stream`.

        Args:
            adapter: name of a choice, "" for the base alone.
        """
        return stream(
            self.model, self.tokenizer, prompt_ids, chosen, self.context, seed, stop,
            submit=submit, setting=lambda: self._set(adapter),
        )  # fmt: skip

    def _set(self, adapter: str) -> contextlib.AbstractContextManager:
        """What holds while an answer with this adapter is made; entered in the worker."""
        if not hasattr(self.model, "disable_adapter"):
            return contextlib.nullcontext()
        if not adapter:
            return self.model.disable_adapter()
        self.model.set_adapter(self.adapters[adapter], inference_mode=True)
        return contextlib.nullcontext()
