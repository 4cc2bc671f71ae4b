"""A model that says what a question plants, and an examination whose score is known."""

import pytest

from tests.exams.planting import planted_model, write_cmmlu
from vicuna.prompt.tokenizer import TextTokenizer

# What the model says, and what is right: 6 of 8, 1 of 4 and none of 2.
SUBJECTS = {
    "agronomy": ("ABCDABCD", "ABCDABDC"),
    "anatomy": ("AABB", "ADCC"),
    "virology": ("CC", "AB"),
}


@pytest.fixture(scope="session")
def planted(tiny_base, tmp_path_factory):
    return planted_model(tmp_path_factory.mktemp("planted") / "base", tiny_base)


@pytest.fixture(scope="session")
def cmmlu(tiny_base, tmp_path_factory):
    return write_cmmlu(tmp_path_factory.mktemp("exams") / "cmmlu", TextTokenizer(tiny_base), SUBJECTS)
