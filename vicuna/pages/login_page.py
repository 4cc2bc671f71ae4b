"""The pages that are not Gradio's: the login, and a refusal. They need no script and nothing else of the server."""

from html import escape

from starlette.responses import HTMLResponse

from vicuna.pages.strings import Strings

_FRAME = """<!doctype html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Chinese-Vicuna</title>
<link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark; font-family: system-ui, sans-serif; }}
body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; }}
main {{ width: min(20rem, calc(100vw - 2rem)); }}
h1 {{ font-size: 1.2rem; }}
label {{ display: block; margin-top: 0.8rem; }}
input, button {{ box-sizing: border-box; width: 100%; font: inherit; padding: 0.5rem; margin-top: 0.2rem; }}
button {{ margin-top: 1.2rem; cursor: pointer; }}
</style>
</head>
<body>
<main>
<h1>Chinese-Vicuna 中文小羊驼</h1>
{inside}
</main>
</body>
</html>
"""
_LOGIN = """<form method="post" action="{action}">
{problem}<label>{user}<input name="username" autocomplete="username" autocapitalize="none" required autofocus></label>
<label>{password}<input name="password" type="password" autocomplete="current-password" required></label>
<button type="submit">{log_in}</button>
</form>"""


def login_page(strings: Strings, query: str, problem: str = "", status: int = 200) -> HTMLResponse:
    """The form that asks for a user and a password.

    Args:
        query: of the address that is to be shown after the login.
        problem: what was wrong with those that were sent.
    """
    form = _LOGIN.format(
        action=escape(f"/login?{query}" if query else "/login"),
        problem=f'<p role="alert">{escape(problem)}</p>\n' if problem else "",
        **{name: escape(strings[name]) for name in ("user", "password", "log_in")},
    )
    return _page(strings, form, status)


def refusal_page(strings: Strings, problem: str, status: int) -> HTMLResponse:
    """Why a request is not answered."""
    return _page(strings, f'<p role="alert">{escape(problem)}</p>', status)


def _page(strings: Strings, inside: str, status: int) -> HTMLResponse:
    return HTMLResponse(_FRAME.format(language=strings["language"], inside=inside), status)
