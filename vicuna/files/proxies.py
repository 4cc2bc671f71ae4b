"""What the shell's proxies are to programs of ours: nothing to a page of this machine, the way out to a download.

Desktops set ALL_PROXY=socks5://… or socks://… for everything that is started on them. httpx, which Gradio and
huggingface_hub ask with, ends in a traceback at what it can not use, Gradio already while it is being imported.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from urllib.parse import urlsplit
from urllib.request import getproxies

from vicuna.errors import UserError

SOCKS = ("socks5", "socks5h")


@contextmanager
def without_proxies() -> Iterator[None]:
    """No proxy is set in the environment: for what asks only this machine, or makes clients that it never uses."""
    kept = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    for name in kept:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(kept)


def check_proxies() -> None:
    """Refuse a proxy that a download can not use.

    Raises:
        UserError: which variable names it; not the whole value, which may hold a password.
    """
    from huggingface_hub import is_offline_mode

    if is_offline_mode():
        return
    for kind in ("http", "https", "all"):
        value = getproxies().get(kind)
        if not value:
            continue
        scheme, host = _scheme_and_host(value)
        if not host:
            wrong = "names no host"
        elif scheme in SOCKS and find_spec("socksio") is None:
            wrong = f"is {scheme}://…, which needs a package that is not installed: python -m pip install socksio"
        elif scheme not in ("http", "https", *SOCKS):
            wrong = f"is {scheme}://…, which downloads can not use"
        else:
            continue
        raise UserError(
            f"{_variable(kind)} {wrong}. Set it to http://host:port or socks5://host:port, or unset it; "
            "HF_HUB_OFFLINE=1 takes what was downloaded before."
        )


def proxy_of_clients() -> str:
    """The variable that sends what is started in this shell to a proxy even for 127.0.0.1; "" where none does."""
    spared = {name.strip() for name in getproxies().get("no", "").split(",")}
    if spared & {"*", "127.0.0.1"}:
        return ""
    return next((_variable(kind) for kind in ("http", "all") if getproxies().get(kind)), "")


def _variable(kind: str) -> str:
    """The variable that names a proxy; small letters win."""
    small = f"{kind}_proxy"
    return small if os.environ.get(small) else small.upper()


def _scheme_and_host(proxy: str) -> tuple[str, str]:
    """Both as they are understood; no host where there is no address to be read."""
    try:
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        return url.scheme, (url.hostname or "") if url.port != 0 else ""
    except ValueError:
        return "", ""
