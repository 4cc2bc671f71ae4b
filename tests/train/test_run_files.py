"""Run records, states, manifests and step lines of strangers are typed: an odd one is a sentence."""

import hashlib
import json
from pathlib import Path

import pytest

from vicuna.errors import UserError
from vicuna.model.adapter_files import template_settings
from vicuna.model.found import model_run_args, run_args
from vicuna.train.callbacks import StepLog
from vicuna.train.checkpoint import torn_reason
from vicuna.train.flags import RunFlags
from vicuna.train.resume import StartingPoint
from vicuna.train.run_files import read_state


def write(file: Path, content: object) -> None:
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("null", "is JSON, but no object"),
        ("[" * 3000, "nested 3000 deep"),
        ({"prompt_type": ["chat"]}, "prompt_type is ['chat']; expected a text"),
        ({"step": "5"}, "step is '5'; expected a whole number"),
        ({"flags": [1]}, "flags is [1]; expected an object"),
        ({"flags": {"train": ["lora"]}}, "expected an object whose train is a text"),
        ({"flags": {"seed": {"a": {}}}}, "flags.seed is {'a': {}}; expected a number, a text"),
        ({"exact": {"base_fingerprint": 3}}, "expected an object whose base_fingerprint is a text"),
        ({"plan": {"steps": -1}}, "plan.steps is -1; expected at least 0"),
        ({"eval_loss": float("nan")}, "eval_loss is nan; expected a finite number"),
        ({"template": {"day": 1}}, "template.day is 1; expected a text"),
    ],
)
def test_an_odd_run_record_is_a_sentence_wherever_it_is_read(tmp_path, content, says):
    write(tmp_path / "run_args.json", content)
    for read in (run_args, model_run_args, template_settings):
        with pytest.raises(UserError) as refused:
            read(tmp_path)
        assert says in str(refused.value)


def test_only_what_is_used_is_taken_from_a_run_record(tmp_path):
    write(tmp_path / "run_args.json", {"prompt_type": "chat", "mine": {"a": [[1]]}, "exact": {"versions": {"a": "1"}}})

    assert run_args(tmp_path) == {"prompt_type": "chat", "exact": {"versions": {"a": "1"}}}


@pytest.mark.parametrize(("value", "fits"), [(1e-3, True), (1, True), ("odd", False), ([1], False), (True, False)])
def test_what_a_record_hands_on_is_of_the_flags_kind(tmp_path, value, fits):
    start = StartingPoint(adapter=tmp_path, inherited={"save_steps": value, "unknown": "x"})
    if fits:
        assert start.inherit(RunFlags()).save_steps == value
        return
    with pytest.raises(UserError, match=r"run_args\.json of .* hands on save_steps .*, and --save_steps is not of"):
        start.inherit(RunFlags())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ({"files": [1]}, "files is [1]; expected an object"),
        ({"files": {"a": 1}}, "files.a is 1; expected an object"),
        ({"files": {"a": {"size": -1, "sha256": 64 * "a"}}}, "files.a.size is -1; expected at least 0"),
        ({"files": {"../a": {"size": 3, "sha256": 64 * "a"}}}, "expected names of files inside the checkpoint"),
        ({"files": {"/etc/hostname": {"size": 3, "sha256": 64 * "a"}}}, "expected names of files inside the"),
    ],
)
def test_an_odd_manifest_says_why_the_checkpoint_is_torn(tmp_path, content, says):
    write(tmp_path / "manifest.json", content)

    assert says in (reason := torn_reason(tmp_path))
    assert reason.startswith("manifest.json can not be read (")


def test_a_manifest_names_files_in_folders_of_the_checkpoint(tmp_path):
    (tmp_path / "global_step2").mkdir()
    (tmp_path / "global_step2/part").write_bytes(b"abc")
    sealed = {"size": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    write(tmp_path / "manifest.json", {"files": {"global_step2/part": sealed}})

    assert torn_reason(tmp_path) == ""


def test_states_of_real_runs_of_every_age_are_read(shared):
    folders = [file.parent for file in (shared / "lora").rglob("trainer_state.json")]

    assert len(folders) >= 4
    assert all(0 < read_state(folder).global_step <= read_state(folder).max_steps for folder in folders)


@pytest.mark.parametrize(
    "change",
    [
        *({"global_step": 1e9}, {"global_step": None}, {"max_steps": -1}, {"epoch": "one"}, {"total_flos": "x"}),
        *({"log_history": {}}, {"log_history": [{"loss": 1.0}]}, {"log_history": [{"step": 1, "loss": [1]}]}),
        *({"stateful_callbacks": {"A": [1]}}, {"best_metric": "low"}),
    ],
)
def test_an_odd_state_is_a_sentence(tmp_path, change):
    good = {"global_step": 1, "max_steps": 2, "log_history": [{"step": 1, "loss": float("nan")}]}
    write(tmp_path / "trainer_state.json", good)
    assert read_state(tmp_path).global_step == 1

    write(tmp_path / "trainer_state.json", good | change)
    with pytest.raises(UserError, match=rf"trainer_state\.json: {next(iter(change))}.*; expected"):
        read_state(tmp_path)


def test_an_odd_line_of_the_steps_is_a_sentence(tmp_path):
    (tmp_path / "steps.jsonl").write_text('{"step": 1}\n{"step": []}\n', encoding="utf-8")
    (tmp_path / "new").mkdir()

    with pytest.raises(UserError, match=r"steps\.jsonl, a line of it: step is \[\]; expected a whole number"):
        StepLog(tmp_path / "new", tmp_path / "checkpoint-1", 1)
