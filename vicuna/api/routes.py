"""OpenAI's routes under /v1 of a server: chat completions, completions, models and embeddings; beside them the
tokenizer's, in vLLM's form.

    curl localhost:7860/v1/chat/completions -H 'Content-Type: application/json' \\
        -d '{"messages": [{"role": "user", "content": "你好"}]}'

`model` names an adapter, or the base by its own name. A field that is left out is as on the page; top_k, min_p,
repetition_penalty, num_beams, do_sample and min_tokens go beyond OpenAI's. Requests wait in the same queue as those
of the page, and a client that goes away loses its place.
"""

import asyncio
import contextlib
import json
import shlex
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from itertools import product
from threading import Event
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from vicuna.answer.assistant import Assistant
from vicuna.answer.decoding import derive_seed
from vicuna.answer.fair_queue import Client, QueueFull
from vicuna.answer.flags import ChatFlags, DecodingFlags
from vicuna.answer.stream import Update
from vicuna.api.bodies import BROKEN, ChatFormat, CompletionFormat, EventStream, embeddings_body
from vicuna.api.concurrency import Answers, cancel_on_disconnect, run_in_thread
from vicuna.api.error_body import APIError, said_to_programs
from vicuna.api.guard import Guard, read_json
from vicuna.api.parsing import CompletionRequest, parse_chat, parse_completion, parse_embedding
from vicuna.api.scores import ScoreRequest, asks_for_scores, parse_scores, scores_body
from vicuna.api.tokenization import detokenize, tokenize, tokenizer_info
from vicuna.doors.door import Door
from vicuna.errors import UserError
from vicuna.log import log
from vicuna.serving.visitors import share_of

AT_ONCE = 8  # rows that are embedded or scored, behind which other clients have their turn
ROUTES = ("/chat/completions", "/completions", "/models", "/models/{model:path}", "/embeddings")
HEALTH = "/health"
TOKENIZER_ROUTES = ("/tokenize", "/detokenize", "/tokenizer_info")


def add_routes(app: FastAPI, assistant: Assistant, chat: ChatFlags, door: Door, decoding: DecodingFlags) -> list[str]:
    """Let `app` answer under /v1, before whatever else it serves, and say where: what lies below a path that ends in a
    slash, and what is at the others."""
    routes = Routes(assistant, chat, decoding)
    inner = _app(
        Route(ROUTES[0], routes.chat, methods=["POST"]),
        Route(ROUTES[1], routes.completion, methods=["POST"]),
        Route(ROUTES[2], routes.models, methods=["GET"]),
        Route(ROUTES[3], routes.model, methods=["GET"]),
        Route(ROUTES[4], routes.embeddings, methods=["POST"]),
    )
    tokenizer = _app(
        Route(TOKENIZER_ROUTES[0], routes.tokenize, methods=["POST"]),
        Route(TOKENIZER_ROUTES[1], routes.detokenize, methods=["POST"]),
        Route(TOKENIZER_ROUTES[2], routes.tokenizer_info, methods=["GET"]),
    )
    app.router.routes[:0] = [
        Route(HEALTH, _health, methods=["GET"]),
        Mount("/v1", Guard(inner, door)),
        *(Route(path, Guard(tokenizer, door)) for path in TOKENIZER_ROUTES),
    ]
    return ["/v1/", *TOKENIZER_ROUTES, HEALTH]


def describe_routes(address: str, assistant: Assistant, has_key: bool) -> str:
    """Where the routes are and what can be asked, with a command that does.

    Args:
        address: of the server, such as http://127.0.0.1:7860.
    """
    first, *others = assistant.names
    key = ' -H "Authorization: Bearer $VICUNA_API_KEY"' if has_key else ""
    body = json.dumps({"model": first, "messages": [{"role": "user", "content": "你好"}]}, ensure_ascii=False)
    return (
        f"OpenAI's routes are at {address}/v1; models: {', '.join([first, *others])}\n"
        f"  curl {address}/v1/chat/completions -H 'Content-Type: application/json'{key} -d {shlex.quote(body)}"
    )


async def _health(request: Request) -> Response:
    """Whether the server answers; asked by programs that watch it, without a key."""
    return JSONResponse({"status": "ok"})


def _app(*routes: Route) -> Starlette:
    """Routes whose refusals and failures are answered in OpenAI's form."""
    return Starlette(
        routes=routes,
        exception_handlers={
            APIError: lambda request, error: error.response,
            HTTPException: _no_route,
            ClientDisconnect: lambda request, error: Response(status_code=499),  # which nobody receives
            # Starlette raises it again once this is sent, and uvicorn then closes the connection: who is not told of
            # that sends the next request into it.
            Exception: lambda request, error: APIError(500, BROKEN, Connection="close").response,
        },
    )


