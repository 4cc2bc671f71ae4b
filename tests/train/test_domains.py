"""The launchers of domains for real: a checkpoint with its schedule, and an adapter with general records mixed in."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.train.runs import ROOT

SMALL = ["--bits", "32", "--cutoff_len", "160", "--total_batch", "16", "--micro_batch", "16", "--eval_steps", "0"]


def launch(name: str, output: Path, base: Path, *argv: str, **variables: str) -> str:
    env = {**os.environ, **variables, "PYTHON": sys.executable, "NUM_PROCESSES": "1", "CUDA_VISIBLE_DEVICES": ""}
    env |= {"MODEL_PATH": str(base), "OUTPUT_PATH": str(output), "TEST_SIZE": "0"}
    command = ["bash", f"scripts/{name}", *SMALL, *argv]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_medical_run_goes_on_with_the_schedule_of_a_general_checkpoint(straight, tiny_base, tmp_path):
    said = launch("finetune_medical.sh", tmp_path / "out", tiny_base, "--num_epoch", "1",
                  lora_checkpoint=str(straight / "checkpoint-3"))  # fmt: skip

    steps = [json.loads(line) for line in (tmp_path / "out/steps.jsonl").read_text(encoding="utf-8").splitlines()]
    assert "start     continues the schedule of" in said
    assert [one["step"] for one in steps] == list(range(4, 9))  # to the end of the general run's schedule
    rates = [one["learning_rate"] for one in steps]
    assert rates == sorted(rates, reverse=True)


def test_a_legal_run_has_the_share_of_general_records_that_was_asked_for(straight, tiny_base, records, tmp_path):
    said = launch("finetune_legal.sh", tmp_path / "out", tiny_base, "--num_epoch", "1", lora_checkpoint=str(straight),
                  GENERAL_PATH=f"{records}:0.2", PROBE_PATH="sample/general/probe.jsonl")  # fmt: skip

    facts = json.loads((tmp_path / "out/run_args.json").read_text(encoding="utf-8"))
    assert f"sample/legal/train.jsonl  36 rows (utf-8) + {records} x 0.2  41 rows (utf-8): 44 train, 0 eval" in said
    assert "start     starts from the adapter in" in said
    assert "trainable" in said
    assert "0 trainable" not in said.split("adapter   ")[1].split("\n")[0]
    assert facts["flags"]["num_epoch"] == 1
    found = json.loads((tmp_path / "out/forgetting/results.json").read_text(encoding="utf-8"))["models"]
    assert [[point["scale"] for point in one["points"]] for one in found] == [[0.0, 1.0], [0.0, 1.0]]
    assert str(straight) in found[0]["model"]
    assert str(tmp_path / "out") in found[1]["model"]


def test_a_probe_needs_to_know_what_it_looks_at(straight, tmp_path):
    env = {**os.environ, "lora_checkpoint": str(straight), "PROBE_PATH": "sample/general/probe.jsonl"}
    command = ["bash", "scripts/finetune_legal.sh", "--output_path", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "finetune_legal.sh: PROBE_PATH needs to know the model and the adapter" in done.stderr
