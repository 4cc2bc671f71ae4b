"""Real vocabularies: those of llama.cpp's sources with the ids that it expects, and SmolLM2's on real texts."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from tests.gguf.byte_level_models import dequantised
from tests.gguf.gguf_models import gguf_logits, hf_logits
from vicuna.errors import UserError
from vicuna.gguf.foreign_ids import llama_cpp_ids
from vicuna.gguf.llama_cpp_source import source_folder
from vicuna.gguf_file.header import read_header
from vicuna.gguf_file.reader import read_gguf_model
from vicuna.gguf_file.vocabulary import tokenizer_files
from vicuna.model.base import check_base, load_base
from vicuna.prompt.templates import prompt_ids
from vicuna.prompt.tokenizer import TextTokenizer

# The others of llama.cpp's sources are as equal, and split as these are (docs/log.md).
NAMES = ("deepseek-llm", "gemma-4", "llama-bpe", "llama-spm", "phi-3", "qwen35", "refact")
BETWEEN = "\n__ggml_vocab_test__\n"
REAL = ("alpaca_zh_demo.json", "alpaca_en_demo.json")
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def encoder(file: Path) -> Callable[[str], list[int]]:
    """What gives a text the ids of a vocabulary, without all else that a tokenizer is opened for."""
    keys = read_header(file).keys
    made = tokenizer_files(keys, file)
    if made.json is None:
        return TextTokenizer(made).encode
    tokenizer = Tokenizer.from_str(made.json)
    tokenizer.encode_special_tokens = True
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", NAMES)
def test_ids_of_a_published_vocabulary_are_those_that_llama_cpp_expects(name):
    try:
        file = source_folder() / f"models/ggml-vocab-{name}.gguf"
    except UserError as error:
        pytest.skip(str(error))
    texts = Path(f"{file}.inp").read_text(encoding="utf-8").split(BETWEEN)
    lines = Path(f"{file}.out").read_text(encoding="utf-8").split("\n")
    encode = encoder(file)
    odd = [text for text, line in zip(texts, lines, strict=False) if encode(text) != [int(one) for one in line.split()]]
    assert len(texts) > 40
    assert not odd


def test_smollm2_reads_every_real_text_as_llama_cpp_does(smollm2_gguf, shared):
    records = [row for name in REAL for row in json.loads((shared / "instruct/llama-factory" / name).read_bytes())]
    texts = [text for row in records for text in row.values() if isinstance(text, str) and text]
    assert len(texts) > 3900
    tokenizer = read_gguf_model(str(smollm2_gguf)).tokenizer()
    found = llama_cpp_ids(smollm2_gguf, texts)
    assert [text for text, ids in zip(texts, found, strict=True) if tokenizer.encode(text) != ids] == []
    # Digits one by one, which a splitting by GPT-2's pattern alone does not do.
    assert len(tokenizer.encode("  42")) == 4 - 1


def test_smollm2_dequantised_has_the_logits_of_its_weights_in_llama_cpp(smollm2_gguf, tmp_path):
    """Not those of the file: there llama.cpp rounds activations, too, and answers this question in French."""
    base = check_base(str(smollm2_gguf))
    model = load_base(base, 32)
    ids = prompt_ids(base.tokenizer, "base", QUESTION)
    expected = gguf_logits(dequantised(smollm2_gguf, tmp_path / "plain.gguf"), ids)
    (tmp_path / "plain.gguf").unlink()  # half a gigabyte
    assert float((hf_logits(model, ids) - expected).abs().max()) < 1e-4
    answer = model.generate(input_ids=torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :].tolist()
    assert base.tokenizer.decode_continuation(answer) == "The capital of France is Paris."
    assert answer[-1] == base.tokenizer.eos_id
