"""Blocks compiled by --torch_compile: the losses of blocks that are not, few graphs for many micro batches, resuming,
and what is refused before time is spent."""

import os
import signal
import sysconfig
from collections.abc import Iterator
from importlib import util

import pytest
import torch
from transformers import AttentionInterface, AutoConfig

from tests.train.runs import STEPS, losses
from tests.train.test_shared_rows import ONE_BY_ONE, PADDED, TOGETHER, assert_alike, computed, small, tree
from vicuna.errors import Stopped, UserError
from vicuna.train.batches import collate
from vicuna.train.compiled import (
    check_kernel_folder,
    check_torch_compile,
    compile_blocks,
    compiled_blocks,
    what_is_missing,
)
from vicuna.train.flags import RunFlags
from vicuna.train.row_attention import NAME, row_attention
from vicuna.train.signals import GracefulStopCallback

EVERY_WAY = {"one by one": ONE_BY_ONE, "together": TOGETHER, "padded": PADDED}


@pytest.fixture
def graphs() -> Iterator[list[torch.fx.GraphModule]]:
    """What is compiled from here on, each computed as it stands: nothing is made for a processor."""
    found: list[torch.fx.GraphModule] = []

    def note(graph: torch.fx.GraphModule, inputs: list) -> object:
        found.append(graph)
        return graph.forward

    torch.compiler.reset()
    torch.compiler.set_default_backend(note)
    yield found
    torch.compiler.set_default_backend("inductor")
    torch.compiler.reset()
    AttentionInterface.register(NAME, row_attention)


def test_losses_and_gradients_are_those_of_blocks_as_they_stand_and_few_graphs_serve_all(graphs):
    plain, compiled = small(), small()
    names = list(compiled.state_dict())
    compile_blocks(compiled, rows_laid_out=True)
    assert list(compiled.state_dict()) == names
    counts = []
    for seed, checkpointing in enumerate([False, False, True, True]):
        for model in (plain, compiled) if checkpointing else ():
            model.base_model.model.activation_checkpointing_enable({"use_reentrant": False})
        for operations in EVERY_WAY.values():
            batch = collate(tree(seed % 2, seed), operations)
            assert_alike(computed(compiled, [batch]), computed(plain, [batch]), 1e-6)
        counts.append(len(graphs))
    assert 5 <= counts[0] <= 12  # two norms, before and behind attention, the MLP; for one row, and for several
    assert counts[1:] == [counts[0], counts[2], counts[2]]
    assert counts[2] <= 15  # under checkpointing the first block's input has a gradient


def test_a_compiler_that_fails_ends_in_a_sentence(graphs, tmp_path):
    def fail(graph: torch.fx.GraphModule, inputs: list) -> object:
        raise RuntimeError("killed")

    torch.compiler.set_default_backend(fail)
    model, batch, stopper = small(), collate(tree(1, 1), ONE_BY_ONE), GracefulStopCallback(tmp_path, 0, None)

    def train() -> None:
        with compiled_blocks(model, rows_laid_out=True, stopper=stopper):
            computed(model, [batch])

    with pytest.raises(UserError, match=r"could not compile .*killed.* drop --torch_compile\. There is no checkpoint"):
        train()
    stopper.signal = signal.SIGINT
    with pytest.raises(Stopped, match="stopped by SIGINT while kernels were made") as stopped:
        train()
    assert stopped.value.status == 130


def test_what_is_missing_is_told_with_how_to_install_it(monkeypatch, tmp_path):
    assert "needs a C++ compiler, and there is no g++" in what_is_missing("cpu", {"PATH": "", "CXX": "g++"})
    assert "there is no clang-99: install" in what_is_missing("cpu", {**os.environ, "CXX": "clang-99"})
    assert "this run is on mps" in what_is_missing("mps", os.environ)
    compiler = tmp_path / "cc"
    compiler.touch(0o755)
    found = {"PATH": str(tmp_path), "CC": "cc", "CXX": "cc"}
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    assert "needs Triton, which is not installed" in what_is_missing("cuda", found)
    monkeypatch.setattr(util, "find_spec", lambda name: name)
    assert "needs a C compiler, and there is no gcc" in what_is_missing("cuda", {"PATH": ""})
    monkeypatch.setattr(sysconfig, "get_path", lambda *name: str(tmp_path / "include"))
    for device in ("cpu", "cuda"):
        assert "include/Python.h: install the package python3-dev" in what_is_missing(device, found)
    (tmp_path / "include").mkdir()
    (tmp_path / "include/Python.h").touch()
    assert [what_is_missing(device, found) for device in ("cpu", "cuda")] == ["", ""]


def test_a_folder_of_kernels_that_others_can_write_into_is_refused(tmp_path):
    check_kernel_folder(tmp_path / "none")
    tmp_path.chmod(0o755)
    check_kernel_folder(tmp_path)
    tmp_path.chmod(0o777)
    with pytest.raises(UserError, match=r"others can write into it: name a folder of your own in .*TORCHINDUCTOR"):
        check_kernel_folder(tmp_path)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "gpt_neox"}, "works for bases of type llama, mistral, qwen2, qwen3, this one is gpt_neox"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "does not work on a base of GPTQ or AWQ"),
    ],
)
def test_a_base_that_was_not_tried_is_refused(config, said):
    config = AutoConfig.for_model(config.pop("model_type", "llama"), **config)
    check_torch_compile(RunFlags(), config, torch.device("cpu"))
    with pytest.raises(UserError, match=said):
        check_torch_compile(RunFlags(torch_compile=True), config, torch.device("cpu"))


def test_a_run_is_refused_before_the_base_is_loaded(program, tiny_base, records, tmp_path):
    argv = ["finetune.py", "--model_path", tiny_base, "--data_path", records, "--output_path", tmp_path / "out"]
    done = program(*argv, "--torch_compile", env={"CXX": "no-compiler"}, warm=True)
    assert done.returncode == 1
    assert "--torch_compile needs a C++ compiler, and there is no no-compiler" in done.stderr
    assert "or drop --torch_compile" in done.stderr
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="--torch_compile does not work with --fsdp; leave one of them out"):
        RunFlags(torch_compile=True, fsdp=True)


@pytest.mark.skipif(bool(what_is_missing("cpu", os.environ)), reason="nothing that torch.compile calls is here")
def test_a_compiled_run_has_the_losses_of_a_plain_one_and_goes_on_to_the_same_bits(
    program, tiny_base, records, tmp_path
):
    short = ["--total_batch", 11, "--micro_batch", 11, "--max_steps", 4, "--test_size", 0, "--eval_steps", 0]
    argv = ["finetune.py", "--model_path", tiny_base, "--data_path", records, *STEPS, *short, "--save_steps", 2]
    # Kernels of no particular processor take a third of the time to make.
    env = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "kernels"), "ATEN_CPU_CAPABILITY": "default"}
    whole, plain, resumed = (tmp_path / name for name in ("whole", "plain", "resumed"))
    go_on = ["--resume_from_checkpoint", whole / "checkpoint-2"]
    for output, more in ((plain, []), (whole, ["--torch_compile"]), (resumed, ["--torch_compile", *go_on])):
        done = program(*argv, "--output_path", output, *more, env=env, warm=True)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "Exception ignored" not in done.stderr
    assert (tmp_path / "kernels").is_dir()
    assert losses(whole) == pytest.approx(losses(plain), rel=1e-4)
    for name in ("adapter_model.safetensors", "steps.jsonl"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()
    done = program(*argv, "--output_path", plain, *go_on, "--plan_only")
    assert "was begun with --torch_compile True, this run has False: a resumed run must keep it" in done.stderr
