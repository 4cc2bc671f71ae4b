"""Whatever can fail in a tool that writes a model has failed before the weights, which take hours, are written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.export.merging import run
from tests.export.tool_models import equal, tensors_of, tool
from vicuna.errors import UserError
from vicuna.export import merged, meta_layout
from vicuna.files import tensors
from vicuna.prompt.templates import prompt_ids
from vicuna.prompt.tokenizer import TextTokenizer

convert, reshard = tool("convert_llama"), tool("reshard")
WEIGHTS = (".safetensors", ".pth", ".index.json")
# Of a folder that the original had its users download.
DECAPODA = {
    "bos_token": "",
    "eos_token": "",
    "model_max_length": 1e30,
    "tokenizer_class": "LLaMATokenizer",
    "unk_token": "",
}


@pytest.fixture
def before(monkeypatch) -> dict[str, list[str]]:
    """What lies in the folder when the weights begin, by the function that writes them."""
    seen: dict[str, list[str]] = {}
    for module, name in ((tensors, "write_model"), (merged, "write_model"), (meta_layout, "write_meta")):
        write = getattr(module, name)

        def noting(folder: Path, *args, write=write, name=name, **more) -> None:
            seen[name] = sorted(file.name for file in folder.iterdir())
            write(folder, *args, **more)

        monkeypatch.setattr(module, name, noting)
    return seen


def beside_weights(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if not file.name.endswith(WEIGHTS))


def steps(base: Path, adapter: Path, folder: Path) -> dict[str, Callable[[], object]]:
    """What is made, in an order in which each has what it needs."""
    flags = {"input_dir": str(folder / "meta"), "output_dir": str(folder / "back")}
    to_meta = convert.ConvertFlags(input_dir=str(base), output_dir=str(folder / "meta"), to_meta=True)
    return {
        "merged": lambda: run(base, adapter, folder / "merged", prompt_type="chat"),
        "merged-pth": lambda: run(base, adapter, folder / "merged-pth", prompt_type="chat", format="pth"),
        "meta": lambda: convert.main(to_meta),
        "back": lambda: convert.main(convert.ConvertFlags(**flags)),
        "cut": lambda: reshard.main(["2", str(folder / "meta"), str(folder / "cut")]),
    }


def test_every_other_file_is_there_before_the_weights(base, adapter, tmp_path, before):
    for name, make in steps(base, adapter, tmp_path).items():
        before.clear()
        make()
        (found,) = before.values()
        assert found == beside_weights(tmp_path / name), name


@pytest.mark.parametrize("with_json", [False, True])
@pytest.mark.parametrize("layout", ["hf", "pth"])
def test_a_base_that_names_none_of_its_tokens_is_merged_and_the_result_names_them(
    base, adapter, tmp_path, layout, with_json
):
    old = Path(shutil.copytree(base, tmp_path / "old"))
    (old / "tokenizer_config.json").write_text(json.dumps(DECAPODA), encoding="utf-8")
    if not with_json:
        (old / "tokenizer.json").unlink(missing_ok=True)
    merged = run(old, adapter, tmp_path / "merged", prompt_type="chat", format=layout)
    plain = run(base, adapter, tmp_path / "plain", prompt_type="chat", format=layout)

    if layout == "hf":
        assert equal(tensors_of(merged), tensors_of(plain))
    messages = [{"role": "user", "content": "你好，请介绍自己"}]
    read = AutoTokenizer.from_pretrained(merged)
    ids = read.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == prompt_ids(TextTokenizer(base), "chat", messages)
    assert (read.bos_token, read.eos_token) == ("<s>", "</s>")


def test_a_template_that_is_not_known_is_refused_before_the_weights(base, adapter, tmp_path, before):
    trained = Path(shutil.copytree(adapter, tmp_path / "trained"))
    (trained / "run_args.json").write_text(json.dumps({"prompt_type": "of 2030"}), encoding="utf-8")
    with pytest.raises(UserError, match=r"prompt type 'of 2030', which this version does not know"):
        run(base, trained, tmp_path / "merged")
    assert before == {}
    assert not (tmp_path / "merged").exists()
