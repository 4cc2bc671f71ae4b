"""A request body of OpenAI's API as what `Assistant` takes; whatever it can not do is refused, never ignored."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vicuna.answer.assistant import Assistant
from vicuna.answer.decoding import FLOATS, SAMPLING_ONLY, generation_kwargs
from vicuna.answer.fair_queue import Client
from vicuna.answer.flags import ChatFlags, DecodingFlags, RequestDecoding
from vicuna.answer.grammar import Grammar
from vicuna.answer.history import MessageTooLong, trim
from vicuna.api.calls import Calling, read_thinking, read_tools
from vicuna.api.error_body import APIError, said_to_programs
from vicuna.api.fields import RequestFields, check_type, is_integer
from vicuna.api.messages import read_messages
from vicuna.api.response_format import read_response_format
from vicuna.errors import UserError
from vicuna.prompt.templates import BASE, begun_ids, prompt_ids

MAX_CHOICES = 16  # answers to one request
MAX_STOPS = 16
MAX_ROWS = 2048  # texts to embed in one request

# Field -> the flag that says the same, and bounds it.
DECODING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    # not OpenAI's; the page has most of them
    "top_k": "top_k",
    "min_p": "min_p",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "repetition_penalty": "repetition_penalty",
    "num_beams": "num_beams",
    "do_sample": "do_sample",
    "min_tokens": "min_new_tokens",
}


@dataclass(frozen=True)
class CompletionRequest:
    """What is to be generated.

    Attributes:
        model: the name it goes by in the answer; adapter: name of a choice.
        prompts: ids of each, BOS included; n: answers to each.
        prompt_type: that of a chat, "" of a text that is continued.
        chosen: generate()'s arguments; seed: of the first answer, the next ones count on.
        notices: what the user should know of what was sent; left_out: what of it the model is not shown.
        prompt_end: how the prompt ends, by which thinking is told from the answer; None where it is not.
        calling: how calls of functions are told; None where none are.
        grammar: what the answer has to be.
    """

    model: str
    adapter: str
    prompts: list[list[int]]
    chosen: dict[str, Any]
    seed: int | None
    n: int
    stops: tuple[str, ...]
    stream: bool
    include_usage: bool
    client: Client
    prompt_type: str = ""
    notices: tuple[str, ...] = ()
    left_out: str = ""
    prompt_end: str | None = None
    calling: Calling | None = None
    grammar: Grammar | None = None


@dataclass(frozen=True)
class EmbeddingRequest:
    """What is to be embedded: `rows` of ids, each at most a context long."""

    model: str
    adapter: str
    rows: list[list[int]]
    as_base64: bool
    client: Client


def model_of(fields: RequestFields, assistant: Assistant) -> tuple[str, str]:
    known = assistant.names
    name = fields.take("model", "text", next(iter(known)))
    if (adapter := assistant.find(name)) is None:
        message = f"there is no model {name[:200]!r} here; there are: {', '.join(known)}."
        raise APIError(404, message, "model", "model_not_found")
    return name, adapter


def parse_chat(
    values: Mapping[str, Any], assistant: Assistant, flags: ChatFlags, decoding: DecodingFlags, peer: Client
) -> CompletionRequest:
    """A request of /v1/chat/completions.

    Args:
        peer: whose share it is, and which connection's.

    Raises:
        APIError: what is wrong with it.
    """
    fields = RequestFields(values)
    model, adapter = model_of(fields, assistant)
    prompt_type = assistant.choices[adapter].prompt_type
    chat = assistant.tokenizer_of(adapter).chat if prompt_type == BASE else None
    messages, begun, notices = read_messages(fields.take("messages", "a list", []), prompt_type, chat, flags.system)
    chosen, common = _common(fields, assistant, decoding, peer)
    grammar = read_response_format(fields, assistant, chosen)
    tools, calling, unseen = read_tools(fields, chat)
    tokenizer = assistant.tokenizer_of(adapter, **read_thinking(fields, chat), tools=tools)
    fields.reject_unknown()
    try:
        prefill = begun_ids(tokenizer, prompt_type, messages, begun) if begun else []
        room = assistant.engine.context - len(prefill)
        trimmed = trim(tokenizer, prompt_type, messages, room, chosen["max_new_tokens"], flags.max_memory)
    except MessageTooLong as error:
        raise APIError(400, said_to_programs(error), "messages", "context_length_exceeded") from error
    except UserError as error:
        raise APIError(400, said_to_programs(error), "messages") from error
    if trimmed.forgotten:
        notices.append(f"{trimmed.forgotten} earlier turns did not fit and were left out")
    if trimmed.max_new_tokens < chosen["max_new_tokens"]:
        notices.append(f"the context leaves {trimmed.max_new_tokens} tokens for the answer")
    chosen = {**chosen, "max_new_tokens": trimmed.max_new_tokens}
    _bound(common["n"], "n", assistant)
    left_out = f"tools were left out ({unseen}): no prompt type shows them to the model" if unseen else ""
    prompt_end = None if trimmed.prompt_end is None else trimmed.prompt_end + begun
    said = {"notices": tuple(notices), "left_out": left_out, "prompt_end": prompt_end, "calling": calling}
    ids = [*trimmed.ids, *prefill]
    # An answer that goes on with a beginning is no text of its own.
    answered_as = "" if begun else prompt_type
    return CompletionRequest(model, adapter, [ids], chosen, prompt_type=answered_as, grammar=grammar, **said, **common)


def parse_completion(
    values: Mapping[str, Any], assistant: Assistant, decoding: DecodingFlags, peer: Client
) -> CompletionRequest:
    """A request of /v1/completions; its text is all that the model is shown.

    Raises:
        APIError: what is wrong with it.
    """
    fields = RequestFields(values)
    model, adapter = model_of(fields, assistant)
    prompts = [ids for ids, _ in prompt_rows(fields, assistant)]
    chosen, common = _common(fields, assistant, decoding, peer)
    fields.reject_unknown()
    _bound(common["n"] * len(prompts), "n times the prompts", assistant)
    return CompletionRequest(model, adapter, prompts, chosen, **common)


def parse_embedding(values: Mapping[str, Any], assistant: Assistant, peer: Client) -> EmbeddingRequest:
    """A request of /v1/embeddings.

    Raises:
        APIError: what is wrong with it.
    """
    fields = RequestFields(values)
    model, adapter = model_of(fields, assistant)
    given = fields.take("input", "text or a list")
    if given == "" or (isinstance(given, list) and "" in given):
        raise APIError(400, "input holds an empty text, which has no embedding.", "input")
    rows = _rows(given, "input", assistant, spare=0)
    if len(rows) > MAX_ROWS:
        raise APIError(400, f"input has {len(rows)} items, expected at most {MAX_ROWS}.", "input")
    form = fields.take("encoding_format", "text", "float")
    if form not in ("float", "base64"):
        raise APIError(400, f"encoding_format is {form[:80]!r}, expected float or base64.", "encoding_format")
    client = client_of(fields, peer)
    if "dimensions" in values and values["dimensions"] is not None:
        raise APIError(400, "dimensions is not supported here; leave it out.", "dimensions", "unsupported_parameter")
    fields.reject_unknown()
    return EmbeddingRequest(model, adapter, rows, form == "base64", client)


def client_of(fields: RequestFields, peer: Client) -> Client:
    """Whose turn a request takes: the named user's of that share, else the connection's."""
    user = fields.take("user", "text", "")
    return peer._replace(name=f"user {user}") if user else peer


def _common(
    fields: RequestFields, assistant: Assistant, decoding: DecodingFlags, peer: Client
) -> tuple[dict[str, Any], dict[str, Any]]:
    """generate()'s arguments, and the fields of CompletionRequest that both kinds of request have."""
    flags = _decoding(fields, decoding)
    chosen = generation_kwargs(flags, assistant.engine.generation_config)
    most = assistant.engine.max_beams
    if chosen["num_beams"] > most:
        why = ": llama.cpp, which computes it, has no beam search" if most == 1 else ""
        message = f"num_beams {chosen['num_beams']} is out of range: this model answers with at most {most}{why}."
        raise APIError(400, message, "num_beams")
    n = fields.take("n", "an integer", 1)
    if n < 1:
        raise APIError(400, f"n {n} is out of range: expected 1 or more.", "n")
    options = RequestFields(fields.take("stream_options", "an object", {}))
    include_usage = options.take("include_usage", "true or false", False)
    options.take("include_obfuscation", "true or false")  # of no use here: nothing is padded
    options.reject_unknown()
    return chosen, {
        "seed": flags.seed,
        "n": n,
        "stops": _stops(fields.take("stop", "text or a list", [])),
        "stream": fields.take("stream", "true or false", False),
        "include_usage": include_usage,
        "client": client_of(fields, peer),
    }


