"""LLaMAs with byte-level vocabularies as GGUF files: ids, BOS, ends and templates are those of the folder."""

import json
from itertools import islice
from pathlib import Path

import pytest

from tests.gguf.cut_models import (
    CHATML,
    LLAMA_3_LIKE,
    PUBLISHED,
    QWEN_LIKE,
    make_byte_level,
    make_tokenizer,
    published,
)
from tests.gguf.gguf_models import BOUNDS, distance, export, gguf_logits, hf_logits, hf_model
from vicuna.errors import UserError
from vicuna.gguf.ends import llama_cpp_ends
from vicuna.gguf.foreign_ids import llama_cpp_ids
from vicuna.gguf.model_file import is_written_here
from vicuna.gguf.pre_tokenizers import pre_tokenizer_name
from vicuna.gguf.writer import check_llama
from vicuna.gguf_file.reader import read_gguf_model
from vicuna.model.base import check_base
from vicuna.prompt.probes import probe_texts
from vicuna.prompt.replaced_templates import kept_as_written
from vicuna.prompt.tokenizer import TextTokenizer

KINDS = {"qwen2": QWEN_LIKE, "llama-bpe": LLAMA_3_LIKE, "smollm": QWEN_LIKE, "gpt-2": QWEN_LIKE, "dbrx": LLAMA_3_LIKE,
         "deepseek-v3": QWEN_LIKE}  # fmt: skip


def named_ids(folder: Path, *names: str) -> list[int]:
    """The ids of control tokens."""
    ids = {name: number for number, name in TextTokenizer(folder).markers.items()}
    return [ids[name] for name in names]


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """name -> the folder and its GGUF."""
    made = {}
    for name, like in KINDS.items():
        folder = make_byte_level(tmp_path_factory.mktemp(name) / "hf", name, like)
        made[name] = folder, export(folder, folder.parent / "x.gguf", "f32")
    return made


@pytest.fixture(scope="module")
def real_texts(shared) -> list[str]:
    rows = json.loads((shared / "instruct/llama-factory/alpaca_zh_demo.json").read_text(encoding="utf-8"))
    return [text for row in islice(rows, 150) for text in (row["instruction"], row["output"]) if text]


@pytest.mark.parametrize("name", KINDS)
def test_logits_and_ids_are_those_of_the_folder(exported, real_texts, name):
    folder, file = exported[name]
    own = TextTokenizer(folder)
    texts = [*probe_texts(own), *real_texts]

    assert read_gguf_model(str(file)).keys["tokenizer.ggml.pre"] == name
    assert llama_cpp_ids(file, texts) == [own.encode(text) for text in texts]
    ids = own.encode(real_texts[0])[:60]
    assert distance(gguf_logits(file, ids), hf_logits(hf_model(folder), ids)) < BOUNDS["f32"]


def test_the_name_is_that_of_the_cut_and_not_of_the_vocabulary(tmp_path):
    """llama.cpp's hash takes SmolLM2's vocabulary for smollm with GPT-2's cut too, which leaves numbers whole."""
    make_tokenizer(tmp_path, "smollm", QWEN_LIKE["specials"], "<|im_end|>")
    spec = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))

    assert pre_tokenizer_name(json.dumps(spec)) == "smollm"
    assert pre_tokenizer_name(json.dumps(spec | {"pre_tokenizer": published("gpt-2")})) == "gpt-2"
    assert pre_tokenizer_name(json.dumps(spec | {"pre_tokenizer": {"type": "Whitespace"}})) == ""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_spellings_are_known(tmp_path, name):
    make_tokenizer(tmp_path, name, QWEN_LIKE["specials"], "<|im_end|>")
    text = (tmp_path / "tokenizer.json").read_text(encoding="utf-8")

    assert pre_tokenizer_name(text) == name
    merged = json.loads(text)
    merged["model"]["ignore_merges"] = not PUBLISHED[name][1]
    assert pre_tokenizer_name(json.dumps(merged)) != name


@pytest.mark.parametrize(("name", "bos"), [("qwen2", ""), ("llama-bpe", "<|begin_of_text|>")])
def test_bos_stands_in_the_file_as_the_base_has_it(exported, name, bos):
    from vicuna.gguf.library import opened_vocabulary

    folder, file = exported[name]
    beginning = named_ids(folder, bos) if bos else []
    keys = read_gguf_model(str(file)).keys

    assert keys["tokenizer.ggml.add_bos_token"] == bool(beginning)
    assert ("tokenizer.ggml.bos_token_id" in keys) == bool(beginning)
    with opened_vocabulary(file) as llama:
        assert llama.tokenize(b"ab", add_bos=True)[: len(beginning)] == beginning
    assert TextTokenizer(folder).beginning == beginning


