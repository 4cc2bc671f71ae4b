"""The door of one server: what a request must bring, and the password and the key that are made where none was given.

Who sends the right key is let in, by whatever name. All others have to call the server by a name of its own, from its
own pages or those of a site that it was told; a login comes on top, and never instead.
"""

import enum
import hmac
import secrets
from collections.abc import Sequence

from starlette.requests import HTTPConnection

from vicuna.answer.flags import ChatFlags, ServeFlags
from vicuna.doors.guesses import Guesses
from vicuna.doors.logins import Logins, authenticator
from vicuna.doors.names import Names
from vicuna.errors import UserError
from vicuna.log import log

USER = "vicuna"  # of the account that is made
LONG = 32  # characters of a secret that nobody guesses: its owner is let in, whoever else is guessing


class Key(enum.Enum):
    """What of the key a request brought."""

    NONE, RIGHT, WRONG, TOO_MANY = range(4)


class Door:
    """What page and API ask before they answer.

    Args:
        chat: the flags of the API; None where there is none.

    Attributes:
        accounts: that the page asks for, as user:password; none: it is open.
        key: that the API asks for; "" for none.
        made: lines that tell what was made of these, and not given.

    Raises:
        UserError: the key can not be sent in a header.
    """

    def __init__(self, serve: ServeFlags, chat: ChatFlags | None = None, guesses: Guesses | None = None):
        self.names = Names(serve.host, serve.allow_host, serve.allow_origin)
        self.guesses, self.logins = Guesses() if guesses is None else guesses, Logins()
        self.proxies: Sequence[str] = serve.proxy
        self.accounts, self.key = list(serve.auth), chat.api_key if chat and chat.api else ""
        self.made: list[str] = []
        if not (self.key.isascii() and self.key.isprintable()) or " " in self.key:
            raise UserError("--api_key must consist of ASCII letters, digits and signs, without spaces.")
        self.open_by = serve.reached_from_elsewhere if serve.no_auth and not self.accounts else ""
        if not serve.no_auth:
            self._make_missing(serve, chat)
        self._is_right = authenticator(self.accounts)
        split = [account.split(":", 1) for account in self.accounts]
        self._unguessed = {user.strip() for user, password in split if len(password) >= LONG}

    def _make_missing(self, serve: ServeFlags, chat: ChatFlags | None) -> None:
        if serve.reached_from_elsewhere and not self.accounts:
            password = secrets.token_urlsafe(24)
            self.accounts = [f"{USER}:{password}"]
            self.made.append(
                f"log in as {USER} with the password {password} (made for this run: {serve.reached_from_elsewhere} "
                "lets others reach the page; --auth sets your own, --no_auth True lets everybody in)"
            )
        if chat and chat.api and self.accounts and not self.key:
            self.key = secrets.token_urlsafe(24)
            self.made.append(
                f"programs send Authorization: Bearer {self.key} (made for this run; --api_key or VICUNA_API_KEY sets "
                "your own)"
            )

    def tell(self) -> None:
        """Say what was made, and what stands open."""
        if self.open_by:
            log.warning("WARNING %s lets others reach the page, and --no_auth lets in whoever comes.", self.open_by)
        for line in self.made:
            log.info("%s", line)

    def key_of(self, request: HTTPConnection) -> Key:
        """Whether a request brings the key; a wrong one is counted, and after too many none is looked at."""
        scheme, _, sent = request.headers.get("authorization", "").partition(" ")
        if not self.key or scheme.lower() != "bearer" or not (sent := sent.strip()):
            return Key.NONE
        waits = self.guesses.wait_s(_address(request))
        if waits and len(self.key) < LONG:
            return Key.TOO_MANY
        if hmac.compare_digest(sent.encode("utf-8", "surrogateescape"), self.key.encode()):
            return Key.RIGHT
        if waits:
            return Key.TOO_MANY
        self.guesses.was_wrong(_address(request), "key", sent)
        return Key.WRONG

    def log_in(self, request: HTTPConnection, user: str, password: str) -> str:
        """The token of a new login; "" where user or password is wrong, or it is not looked at yet."""
        waits = self.wait_s(request)
        if waits and user.strip() not in self._unguessed:
            return ""
        if self._is_right(user, password):
            return self.logins.begin(user.strip())
        if not waits:
            self.guesses.was_wrong(_address(request), "password", f"{user}\0{password}")
        return ""

    def wait_s(self, request: HTTPConnection) -> int:
        """Seconds until another password or key from where this request is from is looked at."""
        return self.guesses.wait_s(_address(request))


def _address(request: HTTPConnection) -> str:
    return request.client.host if request.client else ""
