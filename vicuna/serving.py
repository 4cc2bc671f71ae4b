"""A base with its adapter, ready to answer: what the page, the terminal and the tools hold in common."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vicuna import adapter
from vicuna.args import ModelFlags, ServeFlags
from vicuna.errors import UserError
from vicuna.model import Base, check_base, compute_dtype, device, load_base, skeleton
from vicuna.prompt import PROMPT_TYPES, Message, prompt_ids, render
from vicuna.stream import Update, stream


@dataclass
class Assistant:
    """A loaded model.

    Attributes:
        prompt_type: template of its prompts.
        status: what is loaded, on one line.
        warnings: what the user should know before the first answer.
    """

    model: Any
    base: Base
    prompt_type: str
    status: str
    warnings: list[str]

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """The prompt for the last message, as text."""
        return render(self.prompt_type, messages)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the prompt for the last message, BOS included: the same that training saw."""
        return prompt_ids(self.base.tokenizer, self.prompt_type, messages)

    def stream(
        self,
        prompt_ids: list[int],
        chosen: dict[str, Any],
        seed: int | None = None,
        stop: threading.Event | None = None,
        with_adapter: bool = True,
    ) -> Iterator[Update]:
        """Growing answers; `with_adapter=False` asks the base alone. See `vicuna.stream.stream`."""
        alone = (
            contextlib.nullcontext()
            if with_adapter or not hasattr(self.model, "disable_adapter")
            else self.model.disable_adapter()
        )
        with alone:
            yield from stream(self.model, self.base.tokenizer, prompt_ids, chosen, self.base.context, seed, stop)


def load(model_flags: ModelFlags, serve: ServeFlags) -> Assistant:
    """Check everything that needs no weights, then load base and adapter.

    Raises:
        UserError: see `check_base`, `load_base` and `vicuna.adapter.attach`.
    """
    base = check_base(model_flags.model_path)
    folder = adapter.adapter_folder(serve.lora_path, serve.use_local) if serve.lora_path else None
    warnings = []
    if folder is not None:
        adapter.check_fit(
            adapter.read_tensors(adapter.weight_file(folder)), skeleton(base.config), model_flags.model_path
        )
    trained = adapter.run_args(folder or base.path)  # the base's own, where --train full made it
    what = "adapter" if folder else "model"
    prompt_type = serve.prompt_type or trained.get("prompt_type", "instruct")
    if prompt_type not in PROMPT_TYPES:
        raise UserError(
            f"the {what} was trained with prompt type {prompt_type!r}, which this version does not know; name one "
            "with --prompt_type."
        )
    if trained and prompt_type != trained.get("prompt_type", prompt_type):
        warnings.append(
            f"the {what} was trained with --prompt_type {trained['prompt_type']}; {prompt_type} gives worse answers."
        )
    model = load_base(base, model_flags.bits)
    if folder is not None:
        model, warning = adapter.attach(model, folder, model_flags.model_path)
        warnings += [warning] if warning else []
    model.eval()
    return Assistant(
        model, base, prompt_type, _status(model_flags, base, folder, trained, model, prompt_type), warnings
    )


def _status(flags: ModelFlags, base: Base, folder: Any, trained: dict, model: Any, prompt_type: str) -> str:
    name = "–"
    if folder is not None:
        step = f"step {trained['step']}, " if "step" in trained else ""
        name = f"{folder.name} ({step}r {model.peft_config['default'].r})"
    dtype = str(compute_dtype(flags.bits)[0]).removeprefix("torch.")
    where = f"{flags.bits} bit, {dtype} · {device().type.upper()}"
    return f"base {base.path.name} · adapter {name} · {where} · prompt {prompt_type}"