def test_a_llama_without_bos_says_so_although_llama_cpp_would_add_one(tmp_path):
    """Where the key is missing, llama.cpp begins texts of a vocabulary cut like Llama 3's with BOS."""
    from vicuna.gguf.library import opened_vocabulary

    folder = make_byte_level(tmp_path / "hf", "llama-bpe", QWEN_LIKE)
    file = export(folder, tmp_path / "x.gguf", "f32")

    assert read_gguf_model(str(file)).keys["tokenizer.ggml.add_bos_token"] is False
    with opened_vocabulary(file) as llama:
        assert llama.tokenize(b"ab", add_bos=True) == TextTokenizer(folder).encode("ab")


def test_every_end_reaches_the_file(exported):
    folder, file = exported["llama-bpe"]
    written, ends = read_gguf_model(str(file)), named_ids(folder, *LLAMA_3_LIKE["ends"])

    assert sorted(written.keys[f"tokenizer.ggml.{one}_token_id"] for one in ("eos", "eot", "eom")) == ends
    assert written.generation["eos_token_id"] == ends
    assert llama_cpp_ends(file, range(written.shapes["token_embd.weight"][0])) == ends


def test_ends_that_have_no_place_are_named(tmp_path, capfd):
    own = ["<a>", "<b>", "<c>", "<d>"]
    like = {"specials": ["<|endoftext|>", *own], "eos": "<a>", "ends": own}
    folder = make_byte_level(tmp_path / "hf", "qwen2", like)

    file = export(folder, tmp_path / "x.gguf", "f32")

    other, *ends, last = named_ids(folder, *like["specials"])
    assert llama_cpp_ends(file, [other, *ends, last]) == [other, *ends]
    said = capfd.readouterr().err
    assert f"WARNING llama.cpp's own programs and Ollama do not end an answer at {last} (<d>), for which a GGUF" in said
    assert f"also end an answer at {other} (<|endoftext|>)." in said
    assert 'PARAMETER stop "<d>"' in (tmp_path / "Modelfile").read_text(encoding="utf-8")
    assert read_gguf_model(str(file)).generation["eos_token_id"] == [*ends, last]


def test_the_end_that_is_trained_is_one_of_the_three(tmp_path):
    own = ["<a>", "<b>", "<c>", "<d>"]
    template = CHATML.replace("<|im_end|>", "<d>")
    like = {"specials": ["<|im_start|>", *own], "eos": "<a>", "ends": own, "template": template}
    folder = make_byte_level(tmp_path / "hf", "qwen2", like)

    file = export(folder, tmp_path / "x.gguf", "f32", prompt_type="base")

    (last,) = named_ids(folder, "<d>")
    assert read_gguf_model(str(file)).keys["tokenizer.ggml.eot_token_id"] == last
    assert llama_cpp_ends(file, [last]) == [last]


def test_one_line_chatml_is_rendered_by_llama_cpp_python_as_it_stands(exported):
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    from vicuna.gguf.library import load_llama_cpp

    folder, file = exported["qwen2"]
    text = read_gguf_model(str(file)).keys["tokenizer.chat_template"]
    asked = [{"role": "user", "content": "你好 "}]

    assert text == kept_as_written(CHATML) != CHATML
    llama = load_llama_cpp().Llama(str(file), n_ctx=64, verbose=False)
    assert llama.chat_format != "chatml"  # whose prompts begin with an empty system message
    llama.close()
    made = Jinja2ChatFormatter(text, eos_token="<|im_end|>", bos_token="")(messages=asked)
    assert made.prompt == TextTokenizer(folder).chat.render(asked, True)


def test_added_tokens_that_take_blanks_away_are_named(tmp_path, capfd):
    folder = make_byte_level(tmp_path / "hf", "qwen2", QWEN_LIKE)
    spec = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    spec["added_tokens"][1]["lstrip"] = True
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")

    export(folder, tmp_path / "x.gguf", "f32")

    said = capfd.readouterr().err
    assert "WARNING '<|im_start|>' of tokenizer.json take blanks beside them away" in said


def test_what_is_composed_before_splitting_is_said(tmp_path, capfd):
    folder = make_byte_level(tmp_path / "hf", "qwen2", QWEN_LIKE, more={"normalizer": {"type": "NFC"}})

    file = export(folder, tmp_path / "x.gguf", "f32")

    assert "tokenizer.json composes characters that are written in parts (NFC)" in capfd.readouterr().err
    own = TextTokenizer(folder)
    assert llama_cpp_ids(file, ["é", "e\u0301"]) != [own.encode("é"), own.encode("e\u0301")]


def test_a_cut_that_llama_cpp_has_no_name_for_is_left_to_the_converter(tmp_path):
    folder = make_byte_level(tmp_path / "hf", "qwen2", QWEN_LIKE)
    spec = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    spec["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{L}+|\d"
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")

    base = check_base(str(folder))
    assert not is_written_here(base)
    with pytest.raises(UserError, match=r"has no tokenizer\.model, .*, and a tokenizer\.json that is not byte-level"):
        check_llama(base)
