"""Answers beyond max_position_embeddings: RoPE scaling, and --context."""

import json
import random
import shutil

import pytest
import torch

from tests.answer.gguf_assistants import GREEDY as GGUF_GREEDY
from tests.answer.gguf_assistants import answered
from tests.gguf.gguf_models import change_config, export, hf_model
from vicuna.answer.flags import ServeFlags
from vicuna.answer.loading import load_assistant
from vicuna.errors import UserError
from vicuna.model.flags import ModelFlags

SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "longrope": {
        "rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 512,
        "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
    },
}  # fmt: skip
GREEDY = {"do_sample": False, "num_beams": 1, "max_new_tokens": 12, "min_new_tokens": 12}


def drawn(length: int) -> list[int]:
    """BOS and ids of the vocabulary."""
    draw = random.Random(length)
    return [1, *(draw.randrange(300, 1800) for _ in range(length - 1))]


def opened(folder, **flags):
    return load_assistant(ModelFlags(model_path=str(folder), bits=32, **flags), ServeFlags())


@pytest.fixture
def scaled_base(tiny_base, tmp_path, request):
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    change_config(folder, rope_parameters={**SCALINGS[request.param], "rope_theta": 10000.0})
    return folder


@pytest.mark.parametrize("scaled_base", SCALINGS, indirect=True)
@pytest.mark.parametrize("beams", [1, 3])
def test_a_long_prompt_is_answered_as_by_generate_whatever_was_asked_before(scaled_base, beams, capfd):
    assistant = opened(scaled_base)
    chosen = {**GREEDY, "num_beams": beams}
    assert assistant.engine.context == 2048

    for length in (520, 1000, 520, 100):  # a dynamic RoPE remembers the longest text
        ids = drawn(length)
        expected = hf_model(scaled_base).generate(torch.tensor([ids]), pad_token_id=2, **chosen)[0, length:]
        assert answered(assistant, ids, chosen) == expected.tolist()


@pytest.mark.parametrize("scaled_base", ["linear"], indirect=True)
def test_context_is_what_a_page_and_the_api_hold_a_prompt_to(scaled_base):
    narrow, wide = opened(scaled_base, context=300), opened(scaled_base, context=3000)

    with pytest.raises(UserError, match=r"the prompt has 300 tokens, the base's context is 300"):
        answered(narrow, drawn(300), GREEDY)
    assert len(answered(narrow, drawn(295), GREEDY)) == 5
    assert len(answered(wide, drawn(2500), GREEDY)) == 12


def test_context_of_a_gguf_is_the_users_word(tiny_base, tmp_path):
    file = export(tiny_base, tmp_path / "x.gguf", "f32")
    ids = drawn(600)

    with pytest.raises(UserError, match="the prompt has 600 tokens, the base's context is 512"):
        answered(opened(file), ids, GGUF_GREEDY)
    assert opened(file, context=700).engine.context == 700
    assert len(answered(opened(file, context=602), ids, {**GGUF_GREEDY, "min_new_tokens": 1})) <= 2


@pytest.mark.parametrize(("scaled_base", "context"), [("linear", 2048), ("dynamic", 512)], indirect=["scaled_base"])
def test_a_gguf_names_the_context_that_llama_cpp_can_use(scaled_base, tmp_path, context):
    file = export(scaled_base, tmp_path / "x.gguf", "f32")

    assert opened(file).engine.context == context
    assert f"PARAMETER num_ctx {context}\n" in (tmp_path / "Modelfile").read_text(encoding="utf-8")


def test_an_answer_beyond_the_length_before_scaling_says_nothing_of_it(program, tiny_base, tmp_path):
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    change_config(folder, rope_parameters={**SCALINGS["linear"], "rope_theta": 10000.0})
    asked = ["--bits", 32, "--prompt_type", "text", "--max_new_tokens", 3, "--min_new_tokens", 3]

    done = program("generate.py", "--model_path", folder, *asked, "--text", json.dumps(list(range(400))))

    assert done.returncode == 0, done.stderr
    assert "context of 2048 tokens (RoPE scaling linear x 4" in done.stderr
    assert "predefined maximum length" not in done.stderr
