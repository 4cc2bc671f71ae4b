"""Whose share of the server a request takes: its login's or its address's, never a name that its client made up.

What X-Forwarded-For says is believed of a proxy that the server was told of (uvicorn's `ProxyHeadersMiddleware` then
puts it in the place of the address), and of the tunnel of a public link, whose requests all come from this machine.
"""

from collections.abc import Callable
from ipaddress import ip_address

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from vicuna.serving.connections import network_of

STATE = "share"  # where a request's scope has it


class Shares:
    """Tells requests whose share they take.

    Args:
        login_of: the login that a request came with, "" for none; None where all visitors have the same one.
        is_public: whether a request came by the name of a public link.
    """

    def __init__(
        self,
        app: ASGIApp,
        login_of: Callable[[HTTPConnection], str | None] | None = None,
        is_public: Callable[[HTTPConnection], bool] = lambda request: False,
    ):
        self.app, self.login_of, self.is_public = app, login_of, is_public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = HTTPConnection(scope)
            login = self.login_of(request) if self.login_of else ""
            scope.setdefault("state", {})[STATE] = f"login {login}" if login else self._address(request)
        await self.app(scope, receive, send)

    def _address(self, request: HTTPConnection) -> str:
        address = _peer(request)
        said = request.headers.getlist("x-forwarded-for")
        # The last one is the tunnel's word; what stands before it its visitor may have written.
        return (
            network_of(said[-1].split(",")[-1].strip())
            if said and _is_local(address) and self.is_public(request)
            else network_of(address)
        )


def _peer(request: HTTPConnection) -> str:
    return request.client.host if request.client else ""


def _is_local(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def share_of(request: HTTPConnection) -> str:
    """Whose share a request takes; its address's, where no `Shares` stands in front."""
    return request.scope.get("state", {}).get(STATE) or network_of(_peer(request))
