"""benchmarks/gpu.sh as a smoke run on the CPU: every case, the table, the file, the budget, the refusals."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    """benchmarks/gpu.py as a module."""
    spec = importlib.util.spec_from_file_location("benchmark_of_gpus", ROOT / "benchmarks/gpu.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory, interpreter) -> tuple[str, dict]:
    """What the whole program printed and wrote, run as a user runs it."""
    out = tmp_path_factory.mktemp("out")
    env = {**os.environ, "PYTHON": interpreter, "CUDA_VISIBLE_DEVICES": ""}
    command = ["bash", str(ROOT / "benchmarks/gpu.sh"), "--out", str(out), "--smoke", "--commit", "abc1234"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, json.loads((out / "gpu.json").read_text(encoding="utf-8"))


def test_a_smoke_run_measures_every_case_and_prints_a_table(gpu, smoke_run):
    printed, found = smoke_run
    cases = gpu.cases(smoke=True)

    assert [row["case"] for row in found["cases"]] == [case.name for case in cases]
    assert {row["bits"] for row in found["cases"]} == {4, 8, 32}
    assert {row["compute_dtype"] for row in found["cases"]} == {"bfloat16", "float16", "float32"}
    assert not any("not_measured" in row for row in found["cases"])
    for row in found["cases"]:
        assert row["losses"][-1] < row["losses"][0]
        assert row["tokens_per_s"] > 0
        assert row["peak_bytes"] is None  # the CPU has no such counter, and none is made up
    laid = [row for row in found["cases"] if row["common"]]
    assert [row["tokens_in_rows"] for row in laid] == [8 * 16] * 2
    assert all(8 * 6 < row["tokens_computed"] <= 10 + 8 * 6 for row in laid)  # further ones can be alike by chance
    packed = [row for row in found["cases"] if row["packed"]]
    assert [row["tokens_computed"] == row["tokens_in_rows"] < 8 * 16 for row in packed] == [True, True]
    assert found["commit"] == "abc1234"
    assert "smoke run: no figure here means anything" in printed
    rows = [line for line in printed.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(cases)
    assert len({line.count("|") for line in rows}) == 1
    assert "unknown GPU" in rows[1]


def test_full_logits_give_the_losses_of_supervised_rows(smoke_run):
    rows = [row for row in smoke_run[1]["cases"] if row["case"].startswith("7B, 4 bit, 2 x 16, q and v")]
    losses = {row["full_logits"]: row["losses"] for row in rows if not row["dtype"] and not row["narrow"]}

    assert losses[True] == pytest.approx(losses[False], rel=1e-3)


def test_cases_that_the_time_left_can_not_hold_are_skipped_with_the_reason(gpu, tmp_path, capsys):
    gpu.main(gpu.BenchFlags(out=str(tmp_path), smoke=True, minutes=0.01, only="7B, 8 bit"))

    rows = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["cases"]
    assert len(rows) == 10
    assert all(row["not_measured"].startswith("skipped: takes about ") for row in rows)
    assert capsys.readouterr().out.count("not measured: skipped: takes about") == 10


@pytest.fixture
def smoke(gpu):
    """A bench of tiny shapes on the CPU, and its first case."""
    flags = gpu.BenchFlags(smoke=True, minutes=1e6)
    return gpu.Bench(flags, torch.device("cpu"), None), gpu.cases(smoke=True)[0]


@pytest.mark.parametrize(
    ("error", "reason", "failed"),
    [(torch.OutOfMemoryError("CUDA out of memory"), "out of memory", False),
     (RuntimeError("no kernel image\nmore"), "failed: no kernel image", True)],
)  # fmt: skip
def test_an_error_in_a_case_is_reported_and_the_next_case_runs(gpu, smoke, monkeypatch, error, reason, failed):
    one, case = smoke
    take_step = gpu.measure

    def broken(*args):
        raise error

    monkeypatch.setattr(gpu, "measure", broken)
    row = gpu.run_case(one, case)
    monkeypatch.setattr(gpu, "measure", take_step)

    assert row["not_measured"] == reason
    assert bool(row.get("failed")) == failed
    assert gpu.run_case(one, case)["tokens_per_s"] > 0


def test_float16_is_not_measured_twice_on_a_gpu_that_has_nothing_else(gpu, smoke, monkeypatch):
    one, _ = smoke
    monkeypatch.setattr(gpu, "own_dtype", lambda bench, bits: torch.float16)
    case = next(case for case in gpu.cases(smoke=True) if case.dtype == "float16")

    assert "this GPU computes in float16 anyway" in gpu.run_case(one, case)["not_measured"]


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA GeForce RTX 2080 Ti", 53.8), ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756),
     ("NVIDIA H200", 989), ("Tesla T4", 65), ("NVIDIA A100-SXM4-40GB", 312), ("NVIDIA L40S", 362), ("NVIDIA L4", 121),
     ("NVIDIA L40", None), ("NVIDIA RTX A4000", None), ("NVIDIA GeForce RTX 3090 Ti", None),
     ("NVIDIA GeForce RTX 4090 D", None), ("NVIDIA GeForce RTX 4090", 165), ("NVIDIA H200 NVL", 835),
     ("NVIDIA GeForce GTX 1080", None)],
)  # fmt: skip
def test_the_peak_is_that_of_the_data_sheet_or_unknown(gpu, name, peak):
    assert gpu.peak_tflops(name) == peak


@pytest.mark.parametrize(("shape", "parameters"), [("7B", 6_607_077_376), ("13B", 12_851_609_600)])
def test_the_shapes_have_the_parameters_of_llama(gpu, shape, parameters):
    """Of the linear layers, the head included; with the embedding they are 6.74 and 13.02 billion."""
    assert gpu.sizes(dict(zip(gpu.SIZES, gpu.LARGE[shape], strict=True)), 8, torch.float16)[0] == parameters


def test_without_a_gpu_it_ends_in_a_sentence(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    with pytest.raises(gpu.UserError, match="no GPU that this PyTorch can use; --smoke runs tiny shapes on the CPU"):
        gpu.main(gpu.BenchFlags(out=str(tmp_path)))


def test_a_case_that_does_not_exist_is_refused(gpu, tmp_path):
    with pytest.raises(gpu.UserError, match="--only 70B: no case has this in its name; there are 7B, 8 bit, "):
        gpu.main(gpu.BenchFlags(out=str(tmp_path), smoke=True, only="70B"))


def test_a_missing_library_is_named(gpu, tmp_path, monkeypatch):
    here = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else here(name))

    with pytest.raises(gpu.UserError, match="peft not installed: this needs torch, transformers, peft, accelerate"):
        gpu.main(gpu.BenchFlags(out=str(tmp_path)))


def test_it_needs_no_library_but_the_named_ones(tmp_path):
    """What it may not import is hidden from it."""
    hidden = ("datasets", "sentencepiece", "gradio", "matplotlib", "wandb", "deepspeed")
    code = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({hidden}));"
        f"sys.argv = ['gpu.py', '--smoke', '--out', {str(tmp_path)!r}, '--only', '7B, 8 bit, 2 x 16, q and v, narrow'];"
        f"sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'benchmarks')!r}];"
        f"runpy.run_path({str(ROOT / 'benchmarks/gpu.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)

    assert done.returncode == 0, done.stderr[-2000:]
    assert len(json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["cases"]) == 1
