"""Modelfiles for Ollama."""

import pytest

from tests.gguf.gguf_models import export, make_model
from vicuna.gguf.modelfile import modelfile
from vicuna.prompt.templates import PROMPT_TYPES


@pytest.mark.parametrize("prompt_type", PROMPT_TYPES)
def test_a_modelfile_leaves_the_template_to_the_gguf(prompt_type):
    text = modelfile("x.gguf", prompt_type, 2048, [])

    assert "FROM ./x.gguf\n" in text
    assert "PARAMETER num_ctx 2048\n" in text
    assert 'PARAMETER stop "</s>"' in text
    assert "\nTEMPLATE" not in text  # Ollama would take it in place of the one inside
    assert "\nADAPTER" not in text


def test_a_modelfile_stops_at_ends_that_llama_cpp_does_not_know():
    assert 'PARAMETER stop "<d>"\n' in modelfile("x.gguf", "base", 2048, [], ["<d>"])


def test_a_modelfile_of_another_file_is_left_alone(tmp_path, tokenizer_model):
    folder = make_model(tmp_path / "hf", tokenizer_model)
    (tmp_path / "Modelfile").write_text("FROM llama2\n", encoding="utf-8")

    export(folder, tmp_path / "x.gguf", "f32")

    assert (tmp_path / "Modelfile").read_text(encoding="utf-8") == "FROM llama2\n"
    assert "FROM ./x.gguf" in (tmp_path / "x.Modelfile").read_text(encoding="utf-8")
