"""Models of other architectures: llama.cpp's converters are called, run no code of theirs, and leave no key out."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.gguf.cut_models import CHATML, QWEN_LIKE, make_tokenizer
from tests.gguf.gguf_models import (
    BOUNDS,
    change_config,
    distance,
    export,
    gguf_logits,
    hf_logits,
    hf_model,
    make_adapter,
)
from vicuna.errors import UserError
from vicuna.gguf.ends import llama_cpp_ends
from vicuna.gguf.foreign_ids import llama_cpp_ids
from vicuna.gguf.llama_cpp_source import source_folder
from vicuna.gguf_file.byte_level import byte_level_json
from vicuna.gguf_file.header import read_header
from vicuna.gguf_file.reader import read_gguf, read_gguf_model
from vicuna.prompt.probes import probe_texts
from vicuna.prompt.replaced_templates import kept_as_written
from vicuna.prompt.tokenizer import TextTokenizer

IDS = [9707, 11, 104, 220, 19, 17, 151644, 872, 198, 56568, 52801, 151645]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module", autouse=True)
def converters() -> Path:
    try:
        return source_folder()
    except UserError as error:
        pytest.skip(str(error))


def make_qwen(folder: Path, kind: str = "qwen2", **more: object) -> Path:
    """A random Qwen in a folder that has its tokenizer already."""
    import transformers

    config = getattr(transformers, f"{kind.title()}Config")
    shape = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2, "bos_token_id": None,
        "tie_word_embeddings": True, **({"head_dim": 8} if kind == "qwen3" else {}),
    }  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config(**shape | more))
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "norm.weight")):
            torch.nn.init.normal_(parameter, 1.0, 0.2)
    model.generation_config.eos_token_id = more["eos_token_id"]
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def qwen(converters, tmp_path_factory) -> Path:
    """A random Qwen 2 with its family's real vocabulary."""
    folder = tmp_path_factory.mktemp("qwen") / "tiny-qwen"
    folder.mkdir()
    vocabulary = converters / "models/ggml-vocab-qwen2.gguf"
    keys = read_header(vocabulary).keys
    (folder / "tokenizer.json").write_text(byte_level_json(keys, vocabulary), encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "chat_template": CHATML,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    make_qwen(folder, vocab_size=151936, eos_token_id=[151645, 151643])
    return folder


@pytest.fixture(scope="module")
def converted(qwen) -> Path:
    return export(qwen, qwen.parent / "x.gguf", "f32", prompt_type="base")


def test_the_logits_and_ids_are_those_of_the_folder(qwen, converted):
    own = TextTokenizer(qwen)
    texts = probe_texts(own)

    assert distance(gguf_logits(converted, IDS), hf_logits(hf_model(qwen), IDS)) < BOUNDS["f32"]
    assert llama_cpp_ids(converted, texts) == [own.encode(text) for text in texts]


def test_keys_are_those_of_our_own_writer(converted):
    file = read_gguf_model(str(converted))
    names = ("general.architecture", "general.name", "tokenizer.ggml.pre", "tokenizer.ggml.add_bos_token",
             "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "vicuna.prompt_type")  # fmt: skip

    assert [file.keys[name] for name in names] == ["qwen2", "tiny-qwen", "qwen2", False, 151645, 151643, "base"]
    assert file.keys["tokenizer.chat_template"] == kept_as_written(CHATML)
    assert file.generation["eos_token_id"] == [151645, 151643]
    assert llama_cpp_ends(converted, [151643, 151644, 151645]) == [151643, 151645]


def test_a_models_code_is_not_run(tmp_path, converters):
    """The converter of GLM 4 runs it, given the folder itself: it opens tokenizers with trust_remote_code."""
    import transformers

    ids = make_tokenizer(tmp_path / "hf", "qwen2", **QWEN_LIKE)
    config = transformers.Glm4Config(
        vocab_size=430, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, eos_token_id=ids["<|im_end|>"], bos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "hf")
    mark, settings = tmp_path / "it ran", json.loads((tmp_path / "hf/tokenizer_config.json").read_text("utf-8"))
    settings |= {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}
    (tmp_path / "hf/tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    code = f"open({str(mark)!r}, 'w').close()\nfrom transformers import PreTrainedTokenizerFast as OwnTokenizer\n"
    (tmp_path / "hf/own.py").write_text(code, encoding="utf-8")

    with pytest.raises(UserError, match=r"llama\.cpp's converter"):
        export(tmp_path / "hf", tmp_path / "x.gguf", "f32")

    assert not mark.exists()
    command = [sys.executable, converters / "convert_hf_to_gguf.py", tmp_path / "hf", "--vocab-only"]
    subprocess.run([*command, "--outfile", tmp_path / "x.gguf"], capture_output=True, cwd=tmp_path)
    assert mark.exists()


def test_an_adapter_has_the_logits_of_base_and_adapter_whatever_it_is_multiplied_by(qwen, converted, tmp_path):
    from peft import PeftModel

    more = {"rank_pattern": {"k_proj": 2}, "alpha_pattern": {"down_proj": 32}, "use_rslora": True}
    folder = make_adapter(qwen, tmp_path / "adapter", r=4, lora_alpha=8, target_modules=ALL, **more)

    adapter = export(qwen, tmp_path / "a.gguf", "f32", lora_path=str(folder), prompt_type="base")

    expected = hf_logits(PeftModel.from_pretrained(hf_model(qwen), folder).eval(), IDS)
    assert distance(gguf_logits(converted, IDS, lora_path=str(adapter)), expected) < BOUNDS["f32"]
    assert distance(gguf_logits(converted, IDS), expected) > 0.05
    keys = read_gguf(str(adapter), "--lora_path").keys
    assert (keys["vicuna.prompt_type"], keys["general.name"], keys["adapter.lora.alpha"]) == ("base", "adapter", 8)
    assert not (tmp_path / "Modelfile").exists()


def test_rows_that_the_type_can_not_divide_are_refused_before_anything_is_converted(qwen, tmp_path):
    with pytest.raises(UserError, match=r"\d tensors have rows that q4_k_m can not divide .*Nothing was written"):
        export(qwen, tmp_path / "x.gguf", "q4_k_m", strict=True)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small(tmp_path) -> Path:
    """A Qwen 3 with a vocabulary that was made anew."""
    ids = make_tokenizer(tmp_path / "hf", "qwen2", **QWEN_LIKE)
    return make_qwen(tmp_path / "hf", "qwen3", vocab_size=430, eos_token_id=ids["<|im_end|>"])


@pytest.mark.parametrize("plan_only", [True, False])
def test_a_vocabulary_that_the_converter_does_not_know_is_refused(small, tmp_path, plan_only):
    with pytest.raises(UserError, match=r"converter does not know how the tokenizer in \S+hf cuts texts: it knows"):
        export(small, tmp_path / "out/x.gguf", "f16", plan_only=plan_only)
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_an_architecture_that_the_converter_does_not_know_is_refused(small, tmp_path):
    change_config(small, architectures=["PoemForCausalLM"])

    with pytest.raises(UserError, match=r"config\.json names the architecture PoemForCausalLM, which llama\.cpp's"):
        export(small, tmp_path / "x.gguf", "f16")


def test_weights_that_the_type_can_not_hold_are_refused(qwen, tmp_path):
    folder = tmp_path / "hf"
    shutil.copytree(qwen, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 3] = 1e5
    save_file(weights, folder / "model.safetensors", {"format": "pt"})

    with pytest.raises(UserError, match=r"blk\.1\.ffn_up\.weight .* has values that are not finite, or too large for"):
        export(folder, tmp_path / "x.gguf", "f16")
    assert [file.name for file in tmp_path.iterdir()] == ["hf"]
