"""Text to ids and back over HTTP, in the form of vLLM's routes, which lm-eval's client asks for.

The ids are those that a model is given by every program here. Text never becomes a control id, but for one that is
nothing else: that is how a client asks for the id of BOS or EOS.
"""

from collections.abc import Mapping
from typing import Any

from vicuna.answer.assistant import Assistant
from vicuna.answer.fair_queue import Client
from vicuna.api.error_body import APIError
from vicuna.api.fields import RequestFields, is_integer
from vicuna.api.parsing import model_of
from vicuna.prompt.templates import prompt_ids


def tokenize(values: Mapping[str, Any], assistant: Assistant, peer: Client) -> dict[str, Any]:
    """The ids of a text.

    Raises:
        APIError: what is wrong with the request.
    """
    fields = RequestFields(values)
    model_of(fields, assistant)
    text = fields.take("prompt", "text")
    with_bos = fields.take("add_special_tokens", "true or false", True)
    named = fields.take("return_token_strs", "true or false", False)
    fields.reject_unknown()
    if text is None:
        raise APIError(400, "prompt is missing: expected a text.", "prompt")
    tokenizer = assistant.tokenizer
    control = {tokenizer.markers.get(i): i for i in (tokenizer.bos_id, tokenizer.eos_id) if i is not None}
    if text in control:
        ids = [control[text]]
    else:
        ids = prompt_ids(tokenizer, "text", [{"role": "user", "content": text}])[
            0 if with_bos else len(tokenizer.beginning) :
        ]
    names = [tokenizer.token_name(i) for i in ids] if named else None
    return {"count": len(ids), "max_model_len": assistant.engine.context, "tokens": ids, "token_strs": names}


def detokenize(values: Mapping[str, Any], assistant: Assistant, peer: Client) -> dict[str, Any]:
    """The text of ids; control ids are none.

    Raises:
        APIError: what is wrong with the request.
    """
    fields = RequestFields(values)
    model_of(fields, assistant)
    ids = fields.take("tokens", "a list", [])
    fields.reject_unknown()
    tokenizer = assistant.tokenizer
    if not all(is_integer(i) and 0 <= i < tokenizer.size for i in ids):
        raise APIError(400, f"tokens holds what is no id: expected integers of 0 to {tokenizer.size - 1}.", "tokens")
    return {"prompt": tokenizer.without_dummy(tokenizer.decode_continuation(ids))}


def tokenizer_info(assistant: Assistant) -> dict[str, Any]:
    """What there is to know of the tokenizer beside its ids."""
    tokenizer = assistant.tokenizer
    names = {name: getattr(tokenizer, f"{name}_id") for name in ("bos", "eos", "unk")}
    return {
        "tokenizer_class": type(tokenizer).__name__,
        "vocab_size": tokenizer.size,
        "model_max_length": assistant.engine.context,
        **{f"{name}_token": None if i is None else tokenizer.token_name(i) for name, i in names.items()},
        "pad_token": None,
        "chat_template": None,  # prompts are made by /v1/chat/completions
    }
