"""What llama.cpp's own tokenizer makes of the pieces that a vocabulary defines, and what is said of it."""

import sys

import pytest

from tests.gguf.gguf_models import export, make_model
from tests.own_pieces import USER_DEFINED, name_pieces
from vicuna.gguf.foreign_ids import describe_other_ids, llama_cpp_ids
from vicuna.gguf_file.reader import read_gguf_model
from vicuna.prompt.probes import probe_texts
from vicuna.prompt.tokenizer import TextTokenizer


@pytest.fixture
def folder(tmp_path, tokenizer_model):
    return make_model(tmp_path / "hf", tokenizer_model)


@pytest.mark.parametrize("kind", USER_DEFINED)
def test_the_export_says_what_other_programs_read_otherwise(folder, tmp_path, capfd, kind):
    name_pieces(folder, *USER_DEFINED[kind])
    own = TextTokenizer(folder)
    probes = probe_texts(own)

    file = export(folder, tmp_path / "x.gguf", "f16")

    assert read_gguf_model(str(file)).tokenizer().encode("x".join(probes)) == own.encode("x".join(probes))
    read = llama_cpp_ids(file, probes)
    other = [text for text, ids in zip(probes, read, strict=True) if ids != own.encode(text)]
    assert other  # else llama.cpp has changed, and nothing is to be said
    said = capfd.readouterr().err
    assert f"WARNING {len(other)} of {len(probes)} texts around the user-defined pieces of tokenizer.model (" in said
    assert repr(own.user_defined[0]) in said
    assert "chat.py or generate.py" in said


def test_a_piece_with_spaces_is_found_by_llama_cpp(folder, tmp_path):
    name_pieces(folder, "▁<x>", "a▁b")

    file = export(folder, tmp_path / "x.gguf", "f16")

    found = llama_cpp_ids(file, ["好 <x>", "好a b"])
    assert (found[0][-1], found[1][-1]) == (1700, 1701)


@pytest.mark.parametrize("settings", [{}, {"add_dummy_prefix": False}], ids=["no such piece", "no space in front"])
def test_nothing_is_said_where_nothing_differs(folder, tmp_path, capfd, settings):
    name_pieces(folder, *(["<ctx>"] if settings else []), **settings)

    export(folder, tmp_path / "x.gguf", "f16")

    assert "WARNING" not in capfd.readouterr().err


def test_where_llama_cpp_is_not_installed_it_is_said_that_they_may_differ(folder, tmp_path, monkeypatch):
    from vicuna.gguf.library import load_llama_cpp

    name_pieces(folder, "<ctx>")
    file = export(folder, tmp_path / "x.gguf", "f16")
    load_llama_cpp.cache_clear()
    monkeypatch.setitem(sys.modules, "llama_cpp", None)  # as an import of what is not there ends

    said = describe_other_ids(file, TextTokenizer(folder))

    assert said.startswith("around the user-defined pieces of tokenizer.model ('<ctx>') llama.cpp may give other ids")
