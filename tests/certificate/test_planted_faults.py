"""tools/verify_export.py: clean exports of every type pass, and every planted fault is found in every type."""

import re

import pytest
from certificate_bounds import confident_llama

from tests.certificate.certifying import CPP, KINDS, SAID, matrix

ON = ["adapter on q4_0"] if CPP else []


@pytest.fixture(scope="module")
def planted(base, adapter, tiny_base, texts, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("planted")
    other = confident_llama(folder / "another base", tiny_base, seed=7)
    return matrix(base, adapter, other, folder, texts, KINDS, "q4_0")


CELLS = [
    (fault, kind)
    for fault in SAID
    for kind in [*KINDS, *ON]
    if not (fault == "fp16 overflow" and kind in ("float32", "bfloat16", "4 bit", "f32"))
    and not (fault in ("fp16 overflow", "swapped tied heads") and kind.startswith("adapter"))
]


@pytest.mark.parametrize("kind", [*KINDS, *ON])
def test_a_clean_export_passes(planted, kind):
    found = planted["", kind]

    assert (found["verdict"], found["reasons"]) == ("passed", [])
    assert found["distance"]["kl"] < found["control"]["kl"]


@pytest.mark.parametrize(("fault", "kind"), CELLS)
def test_every_fault_is_found_in_every_type(planted, fault, kind):
    found = planted[fault, kind]

    assert found["verdict"] == "FAILED"
    assert re.search(SAID[fault], " ".join(found["reasons"]))
