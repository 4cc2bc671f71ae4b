"""What a library raises while it reads a stranger's file: a sentence, but for what ends the program."""

import pytest
from tokenizers import Tokenizer

from vicuna.errors import Stopped, UserError
from vicuna.foreign.libraries import refusals


class Panic(BaseException):
    """As pyo3 has it: no Exception."""


@pytest.mark.parametrize("error", [ValueError("one\ntwo"), RecursionError("one"), Panic("one"), AssertionError("one")])
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
