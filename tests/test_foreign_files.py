"""Files that are not what their names say are told by what they are, before anything is computed."""

import base64
import gzip
import json
import shutil
import struct
from pathlib import Path

import pytest
from safetensors.torch import load_file

from vicuna.errors import UserError
from vicuna.files.json_files import read_json
from vicuna.files.tensors import read_tensor_file
from vicuna.gguf_file.reader import read_gguf
from vicuna.model.base import check_base
from vicuna.prompt.tokenizer import TextTokenizer

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 13476925163\n"
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n"
TIKTOKEN = b"".join(base64.b64encode(bytes([i])) + f" {i}\n".encode() for i in range(256))
# What stands in place of weights, or of a SentencePiece model, and what is said of it.
ODD = {
    "a pointer of Git LFS": (LFS, r"is a Git LFS pointer, 1\d\d bytes that stand for a file of 13,476,925,163 bytes"),
    "a pointer of git-annex": (b"/annex/objects/SHA256E-s13--ab.bin\n", r"is a git-annex pointer, \d+ bytes"),
    "a page": (PAGE, r"is a web page, such as an error or a login page"),
    "an error of a store": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', r"is a web page"),
    "an error as JSON": (b'{"error": "Repository not found"}', r"is a JSON text, which begins with"),
    "an error as text": (b"Invalid username or password.", r"is a text, which begins with 'Invalid username or passw"),
    "nothing": (b"", r"is empty\. Download or copy it again\."),
    "room that was never filled": (bytes(5000), r"begins with nothing but zeros, as a download does that was broken"),
    "an archive": (gzip.compress(b"weights" * 9), r"is a gzip archive: unpack it\."),
    "a GGUF": (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), r"is a GGUF file: give it the ending \.gguf"),
    "Llama 3's vocabulary": (TIKTOKEN, r"is a tiktoken vocabulary, as Llama 3 has in its folder original"),
}  # fmt: skip


@pytest.fixture
def base(tiny_base, tmp_path) -> Path:
    """A copy that may be spoilt."""
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("kind", ODD)
def test_what_stands_in_place_of_weights_is_named(base, name, kind):
    content, said = ODD[kind]
    (base / "model.safetensors").unlink()
    (base / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"base/{name.replace('.', '[.]')} {said}"):
        check_base(str(base))


@pytest.mark.parametrize("kind", ODD)
def test_what_stands_in_place_of_an_adapter_is_named(tmp_path, kind):
    content, said = ODD[kind]
    (tmp_path / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=rf"adapter_model[.]safetensors {said}"):
        read_tensor_file(tmp_path / "adapter_model.safetensors")


@pytest.mark.parametrize("kind", [kind for kind in ODD if kind != "a GGUF"])
def test_what_stands_in_place_of_a_tokenizer_is_named(base, kind):
    content, said = ODD[kind]
    (base / "tokenizer.json").unlink()
    (base / "tokenizer.model").write_bytes(content)
    with pytest.raises(UserError, match=rf"tokenizer[.]model {said}"):
        check_base(str(base))


@pytest.mark.parametrize("kind", ["a pointer of Git LFS", "a page", "nothing"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors.index.json"])
def test_what_stands_in_place_of_a_json_file_is_named(base, name, kind):
    content, said = ODD[kind]
    (base / "tokenizer.model").unlink()
    if "index" in name:
        (base / "model.safetensors").unlink()
    (base / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name.replace('.', '[.]')} {said}"):
        check_base(str(base))
    if kind == "a page":
        with pytest.raises(UserError, match=said):
            read_json(base / name)


@pytest.mark.parametrize("kind", ["a pointer of Git LFS", "a page", "nothing"])
def test_what_stands_in_place_of_a_gguf_is_named(tmp_path, kind):
    content, said = ODD[kind]
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(UserError, match=rf"--model_path .*x\.gguf {said}"):
        read_gguf(str(tmp_path / "x.gguf"), "--model_path")


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        (7, r"has 7 bytes, not even those of its header: the download or the copy was broken off"),
        (1000, r"has 1,000 bytes, not even those of its header"),
        (-4, r"has [\d,]+ of its [\d,]+ bytes: the download or the copy was broken off"),
    ],
)
def test_half_a_file_says_how_much_of_it_there_is(base, keep, said):
    file = base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=rf"base/model[.]safetensors {said}"):
        check_base(str(base))


def test_half_a_file_of_pytorch_is_named(base):
    import torch

    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    check_base(str(base))
    whole = (base / "pytorch_model.bin").read_bytes()
    (base / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"pytorch_model\.bin has [\d,]+ bytes and no end: the download or the copy"):
        check_base(str(base))
    (base / "pytorch_model.bin").write_bytes(whole)
    (base / "pytorch_model.bin").rename(base / "model.safetensors")
    with pytest.raises(UserError, match=r"is a file of PyTorch: its name is pytorch_model\.bin\."):
        check_base(str(base))


def test_an_index_without_its_files_and_downloads_that_go_on_are_told_apart(base):
    (base / "model.safetensors").rename(base / "model-00001-of-00002.safetensors")
    shards = {f"t{i}": f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}), encoding="utf-8")
    with pytest.raises(UserError, match=r"lacks 1 of the 2 files that model\.safetensors\.index\.json names"):
        check_base(str(base))
    (base / "model-00002-of-00002.safetensors.part").touch()
    with pytest.raises(UserError, match=r"holds model-00002-of-00002\.safetensors\.part, which a download has not fin"):
        check_base(str(base))
    (base / "model-00002-of-00002.safetensors.part").unlink()
    (base / "model-00002-of-00002.safetensors").symlink_to("../.git/annex/objects/not-here")
    with pytest.raises(UserError, match=r"of-00002\.safetensors is a link to \.\./\.git/annex/objects/not-here, which"):
        check_base(str(base))


def test_a_folder_whose_download_has_only_begun_says_so(base):
    (base / "model.safetensors").unlink()
    waiting = base / ".cache/huggingface/download/x.incomplete"
    waiting.parent.mkdir(parents=True)
    waiting.touch()
    with pytest.raises(UserError, match=r"holds x\.incomplete, which a download has not finished"):
        check_base(str(base))


def test_a_tiktoken_vocabulary_beside_a_tokenizer_json_is_passed_over(base, tiny_base):
    (base / "tokenizer.model").write_bytes(TIKTOKEN)
    found = TextTokenizer(base)

    assert found.source.name == "tokenizer.json"
    assert found.encode("春风吹来，河边的柳树绿了。") == TextTokenizer(tiny_base).encode("春风吹来，河边的柳树绿了。")
