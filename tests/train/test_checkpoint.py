"""Checkpoints: a kill at any point, also inside a save, costs nothing but the steps since the last whole one."""

import json
from pathlib import Path

import pytest

from vicuna.errors import UserError
from vicuna.train.checkpoint import (
    MANIFEST,
    list_checkpoints,
    remove_partial_saves,
    rotate_checkpoints,
    seal_checkpoint,
    torn_reason,
)
from vicuna.train.flags import RunFlags
from vicuna.train.resume import starting_point


def folder_of(output: Path, step: int) -> Path:
    folder = output / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name in ("adapter_model.safetensors", "trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (folder / name).write_text(f"{name} of step {step}", encoding="utf-8")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 20}), encoding="utf-8")
    (output / "run_args.json").write_text("{}", encoding="utf-8")
    return folder


def resume(output: Path, name: object):
    run = RunFlags(output_path=str(output), resume_from_checkpoint=str(name))
    return starting_point(run, {})


def test_a_sealed_checkpoint_is_whole(tmp_path):
    folder = folder_of(tmp_path, 5)
    seal_checkpoint(folder)
    assert torn_reason(folder) == ""
    assert resume(tmp_path, folder).resume == folder
    assert not (folder / f".{MANIFEST}").exists()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: (folder / MANIFEST).unlink(), "manifest.json is missing"),
        (lambda folder: (folder / MANIFEST).write_text('{"files"', encoding="utf-8"), "manifest.json can not be read"),
        (lambda folder: (folder / "optimizer.pt").unlink(), "optimizer.pt is missing"),
        (lambda folder: (folder / "optimizer.pt").write_bytes(b"optimizer.pt of step 6"), "optimizer.pt is not what"),
        (lambda folder: (folder / "rng_state.pth").write_bytes(b""), "rng_state.pth is not what"),
    ],
)
def test_a_torn_checkpoint_is_refused_by_name_and_passed_over_by_auto(tmp_path, damage, problem):
    before, last = folder_of(tmp_path, 5), folder_of(tmp_path, 10)
    seal_checkpoint(before)
    seal_checkpoint(last)
    damage(last)
    with pytest.raises(UserError, match=f"is torn: {problem}"):
        resume(tmp_path, last)
    start = resume(tmp_path, "auto")
    assert start.resume == before
    assert f"checkpoint-10 is passed over, {problem}" in start.text


def test_a_torn_checkpoint_with_only_an_adapter_is_no_warm_start(tmp_path):
    folder = tmp_path / "checkpoint-3"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"x")
    (tmp_path / "run_args.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"is torn: manifest.json is missing: the save did not end"):
        resume(tmp_path, folder)


def deepspeeds(output: Path, step: int) -> Path:
    folder = output / f"checkpoint-{step}"
    (folder / f"global_step{step}").mkdir(parents=True)
    (folder / f"global_step{step}/zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"part")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 20}), encoding="utf-8")
    return folder


def test_a_sealed_checkpoint_of_deepspeed_is_resumed_and_each_part_is_looked_at(tmp_path):
    folder = deepspeeds(tmp_path, 5)
    seal_checkpoint(folder)
    assert resume(tmp_path, folder).resume == folder
    (folder / "global_step5/zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"past")
    with pytest.raises(UserError, match=r"is torn: global_step5/zero_pp_rank_0_mp_rank_00_optim_states.pt is not what"):
        resume(tmp_path, folder)


def test_a_deepspeed_checkpoint_of_another_program_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"is a DeepSpeed checkpoint without a manifest.json, which can not be resumed"):
        resume(tmp_path, deepspeeds(tmp_path, 5))


def test_auto_without_a_checkpoint_is_a_new_run_that_says_so(tmp_path):
    start = resume(tmp_path, "auto")
    assert start.resume is None
    assert "has no whole checkpoint to resume" in start.text


def test_steps_are_ordered_as_numbers(tmp_path):
    for step in (9, 100, 20):
        folder_of(tmp_path, step)
    (tmp_path / "checkpoint-final").mkdir()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-100", "checkpoint-20", "checkpoint-9"]


def test_old_checkpoints_go_and_those_of_another_run_stay(tmp_path):
    for step in (1, 2, 3, 4, 50):
        folder = folder_of(tmp_path, step)
        owner = "this" if step in (2, 3, 4) else "another"
        (folder / "run_args.json").write_text(json.dumps({"run_id": owner}), encoding="utf-8")
        seal_checkpoint(folder)
    rotate_checkpoints(tmp_path, "this", limit=2)
    assert [path.name[11:] for path in list_checkpoints(tmp_path)] == ["50", "4", "3", "1"]


def test_a_kill_before_the_manifest_stood_does_not_spoil_the_next_save_of_that_step(tmp_path):
    folder = folder_of(tmp_path, 5)
    (folder / f".{MANIFEST}").write_text('{"files"', encoding="utf-8")
    seal_checkpoint(folder)
    assert torn_reason(folder) == ""


def test_a_kill_inside_the_removal_of_an_old_checkpoint_leaves_nothing_for_good(tmp_path, monkeypatch):
    for step in (1, 2):
        seal_checkpoint(folder_of(tmp_path, step))

    def killed(folder):
        next(Path(folder).iterdir()).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("vicuna.train.checkpoint.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            rotate_checkpoints(tmp_path, run_id=None, limit=1)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-2"]
    remove_partial_saves(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "run_args.json"]


def test_adapters_that_a_kill_left_aside_are_removed(tmp_path):
    for folder in (tmp_path, tmp_path / "best"):
        (folder / ".saving-abc").mkdir(parents=True)
        (folder / ".saving-abc/adapter_model.safetensors").write_bytes(b"x")
        (folder / "adapter_model.safetensors").write_bytes(b"x")
    remove_partial_saves(tmp_path)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["adapter_model.safetensors", "best/adapter_model.safetensors"]
