"""The fields of a request body: each is of its kind, known, and asks for something that is done here."""

import json
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from vicuna.api.error_body import APIError

# What has no meaning here, and changes no answer.
IGNORED = {
    *("metadata", "store", "service_tier", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention"),
    *("safety_identifier",),
}
# What a model may call -> the field that says whether it has to.
TOOLS = {"tools": "tool_choice", "functions": "function_call"}
FREE_CHOICE = ("none", "auto")
# What would change the answer and is not done: field -> the values that ask for nothing.
UNSUPPORTED: dict[str, tuple] = {
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "suffix": ("",),
    "best_of": (1,),
}


class RequestFields:
    """The fields of a body, each to be taken once, and checked as it is; null is the same as left out."""

    def __init__(self, values: Mapping[str, Any]):
        self._values = {name: value for name, value in values.items() if value is not None}
        self._taken: set[str] = set()

    def take(self, name: str, kind: str, default: Any = None) -> Any:
        """The value of a field, or `default`.

        Args:
            kind: one of KINDS.

        Raises:
            APIError: it is of another kind.
        """
        self._taken.add(name)
        if name not in self._values:
            return default
        return check_type(self._values[name], name, kind)

    def given(self) -> set[str]:
        """Names of those that are left to be taken, but for what means nothing here."""
        return set(self._values) - self._taken - IGNORED

    def leave_out_tools(self, why: str = "and no tool is called here") -> int:
        """How many tools a model was offered that it may do without: none is ever called.

        Args:
            why: a call can not be had, as the end of a sentence about one that has to be made.

        Raises:
            APIError: one of them has to be called.
        """
        count = 0
        for name, choice in TOOLS.items():
            count += len(self.take(name, "a list", []))
            chosen = self.take(choice, "text or an object", "auto")
            if _is_free(chosen):
                continue
            asked = json.dumps(chosen)[:80]
            message = f"{choice} {asked} asks for a call, {why}; send auto or none, or leave it out."
            raise APIError(400, message, choice, "unsupported_parameter")
        return count

    def reject_unknown(self) -> None:
        """Refuse what is left.

        Raises:
            APIError: fields that are not known, or ask for what is not done.
        """
        left = self._values.keys() - self._taken - IGNORED
        for name in sorted(left & UNSUPPORTED.keys()):
            if self._values[name] not in UNSUPPORTED[name]:
                raise APIError(400, f"{name} is not supported here; leave it out.", name, "unsupported_parameter")
        for name in sorted(left - UNSUPPORTED.keys()):
            near = get_close_matches(name, self._taken, n=1)
            hint = f"did you mean {near[0]}?" if near else "leave it out."
            param = name[:80] if _is_unicode(name) else None
            raise APIError(400, f"{name[:80]!r} is not a field of this request; {hint}", param, "unknown_parameter")


def _is_free(chosen: str | dict) -> bool:
    """Whether a choice of tools can be met by calling none."""
    if isinstance(chosen, str):
        return chosen in FREE_CHOICE
    allowed = chosen.get("allowed_tools")
    return chosen.get("type") == "allowed_tools" and isinstance(allowed, dict) and allowed.get("mode") == "auto"


def is_integer(value: Any) -> bool:
    """Whether a JSON value is an integer; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


KINDS: dict[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "an integer": is_integer,
    "a number": lambda value: is_integer(value) or isinstance(value, float),
    "true or false": lambda value: isinstance(value, bool),
    "a list": lambda value: isinstance(value, list),
    "an object": lambda value: isinstance(value, dict),
    "text or a list": lambda value: isinstance(value, str | list),
    "text or an object": lambda value: isinstance(value, str | dict),
}
WORDS = {
    type(None): "null", str: "text", bool: "true or false", int: "an integer", float: "a number", list: "a list",
    dict: "an object",
}  # fmt: skip


def check_type(value: Any, name: str, kind: str) -> Any:
    """`value`, if it is of that kind, and encodable where it is text.

    Raises:
        APIError: it is not.
    """
    if not KINDS[kind](value):
        raise APIError(400, f"{name} is {WORDS[type(value)]}, expected {kind}.", name, "invalid_type")
    if isinstance(value, str) and not _is_unicode(value):
        raise APIError(400, f"{name} holds half of a surrogate pair, which is no character.", name)
    return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
