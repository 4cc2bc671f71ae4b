"""Who is let in to a page: by which name, from which site, with which login; over plain HTTP."""

import itertools

import pytest
from starlette.websockets import WebSocketDisconnect

from tests.pages.plain_client import small_page
from vicuna.answer.flags import ChatFlags, ServeFlags
from vicuna.doors.door import Door
from vicuna.doors.guesses import FREE, Guesses

OWN = "http://127.0.0.1:7860"
# A route of each kind that Gradio's frontend or its clients ask, beside the page's own.
ROUTES = [
    *(("GET", path) for path in ("/", "/config", "/theme.css", "/favicon.ico", "/gradio_api/info", "/nothing")),
    *(("GET", f"/gradio_api/{path}") for path in ("heartbeat/x", "queue/data?session_hash=x", "startup-events")),
    *(("GET", f"/gradio_api/{path}") for path in ("app_id", "user", "login_check", "call/direct/x")),
    *(("POST", f"/gradio_api/{path}") for path in ("queue/join", "run/direct", "call/direct", "cancel", "reset")),
    *(("POST", path) for path in ("/login", "/logout", "/logout/")),
]  # fmt: skip
HOURS = itertools.count(step=3600)  # between any two requests, so that no guess is remembered


@pytest.fixture(scope="module")
def page():
    with small_page(allow_host=["pages.example"], allow_origin=["https://portal.example"]) as page:
        yield page


@pytest.fixture(scope="module")
def locked():
    """A page with two accounts, as a server behind a proxy of this machine has it."""
    serve = ServeFlags(auth=["anna:ge heim", "bert:b:c"], proxy=["127.0.0.1"], allow_host=["pages.example"])
    with small_page(door=Door(serve, guesses=Guesses(HOURS.__next__)), **vars(serve)) as page:
        yield page


@pytest.fixture
def visitor(locked):
    """The client of the locked page, without what it had before."""
    locked.cookies.clear()
    yield locked
    locked.cookies.clear()


def log_in(client, user="anna", password="ge heim", path="/login", **headers):
    form = {"username": user, "password": password}
    return client.post(path, data=form, headers=headers, follow_redirects=False)


BROWSER = {"accept": "text/html,*/*"}


# --- names and sites --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:7860", "origin": "http://evil.example:7860"},  # a name made to resolve to this machine
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:7861"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
        {"authorization": "Bearer guessed", "origin": "http://evil.example"},
    ],
    ids=str,
)
def test_what_is_not_from_the_servers_own_pages_reaches_no_route(page, headers):
    for method, path in ROUTES:
        answer = page.request(method, path, headers=headers, follow_redirects=False)
        assert answer.status_code == 403, path
        assert "--allow_" in answer.json()["detail"]
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_login_takes_nobodys_place_in_that(visitor):
    assert log_in(visitor).status_code == 200
    assert visitor.get("/config").status_code == 200
    for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
        for method, path in ROUTES:
            assert visitor.request(method, path, headers=headers).status_code == 403, path
    assert visitor.get("/config").status_code == 200  # nobody was logged out


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": OWN},
        {"host": "localhost:7860", "origin": "http://localhost:7860"},
        {"host": "pages.example", "origin": "https://pages.example"},
        {"origin": "https://portal.example"},
        {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"},
        {"sec-fetch-site": "none", "sec-fetch-mode": "navigate"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},  # a link was followed
    ],
    ids=str,
)
def test_its_own_names_and_sites_that_were_named_are_taken(page, headers):
    assert "gradio_config" in page.get("/", headers=headers).text
    done = page.post("/gradio_api/run/direct", json={"data": ["x"]}, headers=headers)
    assert done.json()["data"] == ["x"]


def test_a_site_that_was_named_may_show_the_page_in_a_frame_and_reads_nothing(page):
    answer = page.get("/config", headers={"origin": "https://portal.example"})
    assert answer.headers["content-security-policy"].endswith("frame-ancestors 'self' https://portal.example")
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_the_right_key_is_let_in_by_any_name_and_a_login_is_asked_for_all_the_same():
    serve = ServeFlags(auth=["anna:geheim"])
    door = Door(serve, ChatFlags(api=True, api_key="sesame-1"))
    with small_page(door=door, auth=["anna:geheim"]) as page:
        for key, status in (("sesame-1", 401), ("sesame-2", 403)):
            headers = {"host": "evil.example", "authorization": f"Bearer {key}"}
            assert page.get("/config", headers=headers).status_code == status


@pytest.mark.parametrize(("language", "says"), [("zh-CN,zh", "不是这个服务器的名字"), ("de", "is not a name of")])
def test_a_refusal_is_told_in_the_readers_language(page, language, says):
    headers = {"host": "evil.example", "accept-language": language}
    assert says in page.get("/", headers=headers).json()["detail"]
    shown = page.get("/", headers={**headers, **BROWSER, "host": "<b>evil"}).text
    assert says in shown
    assert "&lt;b&gt;evil" in shown
    assert "<b>evil" not in shown


