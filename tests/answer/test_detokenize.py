"""Growing texts: decoded piece by piece they are what they are as a whole; texts that end an answer stay hidden."""

import random
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.own_bases import write_tokenizer
from vicuna.answer.detokenize import Detokenizer, StopStrings
from vicuna.prompt.tokenizer import TextTokenizer

TEXT = "春风吹来🦙 a𠮷野家 é\n\n  two  spaces, ###  Assistant: 한국 \ufffd x"


@pytest.fixture(scope="module", params=["tokenizer.model", "tokenizer.json", "byte-level"])
def tokenizer(request, tiny_base, tmp_path_factory) -> TextTokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    if request.param == "byte-level":
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
        bpe.train_from_iterator([TEXT] * 3, trainer)
        PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    elif request.param == "tokenizer.json":
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tiny_base / name, folder)
    else:
        shutil.copy(tiny_base / "tokenizer.model", folder)
    return TextTokenizer(folder)


def answers(tokenizer: TextTokenizer) -> list[list[int]]:
    """Ids of texts, cut anywhere, and of nothing that makes sense: lone bytes, control ids, ids without a piece."""
    draw = random.Random(1)
    known = tokenizer.encode_continuation(TEXT)
    anything = [[draw.randrange(tokenizer.size + 3) for _ in range(60)] for _ in range(20)]
    # In the tiny tokenizer the 256 byte pieces follow three control ids.
    low = [
        [draw.choice([draw.randrange(3, 259), draw.randrange(tokenizer.size)]) for _ in range(60)] for _ in range(60)
    ]
    return [known, *anything, *low]


def whole(tokenizer: TextTokenizer, ids: list[int]) -> str:
    return tokenizer.decode_continuation(tokenizer.drop_partial_character(ids))


def test_a_text_that_grows_by_a_token_is_the_text_of_the_whole(tokenizer):
    for ids in answers(tokenizer):
        texts = Detokenizer(tokenizer)
        for end in range(len(ids) + 1):
            assert texts.decode(ids[:end]) == whole(tokenizer, ids[:end])


def test_a_token_that_ends_a_character_and_begins_the_next_shows_none_of_it(tmp_path):
    write_tokenizer(tmp_path, "thinking")
    tokenizer = TextTokenizer(tmp_path)
    text = "今天晴。"
    ids = tokenizer.encode_continuation(text)
    texts = [whole(tokenizer, ids[:end]) for end in range(len(ids) + 1)]

    assert any(tokenizer.decode_continuation([i]).count("\ufffd") > 1 for i in ids)  # such a token is there
    assert texts[-1] == text
    assert all(text.startswith(one) for one in texts)


def test_texts_that_skip_and_branch_are_those_of_the_whole(tokenizer):
    draw = random.Random(2)
    texts = Detokenizer(tokenizer, 4)
    rows = [[], []]
    for _ in range(400):
        rows = [
            [*draw.choice(rows), *(draw.randrange(3, tokenizer.size) for _ in range(draw.randrange(4)))] for _ in rows
        ]
        rows = [row[: draw.randrange(60)] if len(row) > 60 else row for row in rows]
        assert [texts.decode(row) for row in rows] == [whole(tokenizer, row) for row in rows]


def test_only_what_is_new_is_decoded(tokenizer):
    decoded: list[int] = []

    class Counting(TextTokenizer):
        def __init__(self):
            pass

        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def decode_continuation(self, ids):
            decoded.append(len(ids))
            return tokenizer.decode_continuation(ids)

    texts, ids = Detokenizer(Counting()), tokenizer.encode_continuation("春风吹来 two spaces " * 80)
    for end in range(1, len(ids) + 1):
        texts.decode(ids[:end])
    assert len(ids) > 200
    assert max(decoded) < 16


def test_the_first_of_several_stop_texts_ends_the_text():
    stops = StopStrings(["\n\n", "User:", ""])
    assert stops
    assert stops.cut("好的。\nUser:\n\n") == "好的。\n"
    assert stops.cut("好的。\n") == "好的。\n"
    assert stops.find("a\n\nUser:") == 1
    assert not StopStrings(["", ""])
    assert StopStrings().visible("a") == "a"


@pytest.mark.parametrize("answer", ["ab\nUser: c", "aUUser:b", "aUseUsUser:", "aUsexxUser", "", "User:", "\n\nUser"])
def test_nothing_is_shown_that_is_taken_back_later(answer):
    stops = StopStrings(["User:", "\n\nU", "sex!"])
    shown = [stops.visible(answer[:end]) for end in range(len(answer) + 1)]
    assert all(later.startswith(earlier) for earlier, later in pairwise(shown))
    assert stops.cut(answer).startswith(shown[-1])
    longest = max(map(len, stops.texts))
    assert len(stops.cut(answer)) - len(shown[-1]) < longest
