"""Serving a page: the page and the routes beside it in one process on one port, behind one middleware.

Gradio is mounted into an application of our own, which routes may be added to first, and which bounds what a request
may bring. In front of both stands `SecurityMiddleware`: it lets through only the paths that a page needs, and tells the
browser to fetch from nowhere else.
"""

import hashlib
import hmac
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import gradio as gr
from fastapi import FastAPI
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vicuna.answer.flags import ServeFlags
from vicuna.errors import UserError
from vicuna.log import log
from vicuna.pages.events import MAX_ANSWERS
from vicuna.pages.localization import i18n
from vicuna.pages.turns import Turns
from vicuna.serving.connections import Connections
from vicuna.serving.server import run
from vicuna.serving.visitors import Shares

MAX_BODY_BYTES = 8 * 2**20  # a conversation of 2 MB is escaped twice on its way

# No page reports to anybody, and what Gradio may put into its cache is gone after an hour.
BLOCKS_KWARGS = {"analytics_enabled": False, "delete_cache": (3600, 3600)}

# What Gradio's pages ask for. Its other routes take files, write them or fetch them; none of our pages needs one.
_GRADIO = "/gradio_api/"
_ALLOWED = (
    *("queue/join", "queue/data", "heartbeat/", "startup-events", "cancel", "reset", "run/", "call/"),
    *("info", "user", "login_check", "app_id", "theme.css"),
)
_BLOCKED = ("/monitoring", "/file", "/upload")
_HEADERS = {
    # 'unsafe-inline' and 'unsafe-eval': Gradio's own scripts. Nothing is fetched from another origin, ever.
    "content-security-policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; form-action 'self'; "
    "frame-src 'none'; object-src 'none'; base-uri 'self'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True)
class Page:
    """What is served at the root: Gradio's blocks, and what the browser gets beside them."""

    blocks: gr.Blocks
    css: str
    head: str = ""


class SecurityMiddleware:
    """Stands before the whole application; see the module's docstring.

    Args:
        routes: paths beside the page, which say themselves who may read their answers.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[str] = ()):
        self.app, self.routes = app, tuple(f"{path}/" for path in routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if _is_blocked(scope["path"]):
            await PlainTextResponse("Not Found", 404, _HEADERS)(scope, receive, send)
            return
        kept = scope["path"].startswith(self.routes)
        await self.app(scope, receive, lambda message: send(_with_headers(message, kept)))


def _is_blocked(path: str) -> bool:
    if path.startswith(_GRADIO):
        return not path.removeprefix(_GRADIO).startswith(_ALLOWED)
    return path.startswith(_BLOCKED)


def _with_headers(message: Message, readable: bool) -> Message:
    """No page elsewhere may read an answer that does not say so itself, and none of ours fetches from elsewhere."""
    if message["type"] != "http.response.start":
        return message
    headers = message.get("headers", [])
    kept = [(name, value) for name, value in headers if readable or not name.startswith(b"access-control-")]
    return {**message, "headers": kept + [(name.encode(), value.encode()) for name, value in _HEADERS.items()]}


def authenticator(accounts: list[str]) -> Callable[[str, str], bool] | None:
    """What says whether a user's password is right, in constant time; None where there are no accounts."""
    known = [_digest(*account.split(":", 1)) for account in accounts]

    def is_right(user: str, password: str) -> bool:
        given = _digest(user, password)
        return any([hmac.compare_digest(given, one) for one in known])

    return is_right if known else None


def _digest(user: str, password: str) -> bytes:
    return hashlib.sha256(f"{user.strip()}\0{password}".encode(errors="replace")).digest()


def serve(page: Page, flags: ServeFlags, add_routes: Callable[[FastAPI], None] | None = None) -> None:
    """Serve a page until the program is ended.

    Args:
        add_routes: adds routes of its own to the application.

    Raises:
        UserError: the address cannot be listened on.
    """
    if flags.reached_from_elsewhere and not flags.auth:
        log.warning(
            "WARNING %s lets others reach the page, and no --auth asks who they are.", flags.reached_from_elsewhere
        )
    listening = _listen(flags.host, flags.port)
    host = f"[{flags.host}]" if ":" in flags.host else flags.host
    log.info("the page is at http://%s:%d", host, listening.getsockname()[1])
    if flags.share_link:
        _open_share_link("127.0.0.1" if flags.host in ("0.0.0.0", "::") else flags.host, listening.getsockname()[1])
    # Whoever comes by the public link comes from this machine.
    connections = Connections(shared=["127.0.0.0/8", "::1"] if flags.share_link else [])
    run(application(page, flags, add_routes), [listening], connections)


def application(page: Page, flags: ServeFlags, add_routes: Callable[[FastAPI], None] | None = None) -> FastAPI:
    """The page and the routes beside it as one application."""
    app = FastAPI(openapi_url=None, max_body_size=MAX_BODY_BYTES)
    if add_routes:
        add_routes(app)
    beside = [route.path for route in app.routes if isinstance(route, Mount)]
    page.blocks.queue(max_size=None, api_open=False, default_concurrency_limit=MAX_ANSWERS)
    gr.mount_gradio_app(
        app,
        page.blocks,
        "/",
        app_kwargs={"openapi_url": None},
        server_name=flags.host,
        server_port=flags.port,
        auth=authenticator(flags.auth),
        i18n=i18n,
        css=page.css,
        head=page.head,
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=1,  # uploads are closed anyway
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
    )
    app.add_middleware(Turns, max_queue=flags.max_queue)
    # One account tells nobody apart. A public link's tunnel is a proxy, and says whom it brings.
    login_of = (lambda request: request.scope.get("vicuna_user")) if len(flags.auth) > 1 else None
    app.add_middleware(Shares, login_of=login_of, is_public=lambda request: flags.share_link)
    app.add_middleware(SecurityMiddleware, routes=beside)
    return app


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise UserError(f"--host {host} --port {port} can not be listened on; is the port taken? ({error})") from error


def _open_share_link(host: str, port: int) -> None:
    """A public link through Gradio's service; without one the page is served all the same."""
    from gradio.networking import setup_tunnel

    try:
        link = setup_tunnel(host, port, secrets.token_urlsafe(32), None, None)
    except Exception as error:  # whatever the service, the network or its program say
        log.warning("WARNING no public link could be opened (%s); the page is served here only.", error)
        return
    log.info("the public link is %s", link.replace("http://", "https://", 1))
