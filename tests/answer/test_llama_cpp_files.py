"""GGUF files as they are opened: what is said of them, and which are refused, and how."""

import sys
from pathlib import Path

import pytest

from tests.answer.gguf_assistants import GREEDY, answered, opened
from vicuna.answer.flags import ServeFlags
from vicuna.errors import UserError

pytest.importorskip("gguf", reason="gguf is not installed: bash scripts/install_cpp.sh")
pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: bash scripts/install_cpp.sh")

from vicuna.answer.llama_cpp_engine import describe_model, resolve_gpu_layers
from vicuna.gguf.library import load_llama_cpp
from vicuna.gguf_file.reader import read_gguf_model
from vicuna.pages.strings import STRINGS


def test_the_status_says_what_is_loaded(poems):
    assert poems.status(STRINGS["en"]["status"]) == (
        "base poem-zh-750k-f32.gguf · adapter poems-f32.gguf (r 8) · f32 · llama.cpp, CPU, 1 threads · prompt text"
    )
    assert [choice.prompt_type for choice in poems.choices.values()] == ["text"] * 3
    assert poems.warnings == []


def test_layers_for_a_gpu_are_refused_by_a_llama_cpp_that_has_none(exported, tiny_base):
    if load_llama_cpp().llama_supports_gpu_offload():
        pytest.skip("this llama.cpp has a GPU")
    for layers in (None, 0):
        status = opened(exported("tiny"), gpu_layers=layers).status(STRINGS["en"]["status"])
        assert "llama.cpp, CPU, 1 threads" in status
    with pytest.raises(
        UserError, match=r"--gpu_layers 2 needs .* CMAKE_ARGS=-DGGML_CUDA=on bash scripts/install_cpp\.sh"
    ):
        opened(exported("tiny"), gpu_layers=2)
    with pytest.raises(UserError, match="--gpu_layers -1"):
        ServeFlags(gpu_layers=-1)
    with pytest.raises(UserError, match="--gpu_layers 2 is for a GGUF file"):
        opened(tiny_base, gpu_layers=2)


def test_all_layers_go_to_the_gpu_unless_fewer_are_asked_for(exported):
    file = read_gguf_model(str(exported("tiny")))

    assert [resolve_gpu_layers(file, asked, has_gpu=True) for asked in (None, 0, 2, 99)] == [3, 0, 2, 3]
    assert describe_model(file, 2) == "f32 · llama.cpp, 2 of 3 layers on GPU, 1 threads"


def test_another_prompt_type_than_the_trained_one_warns(exported):
    assistant = opened(exported("tiny"), prompt_type="chat")

    assert assistant.first.prompt_type == "chat"
    assert assistant.warnings == [
        "the model in tiny-f32.gguf was trained with --prompt_type text; chat gives worse answers."
    ]


def test_an_adapter_given_twice_is_refused(poems):
    one = poems.engine.adapters["poems-f32.gguf"].path
    with pytest.raises(UserError, match=r"names the adapter .* twice"):
        opened(poems.engine.file.path, one, one)


def rewritten(file: Path, out: Path, tensors: bool = True, **keys: object) -> Path:
    """A copy of a GGUF with other string values; "" leaves a key out."""
    import gguf

    reader = gguf.GGUFReader(file)
    writer = gguf.GGUFWriter(out, str(keys.get("general.architecture", "llama")))
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(name, field.contents())
        elif keys.get(name) != "":
            writer.add_key_value(name, keys.get(name, field.contents()), field.types[0])
    for tensor in reader.tensors if tensors else ():
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def test_a_file_from_elsewhere_has_no_keys_of_ours_and_works(exported, tmp_path):
    ours = exported("tiny")
    keys = ("vicuna.prompt_type", "vicuna.generation_config", "vicuna.unknown_text", "tokenizer.chat_template")
    theirs = rewritten(ours, tmp_path / "x.gguf", **dict.fromkeys(keys, ""))

    assistant = opened(theirs, prompt_type="text")

    ids = assistant.prompt_ids([{"role": "user", "content": "春天"}])
    assert answered(assistant, ids, GREEDY) == answered(opened(ours), ids, GREEDY)
    assert opened(theirs).first.prompt_type == "instruct"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"general.architecture": "mine"}, r"is for the architecture mine, which llama\.cpp does not know"),
        ({"general.architecture": "gptneox"}, r"is no model: it has no gptneox\.context_length"),
        ({"tokenizer.ggml.model": "bert"}, "has bert vocabulary; expected a SentencePiece one"),
        ({"tokenizer.ggml.model": "gpt2"}, "has no merges"),
        ({"vicuna.generation_config": "[1]"}, "is no JSON of settings"),
        ({"vicuna.generation_config": "{"}, r"vicuna\.generation_config in .* is not JSON"),
    ],
)
def test_a_gguf_of_another_kind_is_refused(exported, tmp_path, keys, said):
    with pytest.raises(UserError, match=said):
        opened(rewritten(exported("tiny"), tmp_path / "x.gguf", **keys))


