"""Whose share a request takes: nothing that a client can write makes it another's."""

import asyncio

import pytest
from starlette.requests import HTTPConnection

from vicuna.serving.visitors import Shares, share_of


def share(client: str = "10.0.0.1", headers: dict[str, str] | None = None, login: str | None = None, **given) -> str:
    """The share of a request from an address."""
    found = []

    async def app(scope, receive, send) -> None:
        found.append(share_of(HTTPConnection(scope)))

    listed = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "client": (client, 1), "headers": listed, "login": login}
    asyncio.run(Shares(app, **given)(scope, None, None))
    return found[0]


def by_login(request: HTTPConnection) -> str | None:
    return request.scope["login"]


def public(request: HTTPConnection) -> bool:
    return True


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "10.0.0.1"),
        ({"client": "2001:db8:1:2:3::4"}, "2001:db8:1:2::/64"),
        ({"login": "anna"}, "10.0.0.1"),  # all visitors have that one
        ({"login": "anna", "login_of": by_login}, "login anna"),
        ({"login_of": by_login}, "10.0.0.1"),
        ({"login": "10.0.0.2", "login_of": by_login}, "login 10.0.0.2"),
        ({"headers": {"x-forwarded-for": "1.2.3.4"}}, "10.0.0.1"),
        ({"headers": {"x-forwarded-for": "1.2.3.4"}, "client": "127.0.0.1"}, "127.0.0.1"),
        ({"headers": {"x-forwarded-for": "1.2.3.4"}, "is_public": public}, "10.0.0.1"),  # not by the tunnel
        ({"headers": {"x-forwarded-for": "9.9.9.9, 1.2.3.4"}, "client": "127.0.0.1", "is_public": public}, "1.2.3.4"),
        ({"client": "127.0.0.1", "is_public": public}, "127.0.0.1"),
        ({"client": "testclient"}, "testclient"),
    ],
)
def test_a_share_is_a_logins_or_an_addresss(given, expected):
    assert share(**given) == expected


def test_a_request_that_nothing_stands_in_front_of_takes_its_addresss_share():
    assert share_of(HTTPConnection({"type": "http", "client": ("10.0.0.1", 5), "headers": []})) == "10.0.0.1"
    assert share_of(HTTPConnection({"type": "http", "client": None, "headers": []})) == ""
