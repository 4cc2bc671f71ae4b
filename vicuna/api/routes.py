"""OpenAI's routes under /v1 of a server: chat completions, completions, models and embeddings.

    curl localhost:7860/v1/chat/completions -H 'Content-Type: application/json' \\
        -d '{"messages": [{"role": "user", "content": "你好"}]}'

`model` names an adapter, or the base by its own name. A field that is left out is as on the page; top_k,
repetition_penalty, num_beams, do_sample and min_tokens go beyond OpenAI's. Requests wait in the same queue as those
of the page, and a client that goes away loses its place.
"""

import asyncio
import base64
import struct
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from itertools import product
from threading import Event
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from vicuna.answer.assistant import Assistant
from vicuna.answer.detokenize import TextDelta
from vicuna.answer.flags import ChatFlags, DecodingFlags, ServeFlags
from vicuna.answer.stream import Update, nth_seed
from vicuna.answer.worker import Busy
from vicuna.api import request as api_request
from vicuna.api.guard import Guard, Problem, api_key, read_json
from vicuna.api.request import Ask, Embed
from vicuna.api.response import BROKEN, Answers, Events, in_thread, while_there
from vicuna.errors import UserError

FINISH = {"eos": "stop", "stop": "stop", "stopped": "stop", "length": "length"}
EMBEDDED_AT_ONCE = 8  # rows, behind which other clients have their turn
ROUTES = ("/chat/completions", "/completions", "/models", "/models/{model:path}", "/embeddings")


def add_routes(app: FastAPI, assistant: Assistant, chat: ChatFlags, serve: ServeFlags, decoding: DecodingFlags) -> None:
    """Let `app` answer under /v1, before whatever else it serves.

    Raises:
        UserError: a server that strangers can reach has no key; see `vicuna.api.guard.api_key`.
    """
    routes = Routes(assistant, chat, decoding)
    inner = Starlette(
        routes=[
            Route(ROUTES[0], routes.chat, methods=["POST"]),
            Route(ROUTES[1], routes.completion, methods=["POST"]),
            Route(ROUTES[2], routes.models, methods=["GET"]),
            Route(ROUTES[3], routes.model, methods=["GET"]),
            Route(ROUTES[4], routes.embeddings, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, host=serve.host, key=api_key(chat, serve))],
        exception_handlers={
            Problem: _problem,
            HTTPException: _no_route,
            ClientDisconnect: lambda request, error: Response(status_code=499),  # which nobody receives
            Exception: lambda request, error: Problem(500, BROKEN).response,
        },
    )
    app.router.routes.insert(0, Mount("/v1", inner))


def _problem(request: Request, error: Exception) -> Response:
    return error.response


def _no_route(request: Request, error: Exception) -> Response:
    message = error.detail
    if error.status_code == 404:
        known = ", ".join(f"/v1{route}" for route in ROUTES).replace(":path", "")
        message = f"there is no {request.url.path}; there are {known}."
    elif error.status_code == 405:
        message = f"{request.url.path} does not take {request.method}."
    return Problem(error.status_code, message, **error.headers or {}).response


class Routes:
    """The routes' functions.

    Args:
        decoding: what a request that says nothing else is answered with.
    """

    def __init__(self, assistant: Assistant, chat: ChatFlags, decoding: DecodingFlags):
        self.assistant, self.flags, self.decoding = assistant, chat, decoding
        self.created = int(time.time())

    async def models(self, request: Request) -> Response:
        """What can be talked to, the one in use first."""
        return JSONResponse({"object": "list", "data": list(map(self._model, self.assistant.names))})

    async def model(self, request: Request) -> Response:
        """One of them."""
        name, known = request.path_params["model"], self.assistant.names
        if name not in known:
            raise Problem(404, f"there is no model {name!r} here; there are: {', '.join(known)}.", "model")
        return JSONResponse(self._model(name))

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.created, "owned_by": "chinese-vicuna"}

    async def chat(self, request: Request) -> Response:
        """An answer to a conversation."""
        ask = await _asked(request, api_request.chat, self.assistant, self.flags, self.decoding)
        return await self._answer(request, ask, Chat())

    async def completion(self, request: Request) -> Response:
        """How a text goes on."""
        ask = await _asked(request, api_request.completion, self.assistant, self.decoding)
        return await self._answer(request, ask, Completion())

    async def embeddings(self, request: Request) -> Response:
        """Texts as vectors."""
        ask = await _asked(request, api_request.embedding, self.assistant)
        vectors: list[list[float]] = []
        for start in range(0, len(ask.rows), EMBEDDED_AT_ONCE):
            rows = ask.rows[start : start + EMBEDDED_AT_ONCE]
            work = partial(self.assistant.embed, rows, ask.adapter, ask.client)
            vectors += await while_there(request, _told(in_thread(work)))
        return JSONResponse(_embedded(ask, vectors))

    async def _answer(self, request: Request, ask: Ask, form: "Chat") -> Response:
        answers = Answers([
            partial(self._stream, ask, prompt, i) for prompt, i in product(ask.prompts, range(ask.n))
        ])  # fmt: skip
        growing = answers.growing()
        try:
            # The first update before any status: a full queue can still be said as 429.
            first = await while_there(request, _told(anext(growing)))
            if ask.stream:
                return Events(_chunks(ask, form, _told_each(_chain(first, growing))), answers.leave)
            latest = dict([first])
            await while_there(request, _told(_finish(latest, growing)))
        except BaseException:
            answers.leave()
            raise
        return JSONResponse(_whole(ask, form, [latest[i] for i in sorted(latest)]))

    def _stream(self, ask: Ask, prompt: list[int], i: int, stop: Event) -> Iterator[Update]:
        return self.assistant.stream(
            prompt, ask.chosen, nth_seed(ask.seed, i), stop, ask.adapter, ask.client, ask.stops
        )


