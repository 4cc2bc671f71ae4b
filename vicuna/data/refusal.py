"""What the base's own chat template has against a dialogue, which is known only when it is rendered."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from vicuna.errors import UserError
from vicuna.prompt.templates import BASE, Message, tools_of

if TYPE_CHECKING:
    from vicuna.prompt.tokenizer import TextTokenizer


def refusal(tokenizer: "TextTokenizer", prompt_type: str) -> Callable[[list[Message]], str] | None:
    """What tells why a dialogue can not be learnt, "" where it can; None for prompt types of our own.

    Raises:
        UserError: there is no template, or one that renders no question at all.
    """
    if prompt_type != BASE or tokenizer.chat is None:
        return None
    if tokenizer.chat.problem:
        raise UserError(f"{tokenizer.chat.problem} Take another --prompt_type, such as chat.")

    def refuse(messages: list[Message]) -> str:
        view = tokenizer.with_settings(tools=tools_of(messages)) if tools_of(messages) else tokenizer
        if (messages[0].get("tools") or any(one.get("tool_calls") for one in messages)) and not view.chat.knows_tools:
            return f"calls functions, which the chat template in {view.chat.path} does not know"
        try:
            view.chat.turn(messages)
        except UserError as error:
            return f"does not fit: {error}"
        return ""

    return refuse
