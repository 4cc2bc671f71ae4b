"""Paths in variables count from where a launcher is called, defaults from the checkout, and hub ids stay ids."""

import os
import subprocess

import pytest

from tests.scripts.launchers import ROOT

# Variables that hold a path, and the scripts that read them; those that only hand on are tried with the one they call.
ONE_PATH = {
    "DATA_PATH": [
        "finetune.sh",
        "finetune_4bit.sh",
        "finetune_chat.sh",
        "finetune_chat_single.sh",
        "finetune_continue.sh",
    ],
    "OUTPUT_PATH": ["finetune.sh", "finetune_fp16.sh", "finetune_chat.sh", "finetune_continue.sh"],
    "MODEL_PATH": ["finetune.sh", "finetune_chat.sh"],
    "lora_checkpoint": ["finetune.sh", "finetune_continue.sh"],
    "BASE_MODEL": ["generate.sh", "generate_4bit.sh", "chat_7B.sh", "interaction.sh", "chat_cpu.sh", "serve_vllm.sh"],
    "LORA_PATH": ["generate.sh", "chat_7B.sh", "interaction.sh", "serve_vllm.sh"],
}
CASES = [(script, variable) for variable, scripts in ONE_PATH.items() for script in scripts]
MAY_BE_IDS = [
    (script, name) for script, name in CASES if name not in ("DATA_PATH", "OUTPUT_PATH") and "cpu" not in script
]
PREPARE = "../tools/prepare_llama_cpp.sh"


@pytest.mark.parametrize(("script", "variable"), CASES)
@pytest.mark.parametrize("name", ["mine", "./mine", "../mine", "a/b/mine", "own/mine"])
def test_a_path_that_is_given_counts_from_where_the_user_stands(launch, tmp_path, script, variable, name):
    (tmp_path / "own").mkdir()
    argv = launch(script, at=tmp_path, **{variable: name}).only.argv

    assert f"{tmp_path}/{name}" in argv


@pytest.mark.parametrize(("script", "variable"), CASES)
@pytest.mark.parametrize("name", ["/data/mine", "~/mine"])
def test_a_whole_path_stays_as_it_is(launch, tmp_path, script, variable, name):
    assert name in launch(script, at=tmp_path, **{variable: name}).only.argv


@pytest.mark.parametrize(("script", "variable"), MAY_BE_IDS)
def test_a_hub_id_stays_one_unless_such_a_folder_is_there(launch, tmp_path, script, variable):
    assert "owner/name" in launch(script, at=tmp_path, **{variable: "owner/name"}).only.argv


def test_where_a_launcher_is_called_in_the_checkout_nothing_changes(launch):
    for script, variable in CASES:
        assert "mine" in launch(script, **{variable: "mine"}).only.argv


@pytest.mark.parametrize("script", ["finetune.sh", "finetune_chat.sh", "generate.sh", "chat_7B.sh", "serve_vllm.sh"])
def test_defaults_count_from_the_checkout(launch, tmp_path, script):
    assert launch(script, at=tmp_path).only.argv == launch(script).only.argv
    assert str(tmp_path) not in str(launch(script, at=tmp_path).only.argv)


def test_several_adapters_are_paths_or_ids_each_for_itself(launch, tmp_path):
    for script in ("chat_7B.sh", "serve_vllm.sh"):
        argv = launch(script, at=tmp_path, LORA_PATH="a owner/name /b").only.argv
        first = argv.index("--lora_path") + 1
        assert argv[first : first + 3] == [f"{tmp_path}/a", "owner/name", "/b"]


def test_a_weight_behind_a_data_file_stays(launch, tmp_path):
    assert f"{tmp_path}/my data.jsonl:2" in launch("finetune.sh", at=tmp_path, DATA_PATH="my data.jsonl:2").only.argv


def test_auto_is_no_path(launch, tmp_path):
    assert launch("finetune_continue.sh", at=tmp_path).only.argv[-3] == "auto"


