"""Inside a GGUF are SentencePiece itself, which makes our prompts' ids, the template, and what the model declares."""

import json
import random
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor

from tests.gguf.gguf_models import (
    BOUNDS,
    REAL,
    distance,
    drawn_ids,
    export,
    gguf_logits,
    hf_logits,
    hf_model,
    make_model,
)
from vicuna.gguf.modelfile import modelfile
from vicuna.gguf_file.reader import GENERATION, PROMPT_TYPE, read_gguf_model
from vicuna.prompt.chat_template import chat_template
from vicuna.prompt.templates import PROMPT_TYPES, TEMPLATES, prompt_ids, render
from vicuna.prompt.tokenizer import TextTokenizer


@pytest.fixture(scope="module")
def strange_texts() -> list[str]:
    """Thousands of strings of everything that tokenizers trip over."""
    draw = random.Random(3)
    words = [
        *("春风", "吹来", "礎", "鹉", "𠮷", "é", "ñ", "Ⅷ", "ﬁ", "🦙", "👨‍👩‍👧", "한국"),
        *("\u3000", "\u00a0", "\ufeff", "\u200a"),
        *(" ", "  ", "   ", "\n", "\r\n", "\t", "▁", "</s>", "<s>", "<unk>", "<0x41>", "[PAD1800]", "### Instruction:"),
        *("the", "The quick", "ing", "12:30", "0x1F", "#", '"', "def f(x):", "a", "A", "\x00", "\x7f"),
    ]  # fmt: skip
    return ["".join(draw.choices(words, k=draw.randrange(12))) for _ in range(2000)]


def same_ids(file: Path, folder: Path, texts: list[str]) -> None:
    tokenizer, expected = read_gguf_model(str(file)).tokenizer(), TextTokenizer(folder)
    names = ("bos_id", "eos_id", "unk_id", "size")
    assert [getattr(tokenizer, name) for name in names] == [getattr(expected, name) for name in names]
    spm = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    for text in texts:
        ids = spm.encode(text)
        assert tokenizer.encode(text) == ids, text
        assert tokenizer.encode_continuation(text) == expected.encode_continuation(text), text
        assert tokenizer.decode_continuation(ids) == expected.decode_continuation(ids), text


@pytest.mark.parametrize("name", REAL)
def test_the_tokenizer_inside_is_sentencepiece_itself(shared, tmp_path, strange_texts, name):
    folder = shared / f"models/{name}-hf"

    same_ids(export(folder, tmp_path / "x.gguf", "f16"), folder, strange_texts)


@pytest.mark.parametrize("name", ["llama", "chinese-llama-merged", "chinese-llama-2"])
def test_the_tokenizer_inside_is_sentencepiece_itself_for_large_vocabularies(shared, tmp_path, strange_texts, name):
    tokenizer = shared / f"tokenizers/{name}/tokenizer.model"
    folder = make_model(tmp_path / "hf", tokenizer, hidden_size=8, num_attention_heads=1, num_hidden_layers=1)

    same_ids(export(folder, tmp_path / "x.gguf", "f16"), folder, strange_texts)


def test_rows_above_the_tokenizer_are_named_padding_and_are_no_text(tmp_path, tiny_base, tokenizer_model):
    folder = make_model(tmp_path / "hf", tokenizer_model, vocab_size=1808)
    (folder / "added_tokens.json").write_text('{"[PAD]": 1800}', encoding="utf-8")

    file = export(folder, tmp_path / "x.gguf", "f32")

    found = read_gguf_model(str(file))
    assert found.keys["tokenizer.ggml.tokens"][1799:] == [
        found.keys["tokenizer.ggml.tokens"][1799], "[PAD]", *(f"[PAD{row}]" for row in range(1801, 1808)),
    ]  # fmt: skip
    assert found.keys["tokenizer.ggml.token_type"][1800:] == [3] + 7 * [5]
    tokenizer, expected = found.tokenizer(), TextTokenizer(tiny_base)
    for text in ("[PAD]", "[PAD1803] x", "春天"):
        assert tokenizer.encode(text) == expected.encode(text)
    assert tokenizer.decode_continuation([1800, 1807]) == ""
    ids = drawn_ids(1808, 50)
    assert distance(gguf_logits(file, ids), hf_logits(hf_model(folder), ids)) < BOUNDS["f32"]


def test_what_the_model_declares_travels_along(tmp_path, tokenizer_model):
    folder = make_model(tmp_path / "hf", tokenizer_model)
    declared = {"bos_token_id": 1, "eos_token_id": [2, 9], "suppress_tokens": [0, 7], "repetition_penalty": 1.3}
    (folder / "generation_config.json").write_text(json.dumps(declared), encoding="utf-8")
    (folder / "run_args.json").write_text('{"prompt_type": "chat"}', encoding="utf-8")

    file = export(folder, tmp_path / "x.gguf", "f32")

    keys = read_gguf_model(str(file)).keys
    assert json.loads(keys[GENERATION]) == declared
    assert keys[PROMPT_TYPE] == "chat"
    assert keys["tokenizer.chat_template"] == chat_template("chat")
    assert [keys[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "unknown")] == [1, 2, 0]
    assert (keys["llama.context_length"], keys["tokenizer.ggml.add_bos_token"]) == (512, True)
    assert (tmp_path / "Modelfile").read_text(encoding="utf-8") == modelfile("x.gguf", "chat", 512, [0, 7])


DIALOGUE = [
    {"role": "user", "content": "你好！"},
    {"role": "assistant", "content": "您好。\n有什么可以帮助您的？"},
    {"role": "user", "content": "Tell me about 春天 🦙."},
]


@pytest.mark.parametrize("prompt_type", PROMPT_TYPES)
def test_llama_cpp_makes_our_prompt_ids_of_the_template_inside(tmp_path, tokenizer_model, prompt_type):
    """As its server does, with its own tokenizer, where nobody types a control token."""
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    from vicuna.gguf.library import load_llama_cpp

    folder = make_model(tmp_path / "hf", tokenizer_model)
    file = export(folder, tmp_path / "x.gguf", "f16", prompt_type=prompt_type)
    messages = DIALOGUE if TEMPLATES[prompt_type].turn else DIALOGUE[-1:]

    keys = read_gguf_model(str(file)).keys
    formatter = Jinja2ChatFormatter(keys["tokenizer.chat_template"], eos_token="</s>", bos_token="<s>")
    text = formatter(messages=messages).prompt
    assert text.replace("</s>", "") == "<s>" + render(prompt_type, messages)
    llama = load_llama_cpp().Llama(str(file), vocab_only=True, verbose=False)
    ids = llama.tokenize(text.encode(), add_bos=False, special=True)
    llama.close()
    expected = prompt_ids(read_gguf_model(str(file)).tokenizer(), prompt_type, messages)
    if prompt_type != "chat_eos":
        assert ids == expected
    else:  # llama.cpp's tokenizer puts a space behind </s>, which ours, that chat.py uses with a GGUF, does not
        at = expected.index(2) + 1
        assert (ids[:at], ids[-8:]) == (expected[:at], expected[-8:])
        assert ids != expected
