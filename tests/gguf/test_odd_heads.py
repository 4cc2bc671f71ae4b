"""A GGUF's head declares; nothing is taken or looped over by what it merely declares, and odd keys are a sentence."""

import json
import struct
from pathlib import Path

import pytest

from vicuna.errors import UserError
from vicuna.gguf_file import header
from vicuna.gguf_file.header import read_head
from vicuna.gguf_file.keys import check_keys, check_sizes
from vicuna.gguf_file.reader import GENERATION, GGUFFile
from vicuna.gguf_file.vocabulary import token_id

KEYS = {
    **{"general.architecture": "llama", "llama.block_count": 2, "llama.embedding_length": 32},
    **{"llama.feed_forward_length": 64, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2},
    **{"tokenizer.ggml.tokens": ["<unk>", "a"], "tokenizer.ggml.scores": [0.0, -1.0]},
}
SHAPES = {"token_embd.weight": (2, 32)}
for block in (0, 1):
    SHAPES |= {f"blk.{block}.ffn_gate.weight": (64, 32), f"blk.{block}.attn_q.weight": (32, 32)}
    SHAPES |= {f"blk.{block}.attn_k.weight": (16, 32)}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def head(tensors: int = 0, keys: int = 0, rest: bytes = b"", behind: bytes = bytes(64)) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", 3, tensors, keys) + rest + behind


def key(kind: int, value: bytes, name: str = "a") -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def array(inner: int, count: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", inner, count) + values


def tensor(shape: tuple[int, ...], name: str = "t") -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, 0)


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        (head(tensors=1 << 40), "it says that it has 1,099,511,627,776 tensors, expected 0 to 1,048,576"),
        (head(keys=1 << 17), "it says that it has 131,072 keys, expected 0 to 65,536"),
        (head(keys=1, rest=struct.pack("<Q", 1 << 40)), "it ends within its head"),
        (head(keys=1, rest=key(8, struct.pack("<Q", 1 << 50))), "it ends within its head"),
        (head(keys=1, rest=key(9, array(4, 1 << 23))), "it ends within its head"),
        (head(keys=1, rest=key(9, array(8, 1 << 24))), "it says that it has 16,777,216 values in an array"),
        (head(keys=1, rest=key(9, array(9, 1) * 5 + array(4, 0))), "it has more than 4 arrays in each other"),
        (head(keys=1, rest=key(77, b"")), "it has a value of type 77, which GGUF does not know"),
        (head(keys=2, rest=key(4, bytes(4)) * 2), "it has a twice"),
        (head(tensors=2, rest=tensor((2, 2)) * 2), "it has t twice"),
        (head(tensors=1, rest=tensor((1,) * 9)), "it says that it has 9 dimensions of a tensor, expected 1 to 4"),
        (head(tensors=1, rest=tensor(())), "it says that it has 0 dimensions of a tensor, expected 1 to 4"),
        (head(tensors=1, rest=tensor((2, 0))), "it has t of (0, 2)"),
        (head(keys=1, rest=key(4, bytes(4), "general.alignment")), "its general.alignment is 0, expected a number"),
        (head(keys=1, rest=key(8, text("32"), "general.alignment")), "its general.alignment is 32, expected a number"),
    ],
)
def test_a_head_is_believed_no_further_than_its_file(odd, says):
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        read_head(odd)
    assert says in str(refused.value)


