"""What of a page is worked on, for whom, and until when: in front of Gradio, whose queue knows no visitors.

Gradio takes what is asked for by any number of session names, in the order in which it came, and works on it whether
or not anybody listens. So an answer is let into its queue when it is its visitor's turn; it begins once somebody
listens to it, and ends when nobody does any more. What is asked without the queue waits for its turn likewise, and ends
when its connection does.
"""

import asyncio
import contextlib
import functools
import json
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vicuna.answer import leaving
from vicuna.answer.fair_queue import Client, QueueFull
from vicuna.pages.events import MAX_ANSWERS
from vicuna.serving.gate import Gate, Place
from vicuna.serving.visitors import share_of

EACH = 4  # answers, and calls beside the queue, of one visitor that are worked on at once
MAX_CALLS = 16  # beside the queue that are worked on at once; they share 40 threads with the answers
CALLS_WAITING = 256
UNHEARD_S = 5.0  # that somebody has to listen in, or may be away for
STATE = "turn"  # where a request's scope has its `Turn`
_JOINS = ("/gradio_api/queue/join", "/gradio_api/call/")
_CALLS = ("/gradio_api/run/", "/gradio_api/api/")


class Turn:
    """An answer that was let in.

    Attributes:
        heard: set once somebody listens.
        gone: set once nobody does any more.
    """

    def __init__(self, place: Place, listeners: "Listeners"):
        self.place, self.listeners = place, listeners
        self.heard, self.gone, self.keys = threading.Event(), threading.Event(), set()
        self._acts: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def give_up(self) -> None:
        """Nobody listens any more."""
        with self._lock:
            self.gone.set()
            acts, self._acts = self._acts, []
        self.heard.set()  # who waits for it need not
        for act in acts:
            act()
        self.end()

    def when_gone(self, act: Callable[[], None]) -> None:
        """Have something done once nobody listens any more."""
        with self._lock:
            if not self.gone.is_set():
                self._acts.append(act)
                return
        act()

    def end(self) -> None:
        """It is answered."""
        with self._lock:
            self._acts.clear()
        self.listeners.forget(self)
        self.place.leave()


class Listeners:
    """Who listens to what: streams of a session, or of one event."""

    def __init__(self) -> None:
        self._count: Counter[str] = Counter()
        self._turns: dict[str, set[Turn]] = defaultdict(set)
        self._lock = threading.RLock()

    def add(self, key: str) -> None:
        """A stream has begun."""
        with self._lock:
            self._count[key] += 1
            for turn in self._turns.get(key, ()):
                turn.heard.set()

    def remove(self, key: str) -> list[Turn]:
        """A stream has ended; the turns that it was for."""
        with self._lock:
            self._count[key] -= 1
            if not self._count[key]:
                del self._count[key]
            return list(self._turns.get(key, ()))

    def wait_for(self, turn: Turn, key: str) -> None:
        """A turn is listened to by a stream of this name."""
        with self._lock:
            turn.keys.add(key)
            self._turns[key].add(turn)
            if self._count[key]:
                turn.heard.set()

    def hears(self, turn: Turn) -> bool:
        """Whether anybody listens to it."""
        with self._lock:
            return any(self._count[key] for key in turn.keys)

    def turns(self) -> list[Turn]:
        """All that are not over."""
        with self._lock:
            return list(set().union(*self._turns.values()))

    def forget(self, turn: Turn) -> None:
        """It is over."""
        with self._lock:
            for key in turn.keys:
                self._turns[key].discard(turn)
                if not self._turns[key]:
                    del self._turns[key]
            turn.keys.clear()


