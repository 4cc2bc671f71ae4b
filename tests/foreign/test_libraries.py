"""What a library raises while it reads a stranger's file: a sentence, but for what ends the program."""

import asyncio
from asyncio import CancelledError

import pytest
from tokenizers import Tokenizer

from vicuna.api.concurrency import run_in_thread
from vicuna.errors import LibraryFailure, Stopped, UserError, as_exception, exceptions_only, run
from vicuna.foreign.libraries import refusals


class Panic(BaseException):
    """As pyo3 has it: no Exception."""


LEFT = pytest.skip.Exception("one")  # of a real library, and no Exception either


@pytest.mark.parametrize("error", [ValueError("one\ntwo"), RecursionError("one"), Panic("one"), LEFT])
def test_whatever_is_raised_becomes_the_sentence(error):
    with (
        pytest.raises(UserError, match=r"^it can not be read \(one\)$") as refused,
        refusals("it can not be read ({})".format),
    ):
        raise error
    assert refused.value.__cause__ is error


def test_what_a_real_library_raises_becomes_the_sentence():
    with pytest.raises(UserError, match="tokenizer: "), refusals("tokenizer: {}".format):
        Tokenizer.from_str("{}")


@pytest.mark.parametrize("error", [UserError("a"), Stopped("a", 1), KeyboardInterrupt(), SystemExit(2), MemoryError()])
def test_what_ends_the_program_is_passed_on(error):
    with pytest.raises(type(error)) as raised, refusals("not this: {}".format):
        raise error
    assert raised.value is error


@pytest.mark.parametrize("error", [Panic("one"), LEFT])
def test_a_program_ends_with_a_sentence_whatever_a_library_raises(error, capsys):
    def program():
        raise error

    with pytest.raises(SystemExit) as ended:
        run(program)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert f"error: a library broke down ({type(error).__name__}: one): a file that it reads is damaged" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(2), GeneratorExit(), CancelledError(), OSError("a")])
def test_what_ends_a_program_or_a_task_stays_as_it_is(error):
    assert as_exception(error) is error
    with pytest.raises(type(error)) as raised, exceptions_only():
        raise error
    assert raised.value is error


@pytest.mark.parametrize("error", [Panic("one"), LEFT])
def test_a_call_in_a_thread_hands_its_caller_what_handlers_see(error):
    def call(stop):
        raise error

    with pytest.raises(LibraryFailure, match=r"\(\w+: one\)") as raised:
        asyncio.run(run_in_thread(call))
    assert raised.value.__cause__ is error
