"""Guessing slowed by address: how long, for whom, and how little is kept and said of it."""

import pytest

from vicuna.doors import guesses
from vicuna.doors.guesses import FORGOTTEN_S, FREE, LINES, LONGEST_S, MOST_ADDRESSES, Guesses
from vicuna.log import log

HERE = "192.168.7.7"


@pytest.fixture
def now():
    return [1000.0]


@pytest.fixture
def slowed(now):
    return Guesses(lambda: now[0])


@pytest.fixture
def said(caplog, monkeypatch):
    monkeypatch.setattr(log, "propagate", True)
    return caplog


def guess(slowed: Guesses, *numbers: int, address: str = HERE) -> None:
    for n in numbers:
        slowed.was_wrong(address, "key", f"guess {n}")


def test_after_a_few_wrong_ones_each_waits_twice_as_long_up_to_a_minute(slowed, now):
    waits = []
    for n in range(FREE + 9):
        guess(slowed, n)
        waits.append(slowed.wait_s(HERE))
        now[0] += waits[-1]
        assert slowed.wait_s(HERE) == 0
    assert waits == [0] * (FREE - 1) + [1, 2, 4, 8, 16, 32, LONGEST_S, LONGEST_S, LONGEST_S, LONGEST_S]


def test_the_wait_counts_down_and_never_ends_early(slowed, now):
    guess(slowed, *range(FREE + 3))
    assert slowed.wait_s(HERE) == 8
    now[0] += 0.1
    assert slowed.wait_s(HERE) == 8
    now[0] += 7.8
    assert slowed.wait_s(HERE) == 1


def test_the_same_wrong_one_again_is_no_new_guess(slowed, said):
    guess(slowed, *[1, 2] * 500)
    assert slowed.wait_s(HERE) == 0
    assert len(said.records) == 2


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("192.168.7.7", "192.168.7.8", False),
        ("192.168.7.7", "::ffff:192.168.7.7", True),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("", "testclient", True),
    ],
)
def test_what_counts_as_one_address(slowed, first, second, same):
    guess(slowed, *range(FREE), address=first)
    assert slowed.wait_s(first) == 1
    assert (slowed.wait_s(second) == 1) == same


def test_wrong_ones_are_forgotten_after_a_while(slowed, now):
    guess(slowed, *range(FREE + 5))
    now[0] += FORGOTTEN_S + 1
    guess(slowed, 1)
    assert slowed.wait_s(HERE) == 0


def test_however_many_addresses_guess_only_so_many_are_kept_the_latest(slowed, monkeypatch):
    monkeypatch.setattr(guesses, "MOST_ADDRESSES", 50)
    assert MOST_ADDRESSES <= 10_000
    for n in range(200):
        guess(slowed, *range(FREE), address=f"10.0.0.{n}")
    assert len(slowed) == 50
    assert slowed.wait_s("10.0.0.199") == 1
    assert slowed.wait_s("10.0.0.149") == 0


def test_a_guess_leaves_a_line_that_does_not_repeat_it(slowed, said):
    slowed.was_wrong(HERE, "password", "anna\0geheimnis")
    assert said.messages == [f"WARNING a wrong password from {HERE}, number 1 of late; it may try again."]
    guess(slowed, *range(FREE))
    assert said.messages[-1].endswith(f"{HERE}, number {FREE + 1} of late; the next is looked at in 2 s.")


def test_the_log_grows_by_so_many_lines_a_minute_and_counts_the_rest(slowed, now, said):
    for n in range(300):
        guess(slowed, n, address=f"10.0.{n}.1" if n < 256 else f"10.1.{n - 256}.1")
    assert len(said.messages) == LINES
    now[0] += 60
    guess(slowed, 0, address="10.2.0.1")
    assert said.messages[LINES:] == [
        f"WARNING {300 - LINES} more wrong passwords or keys were not told one by one.",
        "WARNING a wrong key from 10.2.0.1, number 1 of late; it may try again.",
    ]


def test_an_address_that_is_none_reaches_no_log(slowed, said):
    guess(slowed, 1, address="\x1b[31mred\n")
    assert said.messages == ["WARNING a wrong key from an unknown address, number 1 of late; it may try again."]