def _no_route(request: Request, error: Exception) -> Response:
    message = error.detail
    if error.status_code == 404:
        known = ", ".join(f"/v1{route}" for route in ROUTES).replace(":path", "")
        message = f"there is no {request.url.path}; there are {known}."
    elif error.status_code == 405:
        message = f"{request.url.path} does not take {request.method}."
    return APIError(error.status_code, message, **error.headers or {}).response


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
        if self.assistant.find(name) is None:
            raise APIError(404, f"there is no model {name!r} here; there are: {', '.join(known)}.", "model")
        return JSONResponse(self._model(name))

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.created, "owned_by": "chinese-vicuna"}

    async def chat(self, request: Request) -> Response:
        """An answer to a conversation."""
        asked = await _parsed(request, parse_chat, self.assistant, self.flags, self.decoding)
        if said := [*asked.notices, *filter(None, [asked.left_out])]:
            log.info("a request to %s: %s", asked.model, "; ".join(said))
        return await self._answer(request, asked, ChatFormat(asked))

    async def completion(self, request: Request) -> Response:
        """How a text goes on, or how likely it is."""
        asked = await _parsed(request, _parse_completion, self.assistant, self.decoding)
        if isinstance(asked, ScoreRequest):
            scored = await self._in_turns(
                request,
                asked.rows,
                lambda rows: partial(self.assistant.score, rows, asked.top or 0, asked.adapter, asked.client),
            )
            return JSONResponse(await asyncio.to_thread(scores_body, asked, scored, self.assistant.tokenizer))
        return await self._answer(request, asked, CompletionFormat(asked))

    async def tokenize(self, request: Request) -> Response:
        """The ids of a text."""
        return JSONResponse(await _parsed(request, tokenize, self.assistant))

    async def detokenize(self, request: Request) -> Response:
        """The text of ids."""
        return JSONResponse(await _parsed(request, detokenize, self.assistant))

    async def tokenizer_info(self, request: Request) -> Response:
        """What there is to know of the tokenizer."""
        return JSONResponse(tokenizer_info(self.assistant))

    async def embeddings(self, request: Request) -> Response:
        """Texts as vectors."""
        asked = await _parsed(request, parse_embedding, self.assistant)
        vectors = await self._in_turns(
            request, asked.rows, lambda rows: partial(self.assistant.embed, rows, asked.adapter, asked.client)
        )
        return JSONResponse(embeddings_body(asked, vectors))

    async def _in_turns(
        self, request: Request, rows: list[list[int]], work: Callable[[list[list[int]]], Callable[[Event], list]]
    ) -> list:
        """What `work` makes of some rows after the other, between which other clients have their turn."""
        found: list = []
        for start in range(0, len(rows), AT_ONCE):
            with _errors_answered():
                part = run_in_thread(work(rows[start : start + AT_ONCE]))
                found += await cancel_on_disconnect(request, part)
        return found

    async def _answer(self, request: Request, asked: CompletionRequest, form: ChatFormat) -> Response:
        answers = Answers([
            partial(self._stream, asked, prompt, i) for prompt, i in product(asked.prompts, range(asked.n))
        ])  # fmt: skip
        growing = answers.updates()
        try:
            with _errors_answered():
                # The first update before any status: a full queue can still be said as 429.
                first = await cancel_on_disconnect(request, anext(growing))
                if asked.stream:
                    return EventStream(form.chunks(_from_first(first, growing)), answers.cancel, form.headers)
                latest = dict([first])
                await cancel_on_disconnect(request, _finish(latest, growing))
        except BaseException:
            answers.cancel()
            raise
        return JSONResponse(form.body([latest[i] for i in sorted(latest)]), headers=form.headers)

    def _stream(self, asked: CompletionRequest, prompt: list[int], i: int, stop: Event) -> Iterator[Update]:
        seed = derive_seed(asked.seed, i)
        how = (asked.adapter, asked.client, asked.stops, asked.prompt_type, asked.grammar)
        return self.assistant.stream(prompt, asked.chosen, seed, stop, *how)


def _parse_completion(
    values: dict[str, Any], assistant: Assistant, decoding: DecodingFlags, peer: Client
) -> CompletionRequest | ScoreRequest:
    if asks_for_scores(values):
        return parse_scores(values, assistant, peer)
    return parse_completion(values, assistant, decoding, peer)


async def _parsed(request: Request, parse: Callable[..., Any], *more: Any) -> Any:
    """What the body asks for, read in a thread: a long text takes its tokenizer a while.

    Raises:
        ClientDisconnect: who asked has gone, and is to take nobody's place in the queue.
    """
    values = await read_json(request)
    peer = Client(share_of(request), f":{request.client.port}" if request.client else "")
    asked = await asyncio.to_thread(parse, values, *more, peer)
    if await request.is_disconnected():
        raise ClientDisconnect
    return asked


@contextlib.contextmanager
def _errors_answered() -> Iterator[None]:
    """What the model's side says of its user's mistakes becomes an APIError."""
    try:
        yield
    except QueueFull as error:
        raise APIError(429, str(error), code="rate_limit_exceeded", Retry_After=str(error.retry_s)) from error
    except UserError as error:
        raise APIError(500, said_to_programs(error)) from error


async def _from_first(first: Any, rest: AsyncIterator[Any]) -> AsyncIterator[Any]:
    with _errors_answered():
        yield first
        async for item in rest:
            yield item


async def _finish(latest: dict[int, Update], growing: AsyncIterator[tuple[int, Update]]) -> None:
    async for i, update in growing:
        latest[i] = update
