"""A server with two adapters, a client, and what the assistant itself answers; made once a file."""

import pytest

from tests.api.questions import GREEDY, HELLO
from tests.served import Server, assistant_of, make_adapter
from vicuna.answer.decoding import generation_kwargs
from vicuna.answer.flags import DecodingFlags
from vicuna.prompt.templates import prompt_ids


@pytest.fixture(scope="module")
def assistant(tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    one = make_adapter(tiny_base, folder / "talks", "chat", 1)
    two = make_adapter(tiny_base, folder / "obeys", "instruct", 2)
    return assistant_of(tiny_base, one, two)


@pytest.fixture(scope="module")
def server(assistant):
    server = Server(assistant)
    yield server
    server.close()


@pytest.fixture(scope="module")
def client(server):
    return server.client()


@pytest.fixture
def ask(client):
    """ask(stop="x"): a greedy answer to HELLO, with these fields instead."""
    return lambda **fields: client.chat.completions.create(**{"model": "talks", "messages": HELLO, **GREEDY, **fields})


@pytest.fixture
def direct(assistant):
    """direct(messages, adapter, seed, **flags): the last update of what the assistant itself answers."""

    def answer(messages, adapter="talks", seed=None, ids=None, **flags):
        flags = DecodingFlags(**{"preset": "balanced", "temperature": 0, "max_new_tokens": 12, **flags})
        chosen = generation_kwargs(flags, assistant.engine.generation_config)
        ids = ids or prompt_ids(assistant.tokenizer, assistant.choices[adapter].prompt_type, messages)
        *_, last = assistant.stream(ids, chosen, seed, adapter=adapter)
        return last

    return answer
