"""By which names a server is called, and from which sites.

A page of another site, opened in a visitor's browser, can send requests to this machine, with the visitor's cookies.
What gives it away is checked: a Host that is not this server's (DNS rebinding), a foreign Origin, or what browsers say
in its place.
"""

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal

from starlette.requests import HTTPConnection

_HOST = re.compile(r"(?:\[([^\]]+)\]|([^:\[\]]*))(?::\d*)?")  # [address] or name, perhaps with a port
_OWN_SITE = ("same-origin", "none")  # none: typed, or from the bookmarks


@dataclass(frozen=True)
class Foreign:
    """What of a request shows that it is not from a client of this server, and its value, shortened."""

    header: Literal["host", "origin"]
    value: str


class Names:
    """The names and sites of a server.

    Args:
        host: that the server was told to listen on; hosts: other names that it may be called by.
        origins: of other sites whose pages may use it.
    """

    def __init__(self, host: str, hosts: Sequence[str] = (), origins: Sequence[str] = ()):
        self.host, self.origins = host, tuple(origins)
        self.own = {"localhost", host.lower(), socket.gethostname().lower(), *hosts}
        self.always_tls: set[str] = set()

    def add_public(self, name: str) -> None:
        """One more name, under which the server is reached by TLS alone, such as a public link's."""
        self.own.add(name.lower())
        self.always_tls.add(name.lower())

    def foreign(self, request: HTTPConnection) -> Foreign | None:
        """What is foreign of a request; None where nothing is."""
        headers = request.headers
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        host = hosts[0] if len(hosts) == 1 else ""
        if not self._is_ours(host, request.scope.get("server")):
            return Foreign("host", host[:200])
        known = (f"http://{host}", f"https://{host}", *self.origins)
        if strange := [origin for origin in origins if origin not in known]:
            return Foreign("origin", strange[0][:200])
        # Pictures, scripts and the like of another site come without an Origin. Following a link is no such request.
        site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode")
        if not origins and site not in _OWN_SITE and mode != "navigate":
            return Foreign("origin", "another site")
        return None

    def is_public(self, request: HTTPConnection) -> bool:
        """Whether a request came by a name that is reached by TLS alone."""
        return _name(request.headers.get("host", "")).lower() in self.always_tls

    def _is_ours(self, header: str, server: tuple[str, int | None] | None) -> bool:
        name = _name(header)
        if name.lower() in self.own:
            return True
        try:
            address = ip_address(name)
        except ValueError:
            return False  # a name of somebody else's, whatever it resolves to
        if str(address) in self.own:
            return True
        # A name can be made to resolve to this machine, an address can not.
        everywhere = self.host in ("", "0.0.0.0", "::")
        return everywhere or address.is_loopback or (server is not None and str(address) == server[0])


def _name(header: str) -> str:
    parts = _HOST.fullmatch(header)
    return (parts[1] or parts[2] or "") if parts else ""
