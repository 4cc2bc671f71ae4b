"""Who may use the API: the checks of every request before a route sees it.

Who sends the right key is let in, by whatever name. Without a key a request must be one of this server's own clients
(see `vicuna.doors.names`), and no body that a form could have sent. No header lets another origin read an answer,
unless the server was told its name.
"""

import asyncio
import json
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vicuna.api.error_body import APIError
from vicuna.doors.door import Door, Key
from vicuna.log import log

MAX_BODY_BYTES = 1 << 20
DRAINED_BYTES = 32 << 20  # of a body that is too large: read on, or the sender would never see the answer
BODY_S = 60  # in which a body must have arrived
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "*, Authorization",
    "Access-Control-Max-Age": "600",
}


class Guard:
    """Refuses what is not from a client of this server."""

    def __init__(self, app: ASGIApp, door: Door):
        self.app, self.door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        origin = request.headers.get("origin")
        if origin in self.door.names.origins:
            send = _readable_by(origin, send)
            if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
                await Response(status_code=204, headers=_PREFLIGHT)(scope, receive, send)  # which carries no key
                return
        error = self._refusal(request)
        await (error.response if error else self.app)(scope, receive, send)

    def _refusal(self, request: Request) -> APIError | None:
        if error := self._wrong_key(request) if self.door.key else self._foreign(request):
            return error
        content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if request.method == "POST" and content_type != "application/json":
            return APIError(415, f"Content-Type is {content_type!r}, expected application/json.")
        return None

    def _wrong_key(self, request: Request) -> APIError | None:
        brought = self.door.key_of(request)
        if brought is Key.RIGHT:
            return None
        if brought is Key.TOO_MANY:
            wait = self.door.wait_s(request)
            message = f"too many wrong keys came from this address; try again in {wait} s."
            return APIError(429, message, code="too_many_wrong_keys", Retry_After=str(wait))
        message = "the API key is missing or wrong; send the server's key as Authorization: Bearer KEY."
        return APIError(401, message, code="invalid_api_key", WWW_Authenticate="Bearer")

    def _foreign(self, request: Request) -> APIError | None:
        foreign = self.door.names.foreign(request)
        if foreign is None:
            return None
        header = foreign.header
        log.info("a request was refused: its %s is %r, which --allow_%s does not name", header, foreign.value, header)
        if header == "host":
            message = f"Host {foreign.value!r} is not this server; use the address it listens on."
        else:
            message = f"requests of pages from {foreign.value!r} are not answered here."
        return APIError(403, message, code=f"foreign_{header}")


def _readable_by(origin: str, send: Send) -> Send:
    """`send` with the header that lets pages of `origin` read the answer."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = "*"
            headers.add_vary_header("Origin")
        await send(message)

    return sending


async def read_json(request: Request) -> dict[str, Any]:
    """The body of a request.

    Raises:
        APIError: too large, too slow, or not a JSON object.
    """
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                size += len(part)
                if size <= MAX_BODY_BYTES:
                    body += part
                elif size > DRAINED_BYTES:
                    break
    except TimeoutError:
        raise APIError(408, f"the body did not arrive within {BODY_S} seconds.", Connection="close") from None
    if size > MAX_BODY_BYTES:
        raise APIError(413, f"the body is larger than {MAX_BODY_BYTES} bytes: send a shorter conversation.")
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise APIError(400, f"the body is not JSON: {reason}.") from error
    if not isinstance(values, dict):
        raise APIError(400, "the body is not a JSON object.")
    return values