@pytest.mark.parametrize("script", ["finetune_others_continue.sh", "finetune_chat_continue.sh"])
def test_the_checkpoint_to_go_on_from_counts_from_where_the_user_stands(launch, tmp_path, script):
    (tmp_path / "out/checkpoint-9").mkdir(parents=True)
    argv = launch(script, at=tmp_path, lora_checkpoint="out/checkpoint-9", DATA_PATH="b").only.argv

    assert argv[argv.index("--continue_schedule") + 1] == f"{tmp_path}/out/checkpoint-9"
    assert f"{tmp_path}/b" in argv


def test_every_process_of_several_gets_the_same_paths(launch, tmp_path):
    for call in launch("finetune.sh", at=tmp_path, TOT_CUDA="0,1", DATA_PATH="a").calls:
        assert f"{tmp_path}/a" in call.argv


def test_preparing_for_llama_cpp_counts_its_paths_from_there_too(launch, tmp_path):
    variables = {"MODEL_PATH": "base", "LORA_PATH": "a owner/name", "OUT_PATH": "my.gguf", "KEEP": "kept"}
    check, merge, export = (call.argv for call in launch(PREPARE, at=tmp_path, **variables).calls)

    assert f"{tmp_path}/my.gguf" in check
    assert f"{tmp_path}/base" in check
    first = merge.index("--lora_path") + 1
    assert merge[first : first + 4] == [f"{tmp_path}/a", "owner/name", "--out_path", f"{tmp_path}/kept"]
    assert f"{tmp_path}/kept" in export


def test_a_folder_to_download_to_counts_from_there_too(tmp_path):
    (tmp_path / "there").mkdir()
    env = {"PATH": os.environ["PATH"], "PYTHON": "false", "OUT_PATH": "there"}
    command = ["bash", str(ROOT / "tools/download_llama.sh"), "owner/name"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)

    assert done.returncode == 1
    assert f"{tmp_path}/there exists; nothing is ever written over" in done.stderr


def test_python_and_vllm_count_from_there_too(launch, tmp_path):
    assert launch("finetune.sh", at=tmp_path, PYTHON="./python").only.argv == ["finetune.py"]
    shown = tmp_path / "shown"
    shown.write_text('#!/usr/bin/env bash\necho "$VLLM" >"$CALLS"\n', encoding="utf-8")
    shown.chmod(0o755)
    launched = launch("serve_vllm.sh", at=tmp_path, PYTHON="./shown", VLLM="env/bin/vllm")
    assert launched.only.visible == f"{tmp_path}/env/bin/vllm"


@pytest.mark.parametrize(
    ("script", "slip", "meant"),
    [
        *(
            ("finetune.sh", slip, "DATA_PATH")
            for slip in ("DATAPATH", "data_path", "DATA_PAHT", "DATA_PTH", "DATAA_PATH")
        ),
        ("finetune_chat.sh", "MODELPATH", "MODEL_PATH"),
        ("finetune_continue.sh", "LORA_CHECKPOINT", "lora_checkpoint"),
        ("generate.sh", "BASE_MODLE", "BASE_MODEL"),
        ("chat_7B.sh", "LORAPATH", "LORA_PATH"),
    ],
)
def test_a_slip_in_the_name_of_a_variable_is_refused(launch, script, slip, meant):
    done = launch(script, **{slip: "mine"})

    assert (done.status, done.calls) == (2, [])
    assert f"{slip} is set, but the launcher reads {meant}: set that one, or unset {slip}." in done.said
    assert launch(script, **{slip: "mine", meant: "given"}).status == 0


def test_names_that_only_share_some_letters_are_no_slip(launch):
    assert launch("finetune.sh", DATABASE_PATH="a", MODEL_PATHS_OLD="b", TEST_SIDES="c", OUTPUT="d").status == 0


@pytest.mark.parametrize("script", ["generate.sh", "chat_7B.sh"])
def test_a_base_may_be_named_as_training_names_it(launch, script):
    assert "mine" in launch(script, MODEL_PATH="/mine").only.argv[2]
    assert launch(script, MODEL_PATH="/mine", BASE_MODEL="/base").only.argv[2] == "/base"
