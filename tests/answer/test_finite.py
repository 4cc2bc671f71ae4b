"""A model whose logits are no numbers ends in a sentence, however it is asked, and never in an answer of ⁇."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.answer.modes import MODES, chosen_for
from vicuna.answer.finite import FiniteScores
from vicuna.answer.flags import ServeFlags
from vicuna.answer.loading import load_assistant
from vicuna.errors import UserError
from vicuna.model.flags import ModelFlags

SAID = r"computes no finite numbers \(its logits are NaN or infinite\): its weights, .* take --bits 32\."


@pytest.fixture(scope="module")
def broken(tiny_base, tmp_path_factory):
    """An assistant on a base with a NaN in it."""
    folder = shutil.copytree(tiny_base, tmp_path_factory.mktemp("broken") / "base")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return load_assistant(ModelFlags(str(folder), bits=32), ServeFlags())


@pytest.mark.parametrize("mode", MODES)
def test_an_answer_ends_in_a_sentence(broken, mode):
    with pytest.raises(UserError, match=SAID):
        list(broken.stream([1, 300, 301], chosen_for(mode), seed=1))


@pytest.mark.parametrize("mode", ["greedy", "sampling"])
def test_answers_of_a_batch_end_in_it(broken, mode):
    with pytest.raises(UserError, match=SAID):
        broken.answer([[1, 300], [1, 301, 302]], chosen_for(mode), [1, 2])


def test_the_likelihood_of_a_text_ends_in_it(broken):
    with pytest.raises(UserError, match=SAID):
        broken.score([[1, 300, 301]], 1)


@pytest.mark.parametrize("odd", [torch.nan, torch.inf])
def test_one_odd_score_is_enough_and_suppressed_ids_are_none(odd):
    scores = torch.zeros(2, 5)
    scores[:, 1] = -torch.inf
    assert FiniteScores()(None, scores) is scores
    scores[1, 2] = odd
    with pytest.raises(UserError, match=SAID):
        FiniteScores()(None, scores)