async def _asked(request: Request, read: Callable[..., Any], *more: Any) -> Any:
    """What the body asks for, read in a thread: a long text takes its tokenizer a while.

    Raises:
        ClientDisconnect: who asked has gone, and is to take nobody's place in the queue.
    """
    values = await read_json(request)
    peer = f"{request.client.host}:{request.client.port}" if request.client else ""
    ask = await asyncio.to_thread(read, values, *more, peer)
    if await request.is_disconnected():
        raise ClientDisconnect
    return ask


def _as_problem(error: UserError) -> Problem:
    if isinstance(error, Busy):
        return Problem(429, str(error), code="rate_limit_exceeded", Retry_After=str(error.retry_s))
    # The request was in order, so asking again as it is helps as little as it did now.
    return Problem(500, str(error), x_should_retry="false")


async def _told(work: Awaitable[Any]) -> Any:
    """The result of `work`; what the model's side says of its user's mistakes as a Problem."""
    try:
        return await work
    except UserError as error:
        raise _as_problem(error) from error


async def _chain(first: Any, rest: AsyncIterator[Any]) -> AsyncIterator[Any]:
    yield first
    async for item in rest:
        yield item


async def _told_each(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
    try:
        async for item in items:
            yield item
    except UserError as error:
        raise _as_problem(error) from error


async def _finish(latest: dict[int, Update], growing: AsyncIterator[tuple[int, Update]]) -> None:
    async for i, update in growing:
        latest[i] = update


class Chat:
    """How /v1/chat/completions puts an answer."""

    prefix, whole, part = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def opening(self) -> dict[str, Any] | None:
        """What a stream begins with."""
        return {"delta": {"role": "assistant", "content": ""}}

    def answer(self, text: str) -> dict[str, Any]:
        """A whole answer."""
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def piece(self, text: str) -> dict[str, Any]:
        """A part of one."""
        return {"delta": {"content": text} if text else {}}


class Completion(Chat):
    """How /v1/completions does."""

    prefix, whole, part = "cmpl-", "text_completion", "text_completion"

    def opening(self) -> dict[str, Any] | None:
        return None

    def answer(self, text: str) -> dict[str, Any]:
        return {"text": text}

    piece = answer


def _choice(i: int, content: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": i, **content, "logprobs": None, "finish_reason": finish}


def _envelope(ask: Ask, form: Chat, kind: str) -> dict[str, Any]:
    return {"id": form.prefix + uuid.uuid4().hex, "object": kind, "created": int(time.time()), "model": ask.model}


def _usage(ask: Ask, updates: list[Update]) -> dict[str, int]:
    prompt, new = sum(map(len, ask.prompts)), sum(update.tokens for update in updates)
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


def _notices(ask: Ask) -> dict[str, list[str]]:
    return {"notices": list(ask.notices)} if ask.notices else {}


def _whole(ask: Ask, form: Chat, updates: list[Update]) -> dict[str, Any]:
    choices = [_choice(i, form.answer(update.text), FINISH[update.finish]) for i, update in enumerate(updates)]
    return {
        **_envelope(ask, form, form.whole),
        "choices": choices,
        "usage": _usage(ask, updates),
        **_notices(ask),
    }


async def _chunks(ask: Ask, form: Chat, growing: AsyncIterator[tuple[int, Update]]) -> AsyncIterator[dict[str, Any]]:
    """The answers as OpenAI streams them: pieces, the finish reason of each, and at last the usage if asked for."""
    head = _envelope(ask, form, form.part) | ({"usage": None} if ask.include_usage else {})
    count = len(ask.prompts) * ask.n
    grown = [TextDelta(steady=ask.chosen["num_beams"] == 1) for _ in range(count)]
    latest: dict[int, Update] = {}
    notices = _notices(ask)
    for i in range(count):
        if opening := form.opening():
            yield {**head, "choices": [_choice(i, opening, None)], **notices}
            notices = {}
    async for i, update in growing:
        latest[i] = update
        if new := grown[i].new(update.text, bool(update.finish)):
            yield {**head, "choices": [_choice(i, form.piece(new), None)]}
        if update.finish:
            yield {**head, "choices": [_choice(i, form.piece(""), FINISH[update.finish])]}
    if ask.include_usage:
        yield {**head, "choices": [], "usage": _usage(ask, list(latest.values()))}


def _embedded(ask: Embed, vectors: list[list[float]]) -> dict[str, Any]:
    tokens = sum(map(len, ask.rows))
    data = [
        {"object": "embedding", "index": i, "embedding": _base64(vector) if ask.as_base64 else vector}
        for i, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": ask.model, "usage": usage}


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
