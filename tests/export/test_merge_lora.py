"""tools/merge_lora.py: what it writes beside the weights, in either layout, and in how much memory."""

import json
import shutil
import sys

import pytest
import torch
from transformers import AutoTokenizer

from tests.export.merging import ALL_MODULES, as_defined, make_adapter, recorded, run
from tests.export.tool_models import equal, random_llama, tensors_of, tool
from vicuna.errors import UserError
from vicuna.model.base import fingerprint
from vicuna.prompt.chat_template import chat_template
from vicuna.prompt.templates import prompt_ids
from vicuna.prompt.tokenizer import TextTokenizer

convert = tool("convert_llama")


@pytest.mark.parametrize("count", [1, 4])
def test_merged_shards_of_metas_layout_are_the_same_model(half, adapter, tmp_path, count):
    shards = run(half, adapter, tmp_path / "pth", format="pth", num_shards=count)
    flags = convert.ConvertFlags(input_dir=str(shards), output_dir=str(tmp_path / "back"), config_from=str(half))
    convert.main(flags)

    assert equal(tensors_of(tmp_path / "back"), as_defined(half, None, adapter))


def test_the_merged_folder_carries_the_template_the_adapter_was_trained_with(base, adapter, tmp_path):
    trained = recorded(adapter, tmp_path / "trained", prompt_type="chat", exact={"base_fingerprint": fingerprint(base)})
    output = run(base, trained, tmp_path / "merged")

    facts = json.loads((output / "run_args.json").read_text(encoding="utf-8"))
    assert facts == {"prompt_type": "chat", "merged": {"base": "float32", "adapters": ["trained"]}}
    assert (output / "chat_template.jinja").read_text(encoding="utf-8") == chat_template("chat")
    assert (output / "generation_config.json").is_file()
    messages = [{"role": "user", "content": "你好，请介绍自己"}]
    ids = AutoTokenizer.from_pretrained(output).apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    assert ids == prompt_ids(TextTokenizer(base), "chat", messages)


def test_without_a_recorded_template_none_is_made_up(base, adapter, tmp_path, capsys):
    output = run(base, adapter, tmp_path / "merged")

    assert not (output / "chat_template.jinja").exists()
    assert "prompt_type" not in json.loads((output / "run_args.json").read_text(encoding="utf-8"))
    assert "nothing says which template the last adapter was trained with" in capsys.readouterr().err


def test_a_base_with_a_template_of_its_own_does_not_keep_it_beside_the_adapters(base, adapter, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    file = tmp_path / "base/tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**settings, "chat_template": "{{ 'own' }}"}), encoding="utf-8")
    output = run(tmp_path / "base", adapter, tmp_path / "merged", prompt_type="chat")

    assert AutoTokenizer.from_pretrained(output).chat_template == chat_template("chat")


def test_every_tensor_of_the_adapters_is_used_and_counted(base, adapter, tmp_path, capsys):
    second = make_adapter(base, tmp_path / "second", modules_to_save=["lm_head"])
    run(base, [adapter, second], tmp_path / "merged")

    assert "merged all 28 tensors of seven, all 9 tensors of second into float32" in capsys.readouterr().out


def test_a_base_in_metas_layout_is_refused_with_the_command_that_converts_it(adapter, shared, tmp_path):
    meta = shared / "models/stories260K-meta"
    said = rf"is in Meta's layout: convert it first, python tools/convert_llama.py --input_dir {meta} --output_dir"
    with pytest.raises(UserError, match=said):
        run(meta, adapter, tmp_path / "out")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_shards": 2}, r"--num_shards 2 is for --format pth"),
        ({"format": "pth", "num_shards": 3}, r"--num_shards 3 would split a head.*work: 1, 2, 4\."),
    ],
)
def test_shards_that_can_not_be_are_refused(base, adapter, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        run(base, adapter, tmp_path / "out", **flags)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="anonymous memory is read from /proc")
def test_memory_does_not_grow_with_the_model(program, tiny_base, tmp_path):
    sizes = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "num_key_value_heads": 8}
    large = random_llama(tmp_path / "base", tiny_base, torch.float16, **sizes)
    adapter = make_adapter(large, tmp_path / "adapter", target_modules=ALL_MODULES)
    size = (large / "model.safetensors").stat().st_size

    done = program("tests/export/merge_memory_of.py", large, adapter, tmp_path)

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["loaded"] > 0.9 * size
    assert max(found["hf"], found["pth"]) < size / 3, f"{found} for {size} bytes of weights"


def test_the_program_merges_by_its_flags(program, base, adapter, tmp_path):
    flags = ["--model_path", base, "--lora_path", adapter, "--out_path", tmp_path / "out", "--prompt_type", "instruct"]
    done = program("tools/merge_lora.py", *flags)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("merged all 28 tensors of seven into float32")
