"""What a server asks of who comes: what is made where nothing was given, keys, accounts, logins."""

import pytest
from starlette.requests import HTTPConnection

from vicuna.answer.flags import ChatFlags, ServeFlags
from vicuna.args import parse
from vicuna.doors.door import LONG, Door, Key
from vicuna.doors.guesses import FREE, Guesses
from vicuna.doors.logins import MOST, Logins, authenticator

API = ChatFlags(api=True)


def request(key: str = "", address: str = "192.168.7.7", scheme: str = "Bearer") -> HTTPConnection:
    headers = [(b"authorization", f"{scheme} {key}".encode("latin-1"))] if key else []
    return HTTPConnection({"type": "http", "headers": headers, "client": (address, 1)})


# --- what is made -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("serve", "chat", "made"),
    [
        ([], None, []),
        ([], API, []),
        (["--host", "localhost"], API, []),
        (["--host", "0.0.0.0"], None, ["password"]),
        (["--host", "0.0.0.0"], ChatFlags(), ["password"]),
        (["--host", "0.0.0.0"], API, ["password", "key"]),
        (["--share_link"], API, ["password", "key"]),
        (["--proxy", "127.0.0.1"], API, ["password", "key"]),
        (["--host", "0.0.0.0", "--auth", "a:b"], None, []),
        (["--host", "0.0.0.0", "--auth", "a:b"], API, ["key"]),
        (["--auth", "a:b"], API, ["key"]),
        (["--host", "0.0.0.0"], ChatFlags(api=True, api_key="sesame"), ["password"]),
        (["--host", "0.0.0.0", "--auth", "a:b"], ChatFlags(api=True, api_key="sesame"), []),
        (["--host", "0.0.0.0", "--no_auth", "True"], API, []),
        (["--no_auth", "True"], API, []),
    ],
    ids=str,
)
def test_what_others_could_reach_without_a_secret_gets_one(serve, chat, made):
    (flags,) = parse("", ServeFlags, argv=serve)
    door = Door(flags, chat)
    assert [line.startswith("log in as vicuna with the password") for line in door.made] == [
        name == "password" for name in made
    ]
    if "password" in made:
        assert door.accounts[0].split(":")[1] in door.made[0]
    else:
        assert door.accounts == flags.auth
    if "key" in made:
        assert f"Bearer {door.key} " in door.made[-1]
        assert door.key_of(request(door.key)) is Key.RIGHT
    else:
        assert door.key == (chat.api_key if chat else "")


def test_what_is_made_is_long_and_another_each_time():
    doors = [Door(ServeFlags(host="0.0.0.0"), API) for _ in range(2)]
    secrets = [secret for door in doors for secret in (door.key, door.accounts[0].split(":")[1])]
    assert len(set(secrets)) == 4
    assert min(map(len, secrets)) >= LONG


def test_secrets_that_were_given_are_never_told():
    flags = ServeFlags(host="0.0.0.0", auth=["anna:geheim"])
    door = Door(flags, ChatFlags(api=True, api_key="sesame"))
    assert door.made == []


def test_the_key_is_the_apis_alone():
    assert Door(ServeFlags(), ChatFlags(api_key="sesame")).key == ""


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--no_auth", "True", "--auth", "a:b"], "--no_auth lets in whoever comes, --auth"),
        (["--proxy", "proxy.example"], "--proxy proxy.example is neither an address nor a network"),
        (["--proxy", "*"], "--proxy * is neither an address"),
    ],
    ids=str,
)
def test_flags_that_contradict_each_other_or_name_nothing_are_refused(argv, says, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse("", ServeFlags, argv=argv)
    assert says in " ".join(capsys.readouterr().err.split())


# --- keys and guessing ------------------------------------------------------------------------------------------------


def test_wrong_keys_are_counted_by_address_and_then_not_looked_at():
    now = [0.0]
    door = Door(ServeFlags(), ChatFlags(api=True, api_key="sesame-1"), Guesses(lambda: now[0]))
    assert door.key_of(request()) is Key.NONE
    assert door.key_of(request("sesame-1", scheme="Basic")) is Key.NONE
    assert [door.key_of(request(f"wrong {n}")) for n in range(FREE)] == [Key.WRONG] * FREE
    assert door.key_of(request("sesame-1")) is Key.TOO_MANY
    assert door.key_of(request("sesame-1", address="192.168.7.8")) is Key.RIGHT
    now[0] += 1
    assert door.key_of(request("sesame-1")) is Key.RIGHT


def test_who_has_a_secret_that_is_too_long_to_guess_waits_for_nobody():
    """Behind a public link or a proxy all have one address."""
    long = "k" * LONG
    door = Door(ServeFlags(auth=[f"anna:{long}", "bert:short"]), ChatFlags(api=True, api_key=long), Guesses(lambda: 0))
    for n in range(FREE):
        door.key_of(request(f"wrong {n}"))
    assert door.key_of(request("wrong")) is Key.TOO_MANY
    assert door.key_of(request(long)) is Key.RIGHT
    assert door.log_in(request(), "bert", "short") == ""
    assert door.log_in(request(), "anna", "wrong") == ""
    assert door.logins.user(door.log_in(request(), "anna", long)) == "anna"


def test_where_no_key_is_asked_for_none_is_right_and_none_is_counted():
    door = Door(ServeFlags(), API, guesses := Guesses(lambda: 0))
    assert {door.key_of(request(f"any {n}")) for n in range(20)} == {Key.NONE}
    assert len(guesses) == 0


# --- accounts ---------------------------------------------------------------------------------------------------------


def test_a_password_counts_with_its_user_only_and_whole():
    right = authenticator(["anna:geheim", "bert:b:c", "李:密码"])
    assert right("anna", "geheim")
    assert right("bert", "b:c")
    assert right("李", "密码")
    for user, password in (
        *(("anna", "b:c"), ("anna", "geheim "), ("anna", ""), ("", ""), ("bert:b", "c"), ("Anna", "geheim")),
    ):
        assert not right(user, password)
    assert not authenticator([])("", "")


def test_a_login_lasts_until_it_ends_and_the_oldest_of_too_many_ends_by_itself():
    logins = Logins()
    first, other = logins.begin("anna"), logins.begin("bert")
    assert (logins.user(first), logins.user(""), logins.user("x")) == ("anna", None, None)
    more = [logins.begin("anna") for _ in range(MOST)]
    assert logins.user(first) is None
    assert {logins.user(token) for token in more} == {"anna"}
    assert logins.user(other) == "bert"
    logins.end(other)
    logins.end(other)
    logins.end(first)
    assert logins.user(other) is None
    assert logins.user(more[-1]) == "anna"
