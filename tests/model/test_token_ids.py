"""What is said of a base whose files name other ends than its tokenizer; how its answers end once all are named."""

import re

import pytest

from tests.answer.adapters import GREEDY, PROMPTS, answer, loaded
from tests.own_pieces import name_pieces
from vicuna.errors import UserError
from vicuna.model.base import check_base

FILES = ("config.json", "generation_config.json")


def refusal(folder) -> str:
    with pytest.raises(UserError) as error:
        check_base(str(folder))
    return str(error.value)


@pytest.mark.parametrize("kind", ["CONTROL", "USER_DEFINED"])
@pytest.mark.parametrize("file", FILES)
def test_another_piece_that_ends_turns_is_kept_beside_eos(edit_base, file, kind):
    folder = edit_base(file, eos_token_id=1700)
    name_pieces(folder, "<|im_end|>", kind=kind)

    said = refusal(folder)

    assert f"base/{file} says eos_token_id 1700, but tokenizer.model beside it says 2: its turns end" in said
    assert "end with 1700 (<|im_end|>), and" in said
    assert "training here ends answers with 2 (</s>)" in said
    assert '"eos_token_id": [1700, 2], in config.json and in generation_config.json' in said
    assert "Correct" not in said


ADDED = {
    "added_tokens.json": {"<|im_end|>": 1800},
    "tokenizer_config.json": {"added_tokens_decoder": {"1800": {"content": "<|im_end|>", "special": True}}},
    "tokenizer.json": {"added_tokens": [{"id": 1800, "content": "<|im_end|>", "special": True}]},
}


@pytest.mark.parametrize("file", ADDED)
def test_an_added_token_that_ends_turns_is_named_from_whichever_file_has_it(edit_base, file):
    edit_base("config.json", vocab_size=1804, eos_token_id=1800)
    if file == "added_tokens.json":
        edit_base("tokenizer_config.json").joinpath(file).write_text("{}", encoding="utf-8")
    folder = edit_base(file, **ADDED[file])

    assert "its turns end with 1800 (<|im_end|>), and training here ends answers with 2 (</s>)" in refusal(folder)


def test_several_ends_and_a_plain_piece_are_kept_too(edit_base):
    folder = edit_base("config.json", eos_token_id=[7, 9])

    said = refusal(folder)

    assert "its turns end with 7 or 9, and" in said
    assert '"eos_token_id": [7, 9, 2],' in said


def test_the_tokenizer_of_a_tokenizer_json_says_it_alike(edit_base):
    folder = edit_base("config.json", eos_token_id=7)
    (folder / "tokenizer.model").unlink()

    assert re.search(r"but tokenizer\.json beside it says 2: its turns end with 7, .* with 2 \(</s>\)", refusal(folder))


@pytest.mark.parametrize("declared", [1, 0, 1800, -1, [1, 0]])
def test_what_can_end_nothing_is_to_be_corrected(edit_base, declared):
    said = refusal(edit_base("config.json", eos_token_id=declared))

    assert "says 2: answers would not end. Correct eos_token_id in config.json" in said


@pytest.mark.parametrize("which", [0, 1])
def test_a_base_with_all_its_ends_named_ends_at_each(edit_base, which):
    chosen = {**GREEDY, "min_new_tokens": 1}
    running = answer(loaded(edit_base("config.json"), [], cache_gib=0), None, PROMPTS[0], chosen)[0]
    end = next(one for one in running[3:] if one not in running[:3])  # a token that the base happens to say
    ends = [end, 2] if which else [2, end]
    for file in FILES:
        folder = edit_base(file, eos_token_id=ends)

    found = answer(loaded(folder, [], cache_gib=0), None, PROMPTS[0], chosen)[0]

    assert found == running[: running.index(end) + 1]
    assert len(found) < len(running)


def test_a_base_that_names_no_end_ends_at_that_of_its_tokenizer(edit_base):
    edit_base("config.json", eos_token_id=None)
    folder = edit_base("generation_config.json", eos_token_id=None)

    assert check_base(str(folder)).generation_config.eos_token_id == 2
    (folder / "generation_config.json").unlink()
    assert check_base(str(folder)).generation_config.eos_token_id == 2
