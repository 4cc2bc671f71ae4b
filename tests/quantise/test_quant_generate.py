"""tools/quant_generate.py: the original's command line, on a folder and on a bare checkpoint of GPTQ-for-LLaMa."""

import json
import shutil

import pytest
import torch
from certificate_bounds import tool
from safetensors.torch import load_file

from tests.model.tiny_adapters import logits
from tests.quantise.quantising import quantise
from vicuna.errors import UserError
from vicuna.model.base import check_base, load_base
from vicuna.quantise.bare import write_folder

quant_generate = tool("quant_generate")


def bare_checkpoint(folder, file, **more: torch.Tensor):
    """A .pt as GPTQ-for-LLaMa saves it: a state dict in float16, with what it computed from the config."""
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: one.half() if one.is_floating_point() else one for name, one in tensors.items()}
    torch.save({**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4), **more}, file)
    return file


@pytest.fixture
def without_weights(base, tmp_path):
    """Config and tokenizer of the base alone."""
    return shutil.copytree(base, tmp_path / "config", ignore=shutil.ignore_patterns("*.safetensors"))


@pytest.mark.parametrize("kind", ["gptq 8", "gptq 4", "gptq 2"])
def test_a_bare_checkpoint_is_what_it_was_made_of(quantised, without_weights, tmp_path, kind):
    file = bare_checkpoint(quantised(kind), tmp_path / "llama-128g.pt")
    (tmp_path / "out").mkdir()
    settings = write_folder(file, without_weights, tmp_path / "out")
    found, expected = (load_base(check_base(str(one)), 32) for one in (tmp_path / "out", quantised(kind)))

    assert (settings["bits"], settings["group_size"], settings["sym"]) == (int(kind[-1]), 32, kind != "gptq 2")
    assert torch.allclose(logits(found), logits(expected), atol=0.02)


def test_one_with_act_order_is_told_by_its_index(base, without_weights, tmp_path):
    made = quantise(base, tmp_path / "made", wbits=4, groupsize=-1, act_order=True, nsamples=2)
    grouped = quantise(base, tmp_path / "grouped", wbits=4, groupsize=64, act_order=True, nsamples=2)
    for folder, group, order in ((made, -1, False), (grouped, 64, True)):
        out = tmp_path / f"out{group}"
        out.mkdir()
        settings = write_folder(bare_checkpoint(folder, tmp_path / "llama.pt"), without_weights, out)
        assert (settings["group_size"], settings["desc_act"]) == (group, order)


def test_it_answers_by_the_original_command_line(quantised, without_weights, tmp_path, program):
    file = bare_checkpoint(quantised("gptq 4"), tmp_path / "llama7b-4bit-32g.pt")
    flags = ["--model_path", without_weights, "--quant_path", file, "--wbits", 4, "--groupsize", 32]
    done = program("tools/quant_generate.py", *flags, "--text", "地球", "--max_length", 12, "--save", tmp_path / "kept")

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert json.loads((tmp_path / "kept/config.json").read_text())["quantization_config"]["bits"] == 4


def test_what_does_not_fit_is_refused_with_what_would(base, quantised, without_weights, tiny_base, tmp_path):
    def ask(**flags: object) -> None:
        quant_generate.main(quant_generate.QuantGenerateFlags(**flags))

    file = bare_checkpoint(quantised("gptq 8"), tmp_path / "llama7b-8bit-32g.pt")
    paths = {"model_path": str(without_weights), "quant_path": str(file)}
    with pytest.raises(UserError, match=r"--wbits 4: the weights of .*8bit-32g.pt have 8; leave the flag out"):
        ask(wbits=4, **paths)
    with pytest.raises(UserError, match=r"--groupsize -1: the weights of .* have 32"):
        ask(groupsize=-1, **paths)
    with pytest.raises(UserError, match=r"is a bare checkpoint, without config and tokenizer: name the folder"):
        ask(quant_path=str(file))
    with pytest.raises(UserError, match=r"has .* as .*, and .* follows from .*config.json: it is of another model"):
        ask(model_path=str(tiny_base), quant_path=str(file))
    config = json.loads((without_weights / "config.json").read_text(encoding="utf-8"))
    deep = shutil.copytree(without_weights, tmp_path / "deep")
    (deep / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10_000}), encoding="utf-8")
    with pytest.raises(UserError, match=r"says num_hidden_layers 10000, and the weights of .*8bit-32g.pt have 2: conf"):
        ask(model_path=str(deep), quant_path=str(file))
    with pytest.raises(UserError, match=r"is not quantised by GPTQ or AWQ: ask it with generate.py"):
        ask(quant_path=str(base))
    plain = tmp_path / "plain.pt"
    torch.save(load_file(base / "model.safetensors"), plain)
    with pytest.raises(UserError, match=r"has no packed weights; expected a checkpoint of GPTQ-for-LLaMa"):
        ask(model_path=str(without_weights), quant_path=str(plain))
    tensors = load_file(quantised("gptq 4") / "model.safetensors")
    old = tmp_path / "old.pt"
    torch.save({name: one for name, one in tensors.items() if not name.endswith("g_idx")}, old)
    with pytest.raises(UserError, match=r"no g_idx: it is of an earlier layout .*python tools/quant_llama.py MODEL"):
        ask(model_path=str(without_weights), quant_path=str(old))


def test_a_pickle_of_program_objects_is_never_opened(without_weights, tmp_path):
    file = tmp_path / "evil.pt"
    torch.save({"model": print}, file)
    with pytest.raises(UserError, match="a pickle of program objects, which is never opened"):
        write_folder(file, without_weights, tmp_path)
