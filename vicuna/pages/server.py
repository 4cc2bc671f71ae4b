"""Serving a page: the page and the routes beside it in one process on one port, behind one middleware.

Gradio is mounted into an application of our own, which routes may be added to first, and which bounds what a request
may bring. In front of both stands `vicuna.pages.front.Front`: it lets through only the paths that a page needs, to who
may have them, and tells the browser to fetch from nowhere else.
"""

import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import gradio as gr
from fastapi import FastAPI
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from vicuna.answer.flags import ServeFlags
from vicuna.doors.door import Door
from vicuna.log import log
from vicuna.pages.events import MAX_ANSWERS
from vicuna.pages.front import USER, Front
from vicuna.pages.localization import i18n
from vicuna.pages.turns import Turns
from vicuna.serving.connections import Connections
from vicuna.serving.listening import listen
from vicuna.serving.server import run
from vicuna.serving.visitors import Shares

MAX_BODY_BYTES = 8 * 2**20  # a conversation of 2 MB is escaped twice on its way

# Words that are read on every background: Gradio's own theme has some too pale for that, by WCAG 2 AA.
THEME = gr.themes.Default().set(
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_300",
    block_title_text_color="*neutral_700",
    block_title_text_color_dark="*neutral_200",
    input_placeholder_color="*neutral_500",
    input_placeholder_color_dark="*neutral_400",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_hover_dark="*primary_800",
)

# No page reports to anybody, and what Gradio may put into its cache is gone after an hour.
BLOCKS_KWARGS = {"analytics_enabled": False, "delete_cache": (3600, 3600)}

# Adds routes to an application, and names those that see themselves to who is let in; see `Front`.
AddRoutes = Callable[[FastAPI], Sequence[str]]


@dataclass(frozen=True)
class Page:
    """What is served at the root: Gradio's blocks, and what the browser gets beside them."""

    blocks: gr.Blocks
    css: str
    head: str = ""


def serve(
    page: Page,
    flags: ServeFlags,
    door: Door,
    add_routes: AddRoutes | None = None,
    describe_routes: Callable[[str], str] = lambda address: "",
    listening: socket.socket | None = None,
) -> None:
    """Serve a page until the program is ended.

    Args:
        add_routes: adds routes of its own to the application; describe_routes: says what they are at an address.
        listening: what `listen` gave for the flags' address, where that was called early.

    Raises:
        UserError: the address cannot be listened on.
    """
    listening = listening or listen(flags.host, flags.port)
    host = f"[{flags.host}]" if ":" in flags.host else flags.host
    address = f"http://{host}:{listening.getsockname()[1]}"
    log.info("the page is at %s", address)
    if described := describe_routes(address):
        log.info("%s", described)
    if flags.share_link:
        here = "127.0.0.1" if flags.host in ("0.0.0.0", "::") else flags.host
        _open_share_link(here, listening.getsockname()[1], door)
    door.tell()
    # Whoever comes by the public link comes from this machine, whoever comes by a proxy from there.
    shared = [*door.proxies, *(["127.0.0.0/8", "::1"] if flags.share_link else [])]
    run(application(page, flags, door, add_routes), [listening], Connections(shared=shared))


def application(page: Page, flags: ServeFlags, door: Door, add_routes: AddRoutes | None = None) -> FastAPI:
    """The page and the routes beside it as one application."""
    app = FastAPI(openapi_url=None, max_body_size=MAX_BODY_BYTES)
    beside = add_routes(app) if add_routes else ()
    page.blocks.queue(max_size=None, api_open=False, default_concurrency_limit=MAX_ANSWERS)
    gr.mount_gradio_app(
        app,
        page.blocks,
        "/",
        app_kwargs={"openapi_url": None},
        server_name=flags.host,
        server_port=flags.port,
        auth_dependency=(lambda request: request.scope.get(USER)) if door.accounts else None,
        i18n=i18n,
        theme=THEME,
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
    login_of = (lambda request: request.scope.get(USER)) if len(door.accounts) > 1 else None
    app.add_middleware(Shares, login_of=login_of, is_public=door.names.is_public)
    app.add_middleware(Front, door=door, port=flags.port, beside=beside)
    if door.proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=list(door.proxies))
    return app


def _open_share_link(host: str, port: int, door: Door) -> None:
    """A public link through Gradio's service, by whose name the server is called too; without one the page is served
    all the same."""
    from gradio.networking import setup_tunnel

    try:
        link = setup_tunnel(host, port, secrets.token_urlsafe(32), None, None)
    except Exception as error:  # whatever the service, the network or its program say
        log.warning("WARNING no public link could be opened (%s); the page is served here only.", error)
        return
    door.names.add_public(urlsplit(link).hostname or "")
    log.info("the public link is %s", link.replace("http://", "https://", 1))
