"""Services that a run is reported to: refused before time is spent, and where they write."""

from pathlib import Path

import pytest

from vicuna.errors import UserError
from vicuna.train import reporting
from vicuna.train.flags import RunFlags
from vicuna.train.reporting import check_reporter, where_reported


def test_wandb_is_another_spelling():
    assert RunFlags(wandb=True).report_to == "wandb"
    assert RunFlags(wandb=True, report_to="wandb").report_to == "wandb"
    with pytest.raises(UserError, match="--wandb means --report_to wandb, but --report_to trackio was given"):
        RunFlags(wandb=True, report_to="trackio")


def test_a_package_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setitem(reporting.PACKAGES, "tensorboard", ("no_tensorboard", "no_tensorboard_x"))
    with pytest.raises(UserError, match="--report_to tensorboard needs a package that is not installed: pip install"):
        check_reporter(RunFlags(report_to="tensorboard"))
    check_reporter(RunFlags())


@pytest.mark.parametrize(("body", "works"), [("raise RuntimeError('No active Run.')", False), ("return None", True)])
def test_a_swanlab_that_does_not_start_is_refused(tmp_path, program, tiny_base, records, body, works):
    """What 0.10.3 does: it raises where transformers asks for the run there is."""
    (tmp_path / "swanlab").mkdir()
    (tmp_path / "swanlab/__init__.py").write_text(f"def get_run():\n    {body}\n", encoding="utf-8")
    (tmp_path / "swanlab-0.10.3.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: swanlab\nVersion: 0.10.3\n"
    (tmp_path / "swanlab-0.10.3.dist-info/METADATA").write_text(metadata, encoding="utf-8")
    argv = ["--model_path", tiny_base, "--data_path", records, "--output_path", tmp_path / "out", "--plan_only"]
    root = Path(reporting.__file__).parent.parent.parent
    env = {"PYTHONPATH": f"{tmp_path}:{root}"}
    done = program("finetune.py", *argv, "--report_to", "swanlab", env=env, warm=True)
    if works:
        assert "reports   swanlab (online), its files in swanlog" in done.stdout
    else:
        assert done.returncode == 1
        assert "the installed swanlab 0.10.3 does not work with transformers" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("service", "environ", "place"),
    [
        ("trackio", {"HF_HOME": "/hf"}, "trackio, in /hf/trackio (not in --output_path): trackio show"),
        ("trackio", {"TRACKIO_DIR": "/t"}, "trackio, in /t (not in --output_path): trackio show"),
        ("trackio", {}, "trackio, in ~/.cache/huggingface/trackio (not in --output_path): trackio show"),
        ("tensorboard", {}, "tensorboard --logdir out/runs"),
        ("wandb", {"WANDB_MODE": "offline"}, "wandb (offline), its files in out/wandb"),
    ],
)
def test_the_plan_says_where_figures_go(service, environ, place):
    assert where_reported(RunFlags(report_to=service, output_path="out"), environ) == place