class Turns:
    """Stands before Gradio; see the module's docstring.

    Args:
        max_queue: answers that may wait to be let in.
    """

    def __init__(self, app: ASGIApp, max_queue: int):
        self.app = app
        self.answers = Gate(MAX_ANSWERS, EACH, max_queue)
        self.calls = Gate(MAX_CALLS, EACH, CALLS_WAITING)
        self.listeners = Listeners()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["method"] == "POST" and path.startswith(_JOINS):
            await self._join(scope, receive, send)
        elif scope["method"] == "POST" and path.startswith(_CALLS):
            await self._call(scope, receive, send)
        elif key := _listened(scope):
            self.listeners.add(key)
            try:
                await self.app(scope, receive, send)
            finally:
                for turn in self.listeners.remove(key):
                    self._look_later(turn)
        else:
            await self.app(scope, receive, send)

    def _look_later(self, turn: Turn) -> None:
        """Give a turn up, unless somebody listens by then."""

        def look() -> None:
            if not self.listeners.hears(turn):
                turn.give_up()

        asyncio.get_running_loop().call_later(UNHEARD_S, look)

    async def _join(self, scope: Scope, receive: Receive, send: Send) -> None:
        entering = _Entering(self.answers, scope, receive)
        body = bytearray()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            body.extend(message.get("body", b""))
            await send(message)

        def let_in(place: Place) -> None:
            scope.setdefault("state", {})[STATE] = Turn(place, self.listeners)

        entering.let_in = let_in
        is_joined = False
        try:
            await entering.run(self.app, scope, sending, send)
            is_joined = status == 200
        finally:
            if turn := scope.get("state", {}).get(STATE):
                if is_joined:
                    self.listeners.wait_for(turn, json.loads(body)["event_id"])
                    self._look_later(turn)
                else:
                    turn.end()

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        entering = _Entering(self.calls, scope, receive)
        gone, places, watching = threading.Event(), [], []

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()

        def let_in(place: Place) -> None:
            places.append(place)
            watching.append(asyncio.create_task(watch()))

        entering.let_in = let_in
        leaving.work_until(gone, gr.Error("", print_exception=False))
        try:
            await entering.run(self.app, scope, send, send)
        finally:
            for task in watching:
                task.cancel()
            for place in places:
                place.leave()


class _Entering:
    """A request that enters a gate with the last of its body: until then it takes nobody's place."""

    def __init__(self, gate: Gate, scope: Scope, receive: Receive):
        self.gate, self.client, self.receive = gate, Client(share_of(HTTPConnection(scope))), receive
        self.let_in: Callable[[Place], None] = lambda place: None
        self._refused: QueueFull | None = None

    async def run(self, app: ASGIApp, scope: Scope, send: Send, refuse: Send) -> None:
        """Have the request answered: by the application, or by saying that too many wait."""
        with contextlib.suppress(_Refused):
            await app(scope, self._receiving, lambda message: self._sending(message, send))
        if self._refused:
            headers = {"Retry-After": str(self._refused.retry_s)}
            await JSONResponse({"detail": str(self._refused)}, 503, headers)(scope, self.receive, refuse)

    async def _receiving(self) -> Message:
        message = await self.receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            try:
                self.let_in(await self.gate.enter(self.client))
            except QueueFull as full:
                self._refused = full
                raise _Refused from full
        return message

    async def _sending(self, message: Message, send: Send) -> None:
        if not self._refused:  # what the application makes of the refusal is not what is to be said
            await send(message)


class _Refused(Exception):
    pass


def _listened(scope: Scope) -> str:
    """The session or the event whose stream a request asks for; "" for none."""
    if scope["path"].rstrip("/") == "/gradio_api/queue/data":
        return parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
    return scope["path"].rstrip("/").rpartition("/")[2] if scope["path"].startswith("/gradio_api/call/") else ""


def client_of(request: gr.Request) -> Client:
    """Who asks: whose share, and which tab."""
    return Client(share_of(request.request), request.session_hash or "")


def attended(handler: Callable[..., Iterator[Any]], when_gone: Callable[[gr.Request], None]) -> Callable:
    """A handler of an answer, whose steps are made from when somebody listens to it until nobody does any more.

    Args:
        when_gone: what is to be done then.
    """

    @functools.wraps(handler)
    def attended_handler(request: gr.Request, *values: Any) -> Iterator[Any]:
        turn: Turn | None = request.request.scope.get("state", {}).get(STATE)
        if turn is None:
            yield from handler(request, *values)
            return
        try:
            turn.listeners.wait_for(turn, request.session_hash)
            turn.heard.wait()
            if turn.gone.is_set():
                return
            turn.when_gone(lambda: when_gone(request))
            yield from leaving.steps_until(turn.gone, handler(request, *values))
        except GeneratorExit:  # Gradio closes what was asked by a session that has left
            turn.give_up()
            raise
        finally:
            turn.end()

    return attended_handler
