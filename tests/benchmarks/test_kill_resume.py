"""benchmarks/kill_resume.py: three kills at 32 bits, one of them inside a save, and that a difference is seen."""

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import killable_run  # benchmarks/killable_run.py
import pytest
from kill_resume import KillFlags, Setting, file_order, main
from tqdm import tqdm

from tests.starting import Started
from vicuna.errors import UserError
from vicuna.train.checkpoint import seal_checkpoint


def test_a_run_killed_three_times_ends_as_the_one_that_was_not(tiny_base, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(killable_run, "subprocess", SimpleNamespace(Popen=Started, DEVNULL=subprocess.DEVNULL))
    out = tmp_path / "kills.json"
    main(KillFlags(points=3, bits=[32], processes=[1], model_path=str(tiny_base), out=str(out)))
    (row,) = json.loads(out.read_text(encoding="utf-8"))["settings"]
    assert (row["points"], row["inside saves"], row["missed"]) == (3, 1, 0)
    assert row["torn"] + row["whole"] + sum(kill["state"] == "none" for kill in row["kills"]) == 3
    assert "| 32 bits, 1 process | 3 | 1 |" in capsys.readouterr().out


@pytest.fixture
def setting(tmp_path) -> Setting:
    """A straight run and a killed one, which are the same."""
    for name in ("straight", "killed"):
        for folder in (tmp_path / name, tmp_path / name / "best", tmp_path / name / "checkpoint-2"):
            folder.mkdir()
            (folder / "adapter_model.safetensors").write_bytes(b"x")
        (tmp_path / name / "steps.jsonl").write_text('{"step": 1, "loss": 2.0}\n', encoding="utf-8")
        seal_checkpoint(tmp_path / name / "checkpoint-2")
    return Setting(32, 1, tmp_path, tmp_path, tmp_path, tqdm(disable=True))


@pytest.mark.parametrize(
    ("damage", "adapters", "records", "odd"),
    [
        (lambda folder: None, 0, 0, []),
        (lambda folder: (folder / "best/adapter_model.safetensors").write_bytes(b"y"), 1, 0, []),
        (lambda folder: (folder / "steps.jsonl").write_text('{"step": 1, "loss": 2.1}\n', encoding="utf-8"), 0, 1, []),
        (lambda folder: (folder / "steps.jsonl").write_text("", encoding="utf-8"), 0, 1, []),
        (lambda folder: (folder / ".saving-abc").mkdir(), 0, 0, ["killed/.saving-abc"]),
        (lambda folder: (folder / "checkpoint-2/adapter_model.safetensors").write_bytes(b""), 0, 0, ["checkpoint-2"]),
    ],
)
def test_what_differs_is_counted(setting, damage, adapters, records, odd):
    output = setting.folder / "killed"
    damage(output)
    setting.compare(output)
    assert (setting.counts["adapters"], setting.counts["records"]) == (adapters, records)
    assert len(setting.odd) == len(odd)
    assert all(name in found for name, found in zip(odd, setting.odd, strict=True))


def test_a_difference_ends_the_program_with_an_error(monkeypatch, tmp_path, capsys):
    row = dict.fromkeys(("points", "inside saves", "torn", "whole", "missed", "runs"), 1)
    row |= {"setting": "32 bits, 1 process", "not recognised": 0, "differing adapters": 1, "differing records": 0}
    row |= {"files left, missing or torn": 0, "odd": [], "kills": []}
    monkeypatch.setattr(Setting, "measure", lambda self, *more: row)
    with pytest.raises(UserError, match="did not end as the straight ones"):
        main(KillFlags(points=1, bits=[32], processes=[1], model_path=str(tmp_path)))
    assert "| 32 bits, 1 process | 1 |" in capsys.readouterr().out


def test_a_save_has_its_names_in_order_with_those_before_a_move(tmp_path: Path):
    for second, name in enumerate(("optimizer.pt", "run_args.json", "manifest.json")):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (second, second))
    names = ["optimizer.pt", ".run_args.json", "run_args.json", ".manifest.json", "manifest.json"]
    assert file_order(tmp_path) == names