@pytest.mark.parametrize("magic", [b"lmgg", b"fmgg", b"tjgg"])
def test_a_file_from_before_gguf_is_refused_with_the_command_that_makes_it_again(tmp_path, magic):
    file = tmp_path / "ggml-model-q4_0.bin"
    file.write_bytes(magic + bytes(1000))

    with pytest.raises(
        UserError, match=r"before GGUF.*tools/export_gguf\.py --model_path FOLDER --out_path ggml-model-q4_0\.gguf"
    ):
        opened(file)


def test_what_is_no_gguf_is_refused(exported, tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(UserError, match=r"x\.gguf is a Git LFS pointer"):
        opened(tmp_path / "x.gguf")
    (tmp_path / "x.gguf").write_bytes(b"\x01\x02\x03" * 40)
    with pytest.raises(UserError, match="is a file, but not a GGUF one"):
        opened(tmp_path / "x.gguf")
    with pytest.raises(UserError, match=r"--model_path \S+y\.gguf does not exist"):
        opened(tmp_path / "y.gguf")
    whole = exported("tiny").read_bytes()
    for size in (5, 100, len(whole) // 2, len(whole) - 5000):
        (tmp_path / "x.gguf").write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"(is broken or|is) incomplete.* Copy or export it again"):
            opened(tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("without", "tensors", "said"),
    [
        (["llama.context_length"], True, r"is no model: it has no llama\.context_length"),
        (["llama.block_count"], True, r"is no model: it has no llama\.block_count"),
        ([], False, r"is no model: it has no weights"),
    ],
)
def test_a_gguf_that_is_no_model_is_refused(exported, tmp_path, without, tensors, said):
    file = rewritten(exported("tiny"), tmp_path / "x.gguf", tensors, **dict.fromkeys(without, ""))
    with pytest.raises(UserError, match=said):
        opened(file)


def test_a_folder_with_the_name_of_a_gguf_is_refused(tmp_path):
    (tmp_path / "x.gguf").mkdir()
    with pytest.raises(UserError, match=r"x\.gguf is a folder; expected a GGUF file"):
        opened(tmp_path / "x.gguf")


def test_an_adapter_that_does_not_belong_is_refused(exported, poems, shared, tmp_path, tiny_base):
    adapter = poems.engine.adapters["poems-f32.gguf"].path
    with pytest.raises(UserError, match=r"was made for another base: its blk\.0\.attn_q\.weight\.lora_a is \(8, 96\)"):
        opened(exported("tiny"), adapter)
    with pytest.raises(UserError, match="is an adapter: pass it as --lora_path"):
        opened(adapter)
    with pytest.raises(UserError, match="is a whole model, not a LoRA adapter"):
        opened(exported("tiny"), exported("tiny"))
    with pytest.raises(UserError, match=r"no adapter 'x' is loaded; there is poems-f32\.gguf, poems-f16\.gguf"):
        next(poems.stream([1], GREEDY, adapter="x"))


def test_without_a_package_the_command_that_installs_it_is_named(exported, monkeypatch):
    for name in ("llama_cpp", "gguf"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)  # as if it were not installed
            load_llama_cpp.cache_clear()
            with pytest.raises(
                UserError, match=rf"not installed \(.*{name}.*\); install them: bash scripts/install_cpp.sh"
            ):
                opened(exported("tiny"))
    load_llama_cpp.cache_clear()
