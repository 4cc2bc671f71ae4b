"""benchmarks/soak_api.py: a few seconds of it, and that it sees what it looks for."""

import asyncio
import dataclasses

import pytest
from soak_api import SoakFlags, SoakResult, soak_twice, table, with_server

from vicuna.model.flags import ModelFlags


@pytest.mark.alone
def test_twenty_clients_at_once_each_get_their_solo_answer(tiny_base):
    flags = SoakFlags(seconds=4, max_tokens=8)
    model = ModelFlags(model_path=str(tiny_base), bits=32)
    results = with_server(model, lambda url, pid: asyncio.run(soak_twice(flags, url, pid)))
    print(table(*results))
    assert [found.beside for found in results] == [0, 150]
    for found in results:
        assert found.errors == []
        assert found.differing == []
        assert found.requests >= 40
        assert found.warm_mib > 50
        assert found.peak_mib <= 1.1 * found.warm_mib
        assert flags.clients / 2 < found.most_before <= 2 * flags.clients  # not by seconds, which a busy machine takes


def test_what_is_not_as_it_has_to_be_is_named():
    good = SoakResult(20, 60, 500, [], [], 1.0, 1.9, 40, 100, 109)
    assert good.problems == []
    for name, value, says in (
        ("errors", ["client 3: busy"], "1 errors, the first: client 3: busy"),
        ("differing", ["client 3: 'a' instead of 'b'"], "1 answers differ"),
        ("longest_wait_s", 2.1, "the longest wait is 2.10 s, the median 1.00 s"),
        ("most_before", 41, "41 answers of others came before one"),
        ("peak_mib", 111, "memory grew from 100 to 111 MiB"),
    ):
        (problem,) = dataclasses.replace(good, **{name: value}).problems
        assert says in problem
