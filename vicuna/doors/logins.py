"""Accounts, and who of them is logged in: a random token in a cookie stands for a user until the program ends."""

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence

MOST = 100  # logins of one user; the oldest ends


def authenticator(accounts: Sequence[str]) -> Callable[[str, str], bool]:
    """What says whether a user's password is right, in constant time."""
    known = [_digest(*account.split(":", 1)) for account in accounts]

    def is_right(user: str, password: str) -> bool:
        given = _digest(user, password)
        return any([hmac.compare_digest(given, one) for one in known])

    return is_right


def _digest(user: str, password: str) -> bytes:
    return hashlib.sha256(f"{user.strip()}\0{password}".encode(errors="replace")).digest()


class Logins:
    """Tokens of users who are logged in."""

    def __init__(self) -> None:
        self._users: dict[str, str] = {}
        self._tokens: dict[str, OrderedDict[str, None]] = {}

    def begin(self, user: str) -> str:
        """A token that stands for a user from now on."""
        token = secrets.token_urlsafe(32)
        self._users[token] = user
        tokens = self._tokens.setdefault(user, OrderedDict())
        tokens[token] = None
        while len(tokens) > MOST:
            del self._users[tokens.popitem(last=False)[0]]
        return token

    def user(self, token: str) -> str | None:
        """Whose token it is; None where it is nobody's."""
        return self._users.get(token)

    def end(self, token: str) -> None:
        """Have a token stand for nobody."""
        if user := self._users.pop(token, None):
            del self._tokens[user][token]