def test_nothing_is_spoken_through_a_websocket(page):
    with pytest.raises(WebSocketDisconnect), page.websocket_connect("/gradio_api/queue/join"):
        pass


# --- logging in and out -----------------------------------------------------------------------------------------------


def test_without_a_login_nothing_is_answered_but_the_form_for_it(visitor):
    for method, path in [route for route in ROUTES[1:] if not route[1].startswith("/log")]:
        answer = visitor.request(method, path)
        assert answer.status_code == 401, path
        assert answer.json()["detail"]["error"] == "Not authenticated"
    assert (form := visitor.get("/")).status_code == 200
    assert 'type="password"' in form.text
    assert "gradio" not in form.text


@pytest.mark.parametrize(
    ("user", "password"),
    [("anna", "b:c"), ("anna", ""), ("", ""), ("anna", "ge heim "), ("Anna", "ge heim"), ("anna", "x" * 10_000)],
)
def test_a_wrong_password_opens_nothing(visitor, user, password):
    for headers in ({}, BROWSER):
        answer = log_in(visitor, user, password, **headers)
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
        assert "The user or the password is wrong." in answer.text
        assert password[:100] not in answer.text.replace("password", "") or len(password) < 2
    assert visitor.get("/config").status_code == 401


def test_a_login_is_asked_for_by_a_form_and_leads_to_the_address_that_was_asked_for(visitor):
    query = "c=0123456789abcdef0123456789abcdef"
    assert f'action="/login?{query}"' in visitor.get(f"/?{query}").text
    assert 'action="/login?%22%3E%3Cb%3E"' in visitor.get('/?"><b>').text
    done = log_in(visitor, "bert", "b:c", f"/login?{query}", origin=OWN, **BROWSER)
    assert (done.status_code, done.headers["location"]) == (303, f"/?{query}")
    assert "gradio_config" in visitor.get("/").text
    assert visitor.get("/gradio_api/user").json() == "bert"
    assert visitor.post("/gradio_api/reset", json={"event_id": "x"}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "secure"),
    [({}, False), ({"x-forwarded-proto": "http"}, False), ({"x-forwarded-proto": "https"}, True)],
)
def test_the_cookie_is_for_this_site_alone_and_behind_tls_for_tls_alone(visitor, headers, secure):
    cookie = log_in(visitor, **headers).headers["set-cookie"].lower().split("; ")
    assert {"httponly", "samesite=lax", "path=/"} <= set(cookie)
    assert ("secure" in cookie) == secure


def test_what_a_client_says_of_its_connection_counts_only_behind_a_proxy_that_was_named():
    with small_page(auth=["anna:ge heim"]) as page:
        assert "secure" not in log_in(page, **{"x-forwarded-proto": "https"}).headers["set-cookie"].lower()


def test_logging_out_takes_a_post_and_ends_this_login_alone(visitor):
    log_in(visitor)
    first = dict(visitor.cookies)
    visitor.cookies.clear()
    log_in(visitor)
    assert visitor.get("/logout", follow_redirects=False).headers["location"] == "/"
    assert visitor.get("/config").status_code == 200
    second = dict(visitor.cookies)
    done = visitor.post("/logout", headers={"origin": OWN}, follow_redirects=False)
    assert (done.status_code, done.headers["location"]) == (303, "/")
    for cookies, status in ((second, 401), (first, 200)):
        visitor.cookies.clear()
        visitor.cookies.update(cookies)
        assert visitor.get("/config").status_code == status


def test_where_there_are_no_accounts_there_is_no_login(page):
    for method in ("GET", "POST"):
        assert page.request(method, "/login", follow_redirects=False).headers["location"] == "/"


# --- guessing ---------------------------------------------------------------------------------------------------------


def test_guessing_is_slowed_for_the_address_that_guesses_and_for_no_other():
    now = [0.0]
    serve = ServeFlags(auth=["anna:ge heim"], proxy=["127.0.0.1"])
    with small_page(door=Door(serve, guesses=Guesses(lambda: now[0])), **vars(serve)) as page:
        guesser, other = ({"x-forwarded-for": f"made.up, 192.168.7.{n}"} for n in (7, 8))
        for n in range(FREE):
            assert log_in(page, "anna", f"wrong {n}", **guesser).status_code == 401
        refused = log_in(page, **guesser)  # the right one, which is not looked at
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "try again in 1 s" in log_in(page, "anna", "wrong", **guesser, **BROWSER).text
        assert log_in(page, **other).status_code == 200
        page.cookies.clear()
        now[0] += 1
        assert log_in(page, **guesser).status_code == 200