def test_a_head_above_the_bound_is_not_read_on(monkeypatch):
    whole = head(keys=2, rest=key(8, text("x" * 40)) + key(8, text("y"), "b"))
    assert read_head(whole).keys == {"a": "x" * 40, "b": "y"}

    monkeypatch.setattr(header, "MOST_BYTES", 60)
    with pytest.raises(ValueError, match="its head has more than 60 bytes"):
        read_head(whole)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"llama.block_count": -2}, "block_count is -2; expected at least 1"),
        ({"llama.context_length": "long"}, "context_length is 'long'; expected a whole number"),
        ({"llama.rope.freq_base": float("nan")}, "rope_freq_base is nan; expected finite numbers from 0 to 1e12"),
        ({"llama.rope.scaling.factor": float("inf")}, "rope_scaling_factor is inf; expected finite numbers"),
        ({"llama.attention.head_count": "four"}, "attention_head_count is 'four'; expected whole numbers from 0"),
        ({"tokenizer.ggml.tokens": "abc"}, "tokenizer_ggml_tokens is 'abc'; expected a list"),
        ({"tokenizer.ggml.tokens": ["a", 3]}, "tokenizer_ggml_tokens.1 is 3; expected a text"),
        ({"tokenizer.ggml.scores": [0.0, float("nan")]}, "tokenizer_ggml_scores.1 is nan; expected a finite number"),
        ({"tokenizer.ggml.scores": [0.0]}, "has 2 pieces with 1 scores; expected one for each piece"),
        ({"tokenizer.ggml.eos_token_id": "2"}, "tokenizer_ggml_eos_token_id is '2'; expected a whole number"),
        ({"tokenizer.chat_template": ["x"]}, "tokenizer_chat_template is ['x']; expected a text"),
    ],
)
def test_a_key_of_another_type_is_a_sentence(keys, says):
    check_keys(KEYS, "it")
    with pytest.raises(UserError) as refused:
        check_keys(KEYS | keys, "it")
    assert says in str(refused.value)


def test_blocks_may_differ_in_files_that_are_only_for_llama_cpp():
    check_keys(KEYS | {"llama.feed_forward_length": [64, 32], "llama.attention.head_count_kv": [2, 1]}, "it")


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"llama.block_count": 9999}, "declares 9,999 by block_count, and its tensors have 2"),
        ({"llama.embedding_length": 1 << 20}, "declares 1,048,576 by embedding_length, and its tensors have 32"),
        ({"llama.feed_forward_length": 65}, "declares 65 by feed_forward_length, and its tensors have 64"),
        ({"llama.attention.head_count": 0}, "has 0 heads of no size"),
        ({"llama.attention.head_count": 64}, "has 64 heads of no size"),
        ({"llama.attention.key_length": 1 << 20}, "by attention.head_count, and its tensors have 32"),
        ({"llama.attention.head_count_kv": 4}, "declares 32 by attention.head_count_kv, and its tensors have 16"),
        ({"tokenizer.ggml.tokens": ["a"] * 3}, "declares 3 by tokenizer.ggml.tokens, and its tensors have 2"),
    ],
)
def test_what_keys_declare_is_compared_with_the_tensors(keys, says):
    check_sizes(KEYS, SHAPES, Path("it"))
    with pytest.raises(UserError) as refused:
        check_sizes(KEYS | keys, SHAPES, Path("it"))
    assert says in str(refused.value)


@pytest.mark.parametrize("number", [-1, 2, (1 << 32) - 1])
def test_an_id_outside_of_the_vocabulary_is_none(number):
    assert token_id(KEYS | {"tokenizer.ggml.eos_token_id": number}, "eos") is None
    assert token_id(KEYS | {"tokenizer.ggml.eos_token_id": 1}, "eos") == 1


@pytest.mark.parametrize(
    "said", ["[" * 70 + "]" * 70, "[]", "{", json.dumps({"eos_token_id": 2}), '{"eos_token_id": -1}']
)
def test_what_a_file_declares_of_its_decoding_is_a_sentence_where_it_is_odd(said):
    file = GGUFFile(Path("it.gguf"), KEYS | {GENERATION: said}, {}, {}, {})
    with pytest.raises(UserError, match=r"vicuna\.generation_config in it\.gguf"):
        assert file.ends


def test_what_is_no_setting_is_left_out():
    said = '{"temperature": NaN, "top_p": 0.5, "top_k": [1e999], "a": "b", "eos_token_id": [1]}'
    file = GGUFFile(Path("it.gguf"), KEYS | {GENERATION: said}, {}, {}, {})

    assert (file.generation, file.ends) == ({"top_p": 0.5, "eos_token_id": [1]}, [1])
