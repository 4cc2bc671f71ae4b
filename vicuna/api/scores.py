"""How likely a prompt is, token by token: /v1/completions with `echo` or `logprobs`, as evaluation programs ask it.

The prompt is read, and at most its likeliest next token is added. What else is generated has no scores here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vicuna.answer.assistant import Assistant
from vicuna.answer.fair_queue import Client
from vicuna.answer.scoring import Scored
from vicuna.api.bodies import completion_envelope
from vicuna.api.error_body import APIError
from vicuna.api.fields import UNSUPPORTED, RequestFields
from vicuna.api.parsing import client_of, model_of, prompt_rows
from vicuna.prompt.tokenizer import TextTokenizer

MAX_PROMPTS = 256  # in a request
MAX_TOKENS = 1 << 16  # of all of them, which bounds the answer, too
MAX_LOGPROBS = 5
MAX_BYTES = 4  # of a character
ASKED_BY = ("echo", "logprobs")


@dataclass(frozen=True)
class ScoreRequest:
    """What is to be scored.

    Attributes:
        rows: ids of each prompt; hidden: how many of its first ones the client did not send, which is BOS or nothing.
        echo: the prompt is part of the answer; top: how many alternatives are named, None for no scores.
        new_token: the likeliest next token is part of the answer.
    """

    model: str
    adapter: str
    rows: list[list[int]]
    hidden: list[int]
    echo: bool
    top: int | None
    new_token: bool
    client: Client


def asks_for_scores(values: Mapping[str, Any]) -> bool:
    """Whether a body of /v1/completions asks for them."""
    return any(values.get(name) is not None and values[name] is not False for name in ASKED_BY)


def parse_scores(values: Mapping[str, Any], assistant: Assistant, peer: Client) -> ScoreRequest:
    """A request of /v1/completions with `echo` or `logprobs`.

    Raises:
        APIError: what is wrong with it.
    """
    fields = RequestFields(values)
    model, adapter = model_of(fields, assistant)
    prompts = prompt_rows(fields, assistant, spare=0)
    echo, top = fields.take("echo", "true or false", False), fields.take("logprobs", "an integer")
    if top is not None and not 0 <= top <= MAX_LOGPROBS:
        raise APIError(400, f"logprobs {top} is out of range: expected 0 to {MAX_LOGPROBS}.", "logprobs")
    new = fields.take("max_tokens", "an integer", 16)
    if new not in (0, 1):
        message = f"max_tokens {new}: with echo or logprobs it is 0 or 1, for the prompt is scored, not an answer."
        raise APIError(400, message, "max_tokens", "unsupported_parameter")
    if new and fields.take("temperature", "a number", 0) > 0:
        message = "temperature is to be 0 with echo or logprobs: the next token is the likeliest one."
        raise APIError(400, message, "temperature", "unsupported_parameter")
    if not (new or echo):
        raise APIError(
            400, "max_tokens 0 without echo asks for nothing: send echo true, or max_tokens 1.", "max_tokens"
        )
    _refuse_more(fields)
    count = sum(len(ids) for ids, _ in prompts)
    if len(prompts) > MAX_PROMPTS or count > MAX_TOKENS:
        message = (
            f"prompt has {len(prompts)} texts of {count} tokens, expected at most {MAX_PROMPTS} of {MAX_TOKENS} "
            "together: send fewer at a time."
        )
        raise APIError(400, message, "prompt")
    rows, hidden = [ids for ids, _ in prompts], [int(added) for _, added in prompts]
    return ScoreRequest(model, adapter, rows, hidden, echo, top, bool(new), client_of(fields, peer))


def _refuse_more(fields: RequestFields) -> None:
    """Take what changes nothing, and refuse what would be of an answer that is generated."""
    fields.take("seed", "an integer")  # nothing is drawn
    fields.take("temperature", "a number")
    neutral = {"n": 1, "stream": False, "stop": []}
    for name, value in neutral.items():
        kind = {"n": "an integer", "stream": "true or false", "stop": "text or a list"}[name]
        if fields.take(name, kind, value) != value:
            raise APIError(400, f"{name} is not for a request with echo or logprobs; leave it out.", name)
    fields.take("user", "text")
    if odd := sorted(fields.given() - UNSUPPORTED.keys()):
        raise APIError(400, f"{odd[0][:80]!r} is not for a request with echo or logprobs; leave it out.", odd[0][:80])
    fields.reject_unknown()


def scores_body(asked: ScoreRequest, found: Sequence[Scored], tokenizer: TextTokenizer) -> dict[str, Any]:
    """The answer, in the form of OpenAI's completions."""
    choices = []
    for index, (ids, hidden, scored) in enumerate(zip(asked.rows, asked.hidden, found, strict=True)):
        new = [scored.likeliest[-1][0]] if asked.new_token else []
        prompt = ids[hidden:] if asked.echo else []
        shown = [*prompt, *(i for i, _ in new)]
        whole = tokenizer.decode_continuation(shown)
        text = tokenizer.without_dummy(whole) if asked.echo else whole
        logprobs = None
        if asked.top is not None:
            begin = hidden if asked.echo else len(ids)
            values = [None, *scored.log_probs, *(value for _, value in new)]
            above = [None, *(one[: asked.top] for one in scored.likeliest)]
            logprobs = {
                "tokens": [tokenizer.token_name(i) for i in shown],
                "token_logprobs": values[begin : begin + len(shown)],
                "top_logprobs": [_named(one, tokenizer) for one in above[begin : begin + len(shown)]],
                "text_offset": _offsets(shown, tokenizer, len(whole) - len(text)),
            }
        choices.append({"index": index, "text": text, "logprobs": logprobs, "finish_reason": "length"})
    count = sum(map(len, asked.rows))
    usage = {"prompt_tokens": count, "completion_tokens": len(choices) * asked.new_token}
    usage["total_tokens"] = sum(usage.values())
    return {**completion_envelope(asked.model), "choices": choices, "usage": usage}


def _named(likeliest: Sequence[tuple[int, float]] | None, tokenizer: TextTokenizer) -> dict[str, float] | None:
    """Names and log probabilities; of tokens with one name the likeliest."""
    if likeliest is None:
        return None
    named: dict[str, float] = {}
    for i, value in likeliest:
        named.setdefault(tokenizer.token_name(i), value)
    return named


def _offsets(ids: Sequence[int], tokenizer: TextTokenizer, cut: int) -> list[int]:
    """How many characters of the text stand before each token, of which `cut` are cut off from its beginning."""
    found: list[int] = []
    at, pending = -cut, []
    for i in ids:
        found.append(max(0, at))
        pending.append(i)
        piece = tokenizer.decode_continuation(pending)
        if not piece.endswith("\ufffd") or len(pending) == MAX_BYTES:  # else the bytes of a character go on
            at, pending = at + len(piece), []
    return found
