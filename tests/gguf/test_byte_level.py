"""Byte-level vocabularies of GGUF files: our ids are llama.cpp's, whatever a file calls its splitting."""

import json
from pathlib import Path

import pytest

from tests.gguf.byte_level_models import CONTROLS, ROOT, WHOLE, vocabulary, write_gguf
from vicuna.errors import UserError
from vicuna.gguf.foreign_ids import llama_cpp_ids
from vicuna.gguf_file.reader import read_gguf
from vicuna.gguf_file.splitting import SPLITTINGS

# One name of each splitting; gemma4's is another kind of vocabulary.
NAMES = {splitting: name for name, splitting in reversed(SPLITTINGS.items()) if not splitting.escaped}
ODD = (
    "  42", "1. a\n2. b\n10. c 1234567 ٣٤٥ ²³ ½", "\t\t\tx  \n\n y \r\n\r\n", "\u00a0x\u3000\u3000y",
    "cafe\u0301 Ünï 한국어 각",
    "😀👨‍👩‍👧 🇨🇳", "They'LL they'll 'S's", "HelloWORLDfoo国BAR", "def f():\n        return  1",
    "a<|im_end|>b", "<think>\n\n</think>",
    "x" * 300, "(((](;]])——……", "", " unreachable", "𐐀𐐁 Ꙁꙁ ЖжЩщ ǅ",
)  # fmt: skip


def texts() -> list[str]:
    lines = (ROOT / "sample/instruct/data_sample.jsonl").read_text(encoding="utf-8").splitlines()
    return [*ODD, *(value for line in lines for value in json.loads(line).values() if isinstance(value, str))]


def tokenizer_of(file: Path):
    return read_gguf(str(file), "--model_path").tokenizer()


@pytest.mark.parametrize("pre", NAMES.values())
def test_ids_are_those_of_llama_cpp(tmp_path, pre):
    file = write_gguf(tmp_path / "x.gguf", pre=pre, tensors={})
    tokenizer, given = tokenizer_of(file), texts()
    assert [tokenizer.encode(text) for text in given] == llama_cpp_ids(file, given)


def test_a_word_that_is_a_piece_is_that_piece_where_llama_cpp_says_so(tmp_path):
    piece = vocabulary()[0].index(WHOLE)
    for pre, whole in (("llama-bpe", True), ("tekken", True), ("qwen2", False), ("smollm", False)):
        ids = tokenizer_of(write_gguf(tmp_path / f"{pre}.gguf", pre=pre, tensors={})).encode(" unreachable")
        assert (ids == [piece]) is whole


def test_tokens_have_the_ids_of_the_file(tmp_path):
    """Those outside the byte alphabet too, which added anew would get ids behind the embeddings."""
    pieces, _, _ = vocabulary()
    bars = pieces.index("<｜end▁of▁sentence｜>")
    tokenizer = tokenizer_of(
        write_gguf(tmp_path / "x.gguf", pre="deepseek-llm", tensors={}, tokenizer__ggml__eos_token_id=bars)
    )
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.size) == (1, bars, len(pieces))
    assert tokenizer.encode_rendering("".join(CONTROLS)) == [0, 1, 2, 3]
    assert not {0, 1, 2, 3} & set(tokenizer.encode("".join(CONTROLS)))  # somebody's text never ends a turn
    thought = pieces.index("<think>")
    assert tokenizer.encode("a<think>b").count(thought) == 1  # user-defined: in any text
    assert tokenizer.decode_continuation(tokenizer.encode_continuation("你好, 12!")) == "你好, 12!"


@pytest.mark.parametrize(
    ("pre", "flag", "begins"),
    [("llama-bpe", None, True), ("llama-bpe", False, False), ("qwen2", None, False), ("qwen2", True, True)],
)
def test_bos_is_put_where_llama_cpp_puts_it(tmp_path, pre, flag, begins):
    said = {} if flag is None else {"tokenizer__ggml__add_bos_token": flag}
    without = ("tokenizer.ggml.add_bos_token",) if flag is None else ()
    file = write_gguf(tmp_path / "x.gguf", pre=pre, tensors={}, without=without, **said)
    assert tokenizer_of(file).beginning == [1] * begins


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"tokenizer__ggml__pre": "my-own"}, r"x\.gguf has its texts split as 'my-own' .* does not know.* qwen2"),
        ({"tokenizer__ggml__model": "bert"}, r"x\.gguf has bert vocabulary; expected a SentencePiece one"),
        ({"tokenizer__ggml__token_type": [1, 1]}, r"x\.gguf has \d+ pieces with 2 types"),
    ],
)
def test_a_vocabulary_that_is_not_known_is_refused(tmp_path, keys, said):
    with pytest.raises(UserError, match=said):
        tokenizer_of(write_gguf(tmp_path / "x.gguf", tensors={}, **keys))


def test_a_vocabulary_without_merges_is_refused(tmp_path):
    with pytest.raises(UserError, match="no merges"):
        tokenizer_of(write_gguf(tmp_path / "x.gguf", tensors={}, without=("tokenizer.ggml.merges",)))


def test_every_token_that_ends_an_answer_in_llama_cpp_does(tmp_path):
    file = read_gguf(str(write_gguf(tmp_path / "x.gguf", tensors={})), "--model_path")
    assert file.ends == [2, 0, 3]  # EOS, then by their names
    file = read_gguf(str(write_gguf(tmp_path / "y.gguf", tensors={}, tokenizer__ggml__eot_token_id=1)), "--model_path")
    assert file.ends == [2, 1, 0, 3]
