"""tools/quant_llama.py: what it writes, that it opens everywhere, and that every flag changes something."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from certificate_bounds import confident_llama
from safetensors.torch import load_file

from tests.own_code import ON_THE_HUB, plant
from tests.quantise.quantising import KINDS, TEXT, loss_of, quant_llama, quantise, rows_of
from tests.starting import Started
from vicuna.errors import UserError
from vicuna.files.tensors import dtype_name
from vicuna.model.base import check_base, load_base
from vicuna.model.gptq import GPTQ
from vicuna.quantise.run import Job, Progress, follow
from vicuna.quantise.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def config_of(folder) -> dict:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def test_code_that_a_base_names_is_not_run(base, tmp_path):
    """GPTQModel 7.6.0 runs it where it is shown the folder, told not to trust it or not."""
    mark, out = tmp_path / "mark", tmp_path / "out"
    planted = plant(Path(shutil.copytree(base, tmp_path / "planted")), mark)
    quantise(planted, out, wbits=4, nsamples=1, seqlen=32)
    configs = [file.read_text(encoding="utf-8") for file in out.glob("*.json")]

    assert not mark.exists()
    assert len(configs) > 4
    assert [text for text in configs if "own." in text or ON_THE_HUB in text] == []
    assert [file.name for file in out.rglob("*.py")] == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_is_complete_and_opens(base, quantised, kind):
    folder = quantised(kind)
    config, plain = config_of(folder), config_of(base)
    settings = config.pop("quantization_config")
    record = json.loads((folder / "quantisation.json").read_text(encoding="utf-8"))
    library = json.loads((folder / "quantize_config.json").read_text(encoding="utf-8"))
    model = load_base(check_base(str(folder)), 8)

    assert sorted(file.name for file in folder.iterdir()) == [
        "README.md", "config.json", "generation_config.json", "model.safetensors", "quantisation.json",
        "quantize_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    ]  # fmt: skip
    assert (settings["quant_method"], settings["bits"], settings["group_size"]) == (*kind_of(kind), 32)
    assert {**plain, "dtype": config["dtype"], "torch_dtype": config["dtype"]} == config
    assert (folder / "generation_config.json").read_bytes() == (base / "generation_config.json").read_bytes()
    assert (folder / "tokenizer.model").read_bytes() == (base / "tokenizer.model").read_bytes()
    assert not re.search(r"/tmp|offload_to_disk_path", json.dumps([settings, library]))
    assert record["calibration"]["rows"] == KINDS[kind].get("nsamples", 8)
    assert len(record["errors"]) == 14
    assert (
        type(model.model.layers[1].mlp.down_proj).__name__
        == {"gptq": "TorchLinear", "awq": "AwqTorchLinear"}[settings["quant_method"]]
    )


def kind_of(kind: str) -> tuple[str, int]:
    method, bits = kind.split()
    return method, int(bits)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("act_order", True),
        ("true_sequential", True),
        ("sym", False),
        ("percdamp", 0.3),
        ("groupsize", -1),
        ("nsamples", 4),
        ("seqlen", 64),
        ("seed", 7),
    ],
)
def test_a_flag_changes_the_weights(base, quantised, tmp_path, flag, value):
    other = quantise(base, tmp_path / "other", **{**KINDS["gptq 4"], flag: value})
    before, after = (load_file(one / "model.safetensors") for one in (quantised("gptq 4"), other))
    names = [name for name in before if name.endswith("qweight")]

    assert any(not torch.equal(before[name], after[name]) for name in names)
    assert check_base(str(other)).config.quantization_config["bits"] == 4
    assert loss_of(other, rows_of(base, "地球绕着太阳转。")) < 20


def test_the_same_command_gives_the_same_weights(base, quantised, tmp_path):
    again = quantise(base, tmp_path / "again", **KINDS["gptq 4"])
    before, after = (load_file(one / "model.safetensors") for one in (quantised("gptq 4"), again))

    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_is_not_quantised_keeps_the_dtype_of_the_base(base, tmp_path):
    half = shutil.copytree(base, tmp_path / "half")
    model = load_base(check_base(str(base)), 32).to(torch.bfloat16)
    model.save_pretrained(half)
    quantised = quantise(half, tmp_path / "out", wbits=8, nsamples=2)
    tensors = load_file(quantised / "model.safetensors")

    assert dtype_name(tensors["lm_head.weight"].dtype) == config_of(quantised)["dtype"] == "bfloat16"
    assert {one.dtype for name, one in tensors.items() if name.endswith("scales")} == {torch.float16}


def test_the_plan_counts_the_bytes_that_are_written(base, quantised, capsys):
    for kind, flags in KINDS.items():
        flags = {name: value for name, value in flags.items() if name != "nsamples"}
        quant_llama.main(
            quant_llama.QuantiseFlags(model_path=str(base), dataset="c4", groupsize=32, plan_only=True, **flags)
        )
        said = re.search(r"weights ([0-9.]+) GB", capsys.readouterr().out)[1]
        tensors = load_file(quantised(kind) / "model.safetensors").values()
        assert float(said) * 1e9 == pytest.approx(sum(one.nbytes for one in tensors), rel=0.01)


def test_programs_open_it_without_a_further_flag(quantised, program):
    for kind in ("gptq 4", "awq 4"):
        done = program("generate.py", "--model_path", quantised(kind), "--text", "你好", "--max_new_tokens", 5)
        assert (done.returncode, len(done.stdout.splitlines())) == (0, 1), done.stderr
        assert "Traceback" not in done.stderr


@contextmanager
def running(tiny_base, tmp_path) -> Iterator[tuple[Started, Path]]:
    """The tool in the middle of its work, and the folder that it is going to write."""
    deep = confident_llama(tmp_path / "deep", tiny_base, num_hidden_layers=16, intermediate_size=512)
    out = tmp_path / "made/out"
    argv = [deep, TEXT, "--wbits", 4, "--groupsize", 32, "--nsamples", 32, "--seqlen", 256, "--save", out]
    command = [sys.executable, str(ROOT / "tools/quant_llama.py"), *map(str, argv)]
    with Started(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        while process.poll() is None and not any(out.parent.glob(".*/*/.quantising-*/logs/*.log")):
            time.sleep(0.02)
        yield process, out


def test_an_interrupted_run_says_how_far_it_was_leaves_nothing_and_starts_over(tiny_base, tmp_path):
    with running(tiny_base, tmp_path) as (process, _):
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[1]

    assert process.returncode == 130, said
    assert re.search(r"stopped with \d+ of 16 blocks quantised; nothing was written, and the same command starts", said)
    assert "Traceback" not in said
    assert "leaked" not in said
    assert list(tmp_path.glob("made/**/*")) == []


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="no /proc to find processes in")
def test_gptqmodel_ends_with_the_program_that_began_it(tiny_base, tmp_path):
    with running(tiny_base, tmp_path) as (process, out):
        began = processes_in(out.parent)
        process.kill()
        process.communicate(timeout=120)
        deadline = time.monotonic() + 120
        while processes_in(out.parent) and time.monotonic() < deadline:
            time.sleep(0.05)

    assert len(began) == 1
    assert processes_in(out.parent) == []


def processes_in(folder: Path) -> list[str]:
    """Those that work in a folder."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            found += [link.parent.name] * os.readlink(link).startswith(str(folder))
    return found


def test_a_process_that_ends_in_the_middle_is_told_of(tmp_path):
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe(duplex=False)
    process = context.Process(target=os._exit, args=(3,))
    process.start()
    its.close()
    job = Job("base", Settings(GPTQ, 4, 32), [], torch.float32, 1, tmp_path, "out")
    job.said.write_text("no room for it\n", encoding="utf-8")

    with pytest.raises(UserError, match=r"ended in the middle, with status 3\. It said last: no room for it"):
        follow(mine, process, Progress(None), job)
