"""Who may use the API: the key, and the checks of every request before a route sees it.

Who sends the right key is let in, by whatever name. Without a key a page of another site, opened in a visitor's
browser, can send requests to this machine. What gives it away is checked: a Host that is not this server's (DNS
rebinding), a foreign Origin, a body that a form could have sent. No header lets another origin read an answer, unless
the server was told its name.
"""

import asyncio
import hmac
import json
import re
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vicuna.answer.flags import ChatFlags, ServeFlags
from vicuna.api.error_body import APIError
from vicuna.errors import UserError

MAX_BODY_BYTES = 1 << 20
DRAINED_BYTES = 32 << 20  # of a body that is too large: read on, or the sender would never see the answer
BODY_S = 60  # in which a body must have arrived
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "*, Authorization",
    "Access-Control-Max-Age": "600",
}
_HOST = re.compile(r"(?:\[([^\]]+)\]|([^:\[\]]*))(?::\d*)?")  # [address] or name, perhaps with a port


def api_key(chat: ChatFlags, serve: ServeFlags) -> str:
    """The key that requests must carry; "" asks for none.

    Raises:
        UserError: strangers could reach the routes without one, or it can not be sent in a header.
    """
    key = chat.api_key
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UserError("--api_key must consist of ASCII letters, digits and signs, without spaces.")
    if key:
        return key
    if serve.auth:
        open_by = "--auth protects the page,"
    elif serve.reached_from_elsewhere:
        open_by = f"{serve.reached_from_elsewhere} lets others reach the page,"
    else:
        return ""
    raise UserError(f"{open_by} and nothing protects the routes of --api: give --api_key as well, or VICUNA_API_KEY.")


class Guard:
    """Refuses what is not from a client of this server.

    Args:
        host: that the server was told to listen on; hosts: other names that it may be called by.
        origins: of other sites whose pages may use it.
        key: that requests must carry, "" for none.
    """

    def __init__(self, app: ASGIApp, host: str, key: str, hosts: Sequence[str] = (), origins: Sequence[str] = ()):
        self.app, self.host, self.key, self.origins = app, host, key, origins
        self.names = ("localhost", host.lower(), socket.gethostname().lower(), *hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        origin = request.headers.get("origin")
        if origin in self.origins:
            send = _readable_by(origin, send)
            if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
                await Response(status_code=204, headers=_PREFLIGHT)(scope, receive, send)  # which carries no key
                return
        error = self._refusal(request)
        await (error.response if error else self.app)(scope, receive, send)

    def _refusal(self, request: Request) -> APIError | None:
        if self.key and not self._has_key(request.headers.get("authorization", "")):
            message = "the API key is missing or wrong; send the server's key as Authorization: Bearer KEY."
            return APIError(401, message, code="invalid_api_key", WWW_Authenticate="Bearer")
        if not self.key and (error := self._foreign(request)):
            return error
        content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if request.method == "POST" and content_type != "application/json":
            return APIError(415, f"Content-Type is {content_type!r}, expected application/json.")
        return None

    def _foreign(self, request: Request) -> APIError | None:
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if not self._is_ours(host, request.scope.get("server")):
            message = (
                f"Host {host[:200]!r} is not this server; use the address it listens on, or name it by --allow_host."
            )
            return APIError(403, message, code="foreign_host")
        if origin not in (None, f"http://{host}", f"https://{host}", *self.origins):
            message = f"requests of pages from {origin[:200]!r} are not answered, unless --allow_origin names them."
            return APIError(403, message, code="foreign_origin")
        return None

    def _is_ours(self, header: str, server: tuple[str, int | None] | None) -> bool:
        parts = _HOST.fullmatch(header)
        name = parts[1] or parts[2] if parts else ""
        if name.lower() in self.names:
            return True
        try:
            address = ip_address(name)
        except ValueError:
            return False  # a name of somebody else's, whatever it resolves to
        if str(address) in self.names:
            return True
        # A name can be made to resolve to this machine, an address can not.
        everywhere = self.host in ("", "0.0.0.0", "::")
        return everywhere or address.is_loopback or (server is not None and str(address) == server[0])

    def _has_key(self, header: str) -> bool:
        scheme, _, sent = header.partition(" ")
        same = hmac.compare_digest(sent.strip().encode("utf-8", "surrogateescape"), self.key.encode())
        return same and scheme.lower() == "bearer"


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