def _bound(count: int, what: str, assistant: Assistant) -> None:
    """Every answer of a request waits in the queue, so no request may ask for more than go in."""
    most = min(MAX_CHOICES, assistant.worker.max_queue)
    if count > most:
        raise APIError(400, f"{what} is {count}, expected at most {most}.", "n")


def _decoding(fields: RequestFields, flags: DecodingFlags) -> DecodingFlags:
    """The server's flags with what the request says instead."""
    given: dict[str, Any] = {}
    for field, name in DECODING.items():
        kind = "a number" if field in FLOATS else "true or false" if field == "do_sample" else "an integer"
        if (value := fields.take(field, kind)) is None:
            continue
        try:
            RequestDecoding(**{name: value})
        except UserError as error:
            raise APIError(400, str(error).replace(f"--{name}", field), field) from error
        if given.get(name, value) != value:
            raise APIError(400, f"max_tokens {given[name]} and max_completion_tokens {value} differ.", field)
        given[name] = value
    # What the request says of drawing counts as a whole, not beside what the server's flags say of it.
    if "do_sample" not in given and any(name in given for name in SAMPLING_ONLY):
        given["do_sample"] = None
    if given.get("do_sample") is False:
        given = {**dict.fromkeys(SAMPLING_ONLY), **given}
    if given.get("do_sample") and not flags.temperature:
        given.setdefault("temperature", None)
    try:
        return RequestDecoding(**{**vars(flags), **given})
    except UserError as error:
        raise APIError(400, str(error).replace("--", ""), "do_sample") from error


