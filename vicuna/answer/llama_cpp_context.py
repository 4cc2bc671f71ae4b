"""llama.cpp's side of a model: a context with adapters that take turns, closed before Python takes the library away."""

import contextlib
import ctypes
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import torch

from vicuna.errors import UserError
from vicuna.gguf.library import last_error, load_llama_cpp
from vicuna.gguf_file.reader import INSTALL_COMMAND, GGUFFile


class LlamaContext:
    """A model in llama.cpp's memory, and the adapters on it, of which one or none is in use.

    Args:
        adapters: name of a choice -> its file.
        more: further arguments of `llama_cpp.Llama`.

    Raises:
        UserError: llama.cpp can not load it.
    """

    def __init__(self, file: GGUFFile, context: int, adapters: dict[str, GGUFFile], **more: Any):
        self.api = load_llama_cpp()
        try:
            self.llama = self.api.Llama(
                model_path=str(file.path),
                n_ctx=context,
                n_threads=torch.get_num_threads(),
                n_threads_batch=torch.get_num_threads(),
                verbose=False,
                **more,
            )
        except Exception as error:  # the template engine it hands the chat template to has errors of its own
            raise UserError(
                f"llama.cpp can not load {file.path} ({last_error(error)}). It is broken, too new for what "
                f"{INSTALL_COMMAND} installs, or too large for the memory that is free."
            ) from error
        self._computing = threading.Lock()
        weakref.finalize(self, _close, self.llama, self._computing)
        self.adapters = {name: self._load(adapter) for name, adapter in adapters.items()}
        self.adapter = ""

    def _load(self, file: GGUFFile) -> Any:
        adapter = self.api.llama_adapter_lora_init(self.llama.model, str(file.path).encode())
        if not adapter:
            raise UserError(f"llama.cpp can not load the adapter {file.path} ({last_error('no reason given')}).")
        return adapter

    @contextlib.contextmanager
    def using(self, name: str) -> Iterator[Any]:
        """The model with that adapter, "" for none. What was computed with another one is forgotten."""
        with self._computing:
            if name != self.adapter:
                on = [self.adapters[name]] if name else []
                handles = (self.api.llama_adapter_lora_p_ctypes * 1)(*on)
                if self.api.llama_set_adapters_lora(self.llama.ctx, handles, len(on), (ctypes.c_float * 1)(1.0)):
                    raise RuntimeError(f"llama.cpp refused the adapter {name}")
                self.llama.reset()
                self.adapter = name
            yield self.llama


def _close(llama: Any, computing: threading.Lock) -> None:
    """Give the memory back, before Python ends and takes the library away; not under a thread that still computes."""
    if computing.acquire(timeout=1):
        llama.close()
