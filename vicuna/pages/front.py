"""What stands in front of the page: only what it needs is let through, from where it may come, to who is logged in.

The page is Gradio's, whose own login leaves some of its routes open, sends its cookie to other sites and logs out by a
link. So the login is ours: without one nothing is answered but the form that asks for it.
"""

import asyncio
from collections.abc import Sequence
from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vicuna.doors.door import Door, Key
from vicuna.pages.localization import strings_in
from vicuna.pages.login_page import login_page, refusal_page
from vicuna.pages.strings import Strings

USER = "vicuna_user"  # of a request's scope: who is logged in
MAX_LOGIN_BYTES = 8192
LOGIN_S = 30  # in which the form must have arrived

# What Gradio's pages ask for. Its other routes take files, write them or fetch them; none of our pages needs one.
_GRADIO = "/gradio_api/"
_ALLOWED = (
    *("queue/join", "queue/data", "heartbeat/", "startup-events", "cancel", "reset", "run/", "call/"),
    *("info", "user", "login_check", "app_id", "theme.css"),
)
_BLOCKED = ("/monitoring", "/file", "/upload")
# 'unsafe-inline' and 'unsafe-eval': Gradio's own scripts. Nothing is fetched from another origin, ever.
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; form-action 'self'; frame-src 'none'; "
    "object-src 'none'; base-uri 'self'; frame-ancestors 'self'"
)


class Front:
    """Answers a request, or lets it through to the application.

    Args:
        beside: paths of routes beside the page that let in by themselves, with a slash at the end those below one.
    """

    def __init__(self, app: ASGIApp, door: Door, port: int, beside: Sequence[str] = ()):
        self.app, self.door, self.beside = app, door, tuple(beside)
        self.cookie = f"vicuna-login-{port}"  # browsers tell servers of one machine apart by nothing else
        # A site whose pages may use the server may also show it in a frame.
        framing = [site for site in door.names.origins if site.isascii() and not set(site) & set(";,'\"")]
        self.headers = {
            "content-security-policy": " ".join([_POLICY, *framing]),
            "referrer-policy": "same-origin",  # no-referrer has browsers send our own forms with a foreign Origin
            "x-content-type-options": "nosniff",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # nothing here speaks so
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        beside = any(_is_below(scope["path"], path) for path in self.beside)
        answer = None if beside else await self._answer(Request(scope, receive))
        await (answer or self.app)(scope, receive, lambda message: send(self._with_headers(message, beside)))

    async def _answer(self, request: Request) -> Response | None:
        """What a request is answered by here; None for what the application answers."""
        path, method = request.scope["path"].rstrip("/") or "/", request.method
        if _is_blocked(request.scope["path"]):
            return PlainTextResponse("Not Found", 404)
        if refused := self._refused(request):
            return refused
        if path == "/login" and method == "POST" and self.door.accounts:
            return await self._log_in(request)
        if path == "/logout" and method == "POST":
            return self._log_out(request)
        if path in ("/login", "/logout"):
            return RedirectResponse("/", 303)
        user = self.door.logins.user(request.cookies.get(self.cookie, ""))
        if not self.door.accounts or user:
            request.scope[USER] = user
            return None
        if path == "/" and method in ("GET", "HEAD"):
            return login_page(_strings(request), request.scope["query_string"].decode("latin-1"))
        return JSONResponse({"detail": {"error": "Not authenticated", "auth_message": None}}, 401)  # as Gradio's

    def _refused(self, request: Request) -> Response | None:
        """The answer to a request that is not from a client of this server."""
        if self.door.key_of(request) is Key.RIGHT or not (foreign := self.door.names.foreign(request)):
            return None
        problem = _strings(request)[f"foreign_{foreign.header}"].format(value=foreign.value)
        if "text/html" in request.headers.get("accept", ""):
            return refusal_page(_strings(request), problem, 403)
        return JSONResponse({"detail": problem}, 403)

    async def _log_in(self, request: Request) -> Response:
        strings, query = _strings(request), request.scope["query_string"].decode("latin-1")
        by_browser = "text/html" in request.headers.get("accept", "")
        user, password = await _form(request)
        wait = self.door.wait_s(request)
        if token := self.door.log_in(request, user, password):
            shown = RedirectResponse(f"/?{query}" if query else "/", 303)
            done = shown if by_browser else JSONResponse({"success": True})
            done.set_cookie(self.cookie, token, httponly=True, samesite="lax", secure=self._is_tls(request))
            return done
        status, problem = (429, strings["wait"].format(seconds=wait)) if wait else (401, strings["wrong_password"])
        shown = login_page(strings, query, problem, status)
        done = shown if by_browser else JSONResponse({"detail": problem}, status)
        if wait:
            done.headers["retry-after"] = str(wait)
        return done

    def _log_out(self, request: Request) -> Response:
        self.door.logins.end(request.cookies.get(self.cookie, ""))
        done = RedirectResponse("/", 303)
        done.delete_cookie(self.cookie, httponly=True, samesite="lax", secure=self._is_tls(request))
        return done

    def _is_tls(self, request: Request) -> bool:
        return request.scope.get("scheme") == "https" or self.door.names.is_public(request)

    def _with_headers(self, message: Message, readable: bool) -> Message:
        """No page elsewhere may read an answer that does not say so itself, and none of ours fetches from elsewhere."""
        if message["type"] != "http.response.start":
            return message
        headers = message.get("headers", [])
        kept = [(name, value) for name, value in headers if readable or not name.startswith(b"access-control-")]
        return {**message, "headers": kept + [(name.encode(), value.encode()) for name, value in self.headers.items()]}


def _is_below(path: str, known: str) -> bool:
    return path.startswith(known) if known.endswith("/") else path == known


def _is_blocked(path: str) -> bool:
    if path.startswith(_GRADIO):
        return not path.removeprefix(_GRADIO).startswith(_ALLOWED)
    return path.startswith(_BLOCKED)


def _strings(request: Request) -> Strings:
    return strings_in(request.headers.get("accept-language", ""))


async def _form(request: Request) -> tuple[str, str]:
    """The user and the password of a form; both are "" where they did not arrive, or not in that form."""
    body = b""
    try:
        async with asyncio.timeout(LOGIN_S):
            async for part in request.stream():
                body += part
                if len(body) > MAX_LOGIN_BYTES:
                    return "", ""
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=16)
    except (TimeoutError, ClientDisconnect, ValueError):
        return "", ""
    return fields.get("username", [""])[0], fields.get("password", [""])[0]