def _stops(given: str | list) -> tuple[str, ...]:
    texts = [given] if isinstance(given, str) else given
    if len(texts) > MAX_STOPS:
        raise APIError(400, f"stop has {len(texts)} texts, expected at most {MAX_STOPS}.", "stop")
    for text in texts:
        if not check_type(text, "stop", "text"):
            raise APIError(400, "stop holds an empty text, which would end every answer at once.", "stop")
    return tuple(texts)


def prompt_rows(fields: RequestFields, assistant: Assistant, spare: int = 1) -> list[tuple[list[int], bool]]:
    """Ids of each prompt, and whether BOS was put in front of it: the base was trained with it.

    Raises:
        APIError: see `_rows`.
    """
    given = fields.take("prompt", "text or a list")
    with_bos = fields.take("add_special_tokens", "true or false", True)
    rows = _rows(given, "prompt", assistant, spare)
    bos, by_ids = assistant.tokenizer.beginning, not _is_text(given)
    if not with_bos and not by_ids:
        raise APIError(400, "add_special_tokens false is for prompts of token ids; a text begins with BOS.",
                       "add_special_tokens")  # fmt: skip
    if not by_ids:
        return [(row, True) for row in rows]
    found = [(row, False) if row[: len(bos)] == bos or not with_bos else ([*bos, *row], True) for row in rows]
    _check_room([row for row, _ in found], "prompt", assistant.engine.context - spare)
    return found


def _is_text(given: Any) -> bool:
    return isinstance(given, str) or isinstance(given[0], str)


def _rows(given: str | list | None, name: str, assistant: Assistant, spare: int = 1) -> list[list[int]]:
    """Ids of a text, of several, or as they are given; `spare` tokens of the context stay free.

    Raises:
        APIError: nothing of this, or a row that is too long.
    """
    if given is None:
        raise APIError(400, f"{name} is missing: expected a text, several, or token ids.", name)
    several = given if isinstance(given, list) and given and not is_integer(given[0]) else [given]
    rows = [_row(one, name, assistant) for one in several]
    _check_room(rows, name, assistant.engine.context - spare)
    return rows


def _check_room(rows: list[list[int]], name: str, most: int) -> None:
    for row in rows:
        if len(row) > most:
            message = f"{name} has {len(row)} tokens, the base's context leaves room for {most}: shorten it."
            raise APIError(400, message, name, "context_length_exceeded")


def _row(given: Any, name: str, assistant: Assistant) -> list[int]:
    if isinstance(given, str):
        return prompt_ids(assistant.tokenizer, "text", [{"role": "user", "content": check_type(given, name, "text")}])
    if not isinstance(given, list) or not given or not all(map(is_integer, given)):
        raise APIError(400, f"{name} must be a text, token ids, or a list of one of these.", name, "invalid_type")
    size = assistant.tokenizer.size
    if not all(0 <= i < size for i in given):
        raise APIError(400, f"{name} holds token ids outside of 0 to {size - 1}.", name)
    return given
