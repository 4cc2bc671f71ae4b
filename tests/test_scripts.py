"""The launchers: what each variable becomes on the command line, and that every flag they pass exists."""

import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from finetune_chat import DEFAULTS
from vicuna.answer.flags import AskFlags, ChatFlags, DecodingFlags, ServeFlags
from vicuna.args import parse
from vicuna.data.flags import DataFlags
from vicuna.model.flags import LoraFlags, ModelFlags
from vicuna.train.flags import RunFlags

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted([*(ROOT / "scripts").glob("*.sh"), *(ROOT / "tools").glob("*.sh")])
TRAIN = (ModelFlags, DataFlags, LoraFlags, RunFlags)
SERVE = (ModelFlags, AskFlags, ServeFlags, DecodingFlags)
# Stands in for python: notes CUDA_VISIBLE_DEVICES and its arguments, one call a line, and ends with $STATUS.
PYTHON = """#!/usr/bin/env bash
{ printf '%s' "${CUDA_VISIBLE_DEVICES-unset}"; printf '\\037%s' "$@"; printf '\\n'; } >>"$CALLS"
exit "${STATUS:-0}"
"""
PREPARE = "../tools/prepare_llama_cpp.sh"


@dataclass
class Call:
    """One call of python by a launcher."""

    visible: str
    argv: list[str]


@dataclass
class Launched:
    status: int
    calls: list[Call]
    said: str

    @property
    def only(self) -> Call:
        (call,) = self.calls
        return call


@pytest.fixture
def launch(tmp_path) -> Callable[..., Launched]:
    """launch("finetune.sh", "--bits", "4", DATA_PATH="x"): run a launcher with a stand-in for python."""
    python, calls = tmp_path / "python", tmp_path / "calls"
    python.write_text(PYTHON, encoding="utf-8")
    python.chmod(0o755)

    def run(name: str, *argv: str, **variables: str) -> Launched:
        calls.write_text("", encoding="utf-8")
        env = {"PATH": os.environ["PATH"], "PYTHON": str(python), "CALLS": str(calls), "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            ["bash", str(ROOT / "scripts" / name), *argv],
            cwd=tmp_path, env=env | variables, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        lines = [line.split("\x1f") for line in calls.read_text(encoding="utf-8").splitlines()]
        return Launched(done.returncode, [Call(visible, argv) for visible, *argv in lines], done.stderr)

    return run


def flags(groups: tuple[type, ...], argv: list[str], **defaults: object) -> dict:
    """What the program itself makes of the arguments a launcher passes."""
    found = parse("test", *groups, argv=argv, **defaults)
    return {name: value for group in found for name, value in vars(group).items()}


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / ".ci/run"], ids=lambda script: script.name)
def test_a_script_is_valid_bash(script):
    if not script.is_file():
        pytest.skip(f"{script.name} is not there")
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_stops_at_the_first_error(script):
    if script.name == "environment.sh":
        pytest.skip("it is sourced")
    text = script.read_text(encoding="utf-8")

    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text


# --- finetune -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "name", "meant"),
    [
        ("DATA_PATH", "my data.jsonl", "data_path", ["my data.jsonl"]),
        ("MODEL_PATH", "/data/llama-7b", "model_path", "/data/llama-7b"),
        ("OUTPUT_PATH", "out", "output_path", "out"),
        ("TEST_SIZE", "0", "test_size", 0),
        ("lora_checkpoint", "out/checkpoint-10", "resume_from_checkpoint", "out/checkpoint-10"),
        ("lora_remote_checkpoint", "owner/name", "lora_remote_checkpoint", "owner/name"),
        ("from_data_beginning", "True", "ignore_data_skip", True),
        ("from_data_beginning", "False", "ignore_data_skip", False),
    ],
)
@pytest.mark.parametrize("name_of_script", ["finetune.sh", "finetune_4bit.sh", "finetune_fp16.sh"])
def test_a_variable_of_finetune_reaches_its_flag(launch, name_of_script, variable, value, name, meant):
    program, *argv = launch(name_of_script, **{variable: value}).only.argv

    assert program == "finetune.py"
    assert flags(TRAIN, argv)[name] == meant


def test_without_variables_finetune_gets_no_flags(launch):
    assert launch("finetune.sh").only.argv == ["finetune.py"]


def test_an_empty_variable_is_no_variable(launch):
    assert launch("finetune.sh", DATA_PATH="", TOT_CUDA="", lora_checkpoint="").only.argv == ["finetune.py"]


def test_what_follows_goes_to_finetune_behind_the_variables_flags(launch):
    argv = launch("finetune.sh", "--data_path", "b c", "--num_epoch", "1", DATA_PATH="a").only.argv

    assert argv == ["finetune.py", "--data_path", "a", "--data_path", "b c", "--num_epoch", "1"]
    assert flags(TRAIN, argv[1:])["data_path"] == ["b c"]


@pytest.mark.parametrize(
    ("name", "argv", "bits"),
    [
        ("finetune.sh", [], 8),
        ("finetune_4bit.sh", [], 4),
        ("finetune_fp16.sh", [], 16),
        ("finetune_4bit.sh", ["--bits", "8"], 8),
    ],
)
def test_each_launcher_of_finetune_has_its_precision(launch, name, argv, bits):
    assert flags(TRAIN, launch(name, *argv).only.argv[1:])["bits"] == bits


def test_one_card_is_plain_python_on_that_card(launch):
    call = launch("finetune.sh", TOT_CUDA="3").only

    assert call.visible == "3"
    assert call.argv == ["finetune.py"]


def test_several_cards_are_validated_once_and_then_run_by_torchrun(launch):
    first, second = launch("finetune.sh", "--seed", "1", TOT_CUDA="0,1,3", DATA_PATH="a").calls

    assert first.argv == ["finetune.py", "--data_path", "a", "--seed", "1", "--plan_only"]
    assert second.argv == [
        *["-m", "vicuna.train.launch", "--standalone", "--nproc_per_node=3"],
        *["finetune.py", "--data_path", "a", "--seed", "1"],
    ]
    assert first.visible == second.visible == "0,1,3"


def test_the_port_reaches_torchrun(launch):
    _, second = launch("finetune.sh", TOT_CUDA="0,1", PORT="12345").calls
    torchrun = second.argv[: second.argv.index("finetune.py")]

    assert "--master_port=12345" in torchrun
    assert "--nproc_per_node=2" in torchrun
    assert "--standalone" not in torchrun  # it would choose a port of its own


def test_cards_named_by_cuda_itself_count_too(launch):
    *_, last = launch("finetune.sh", CUDA_VISIBLE_DEVICES="2,5").calls

    assert "--nproc_per_node=2" in last.argv


def test_the_number_of_processes_can_be_given(launch):
    assert launch("finetune.sh", TOT_CUDA="0,1", NUM_PROCESSES="1").only.argv == ["finetune.py"]
    *_, last = launch("finetune.sh", NUM_PROCESSES="2").calls
    assert "--nproc_per_node=2" in last.argv


def test_a_mistake_ends_before_many_processes_start_and_keeps_its_status(launch):
    launched = launch("finetune.sh", TOT_CUDA="0,1", STATUS="2")

    assert launched.status == 2
    assert "--plan_only" in launched.only.argv


def test_a_single_run_keeps_the_status_of_its_program(launch):
    assert launch("finetune_4bit.sh", STATUS="143").status == 143


def test_several_hosts_get_their_place(launch):
    hosts = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1"}
    _, call = launch("finetune_multinode.sh", "--bits", "4", DATA_PATH="a", **hosts).calls
    where = ["--nnodes=2", "--node_rank=1", "--master_addr=10.0.0.1", "--master_port=29500", "--nproc_per_node=1"]
    assert call.argv == ["-m", "vicuna.train.launch", *where, "finetune.py", "--data_path", "a", "--bits", "4"]
    *_, call = launch("finetune_multinode.sh", TOT_CUDA="0,1", PORT="77", PROGRAM="finetune_chat.py", **hosts).calls
    assert call.argv[4:] == ["--master_addr=10.0.0.1", "--master_port=77", "--nproc_per_node=2", "finetune_chat.py"]


@pytest.mark.parametrize("missing", ["NNODES", "NODE_RANK", "MASTER_ADDR"])
def test_a_host_without_its_place_is_refused(launch, missing):
    hosts = {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "10.0.0.1", missing: ""}
    launched = launch("finetune_multinode.sh", **hosts)
    assert (launched.status, launched.calls) == (2, [])


def test_going_on_takes_the_latest_checkpoint_or_the_one_named(launch):
    assert launch("finetune_continue.sh").only.argv[1:] == ["--resume_from_checkpoint", "auto"]
    argv = launch("finetune_continue.sh", lora_checkpoint="out/checkpoint-4").only.argv
    assert flags(TRAIN, argv[1:])["resume_from_checkpoint"] == "out/checkpoint-4"
    argv = launch("finetune_continue.sh", lora_remote_checkpoint="owner/name").only.argv
    assert flags(TRAIN, argv[1:])["lora_remote_checkpoint"] == "owner/name"


@pytest.mark.parametrize(
    ("name", "program"),
    [("finetune_others_continue.sh", "finetune.py"), ("finetune_chat_continue.sh", "finetune_chat.py")],
)
def test_other_data_goes_on_with_the_schedule(launch, tmp_path, name, program):
    here = tmp_path / "checkpoint-9"
    here.mkdir()
    call = launch(name, lora_checkpoint=str(here), lora_remote_checkpoint="owner/name", DATA_PATH="b").only
    meant = flags(TRAIN, call.argv[1:])
    assert (call.argv[0], meant["continue_schedule"], meant["data_path"]) == (program, str(here), ["b"])
    assert meant["resume_from_checkpoint"] is None
    call = launch(name, lora_checkpoint="not/here", lora_remote_checkpoint="owner/name").only
    assert flags(TRAIN, call.argv[1:])["continue_schedule"] == "owner/name"
    assert launch(name).status == 2


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("finetune_chat.sh", {"micro_batch": 4, "total_batch": 128, "warmup_ratio": 0.05}),
        ("finetune_chat_single.sh", {"micro_batch": 3, "total_batch": 32, "warmup_ratio": 0.01}),
    ],
)
def test_a_launcher_of_dialogues_has_the_originals_values(launch, name, meant):
    program, *argv = launch(name).only.argv
    found = flags(TRAIN, argv, **DEFAULTS)

    assert program == "finetune_chat.py"
    same = {"test_size": 0, "eval_steps": 0, "save_steps": 200, "log_steps": 100, "prompt_type": "chat", "bits": 8}
    assert {key: found[key] for key in (*meant, *same)} == meant | same
    assert found["output_path"] == "outs/instruct_chat"
    assert flags(TRAIN, launch(name, "--total_batch", "8").only.argv[1:], **DEFAULTS)["total_batch"] == 8


@pytest.mark.parametrize("name", ["finetune_chat.sh", "finetune_chat_single.sh"])
def test_the_variables_of_finetune_reach_the_flags_of_dialogues(launch, name):
    variables = {"DATA_PATH": "my.jsonl", "MODEL_PATH": "/data/llama", "OUTPUT_PATH": "out", "TEST_SIZE": "5"}
    found = flags(TRAIN, launch(name, **variables).only.argv[1:], **DEFAULTS)

    assert [found[key] for key in ("data_path", "model_path", "output_path", "test_size")] == [
        *(["my.jsonl"], "/data/llama", "out", 5)
    ]


def test_several_cards_run_the_program_of_dialogues_and_the_single_one_runs_on_one(launch):
    first, second = launch("finetune_chat.sh", TOT_CUDA="0,1").calls

    assert (first.argv[0], first.argv[-1]) == ("finetune_chat.py", "--plan_only")
    assert "finetune_chat.py" in second.argv
    assert "--nproc_per_node=2" in second.argv
    assert launch("finetune_chat_single.sh", TOT_CUDA="0,1").only.argv[0] == "finetune_chat.py"


# --- generate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "name", "meant"),
    [
        ("BASE_MODEL", "/data/my llama", "model_path", "/data/my llama"),
        ("LORA_PATH", "owner/name", "lora_path", "owner/name"),
        ("LORA_PATH", "", "lora_path", ""),
        ("USE_LOCAL", "1", "use_local", True),
        ("USE_LOCAL", "0", "use_local", False),
        ("TYPE_WRITER", "0", "use_typewriter", False),
        ("TYPE_WRITER", "1", "use_typewriter", True),
    ],
)
@pytest.mark.parametrize("name_of_script", ["generate.sh", "generate_4bit.sh"])
def test_a_variable_of_generate_reaches_its_flag(launch, name_of_script, variable, value, name, meant):
    program, *argv = launch(name_of_script, **{variable: value}).only.argv

    assert program == "generate.py"
    assert flags(SERVE, argv)[name] == meant


def test_without_variables_generate_opens_what_the_quickstart_made(launch):
    argv = launch("generate.sh").only.argv

    assert argv == ["generate.py", "--model_path", "models/tiny-llama-zh", "--lora_path", "lora-Vicuna"]


def test_generate_runs_on_the_cards_that_are_named(launch):
    assert launch("generate.sh", TOT_CUDA="2").only.visible == "2"


def test_what_follows_goes_to_generate(launch):
    assert launch("generate.sh", "--text", "你 好").only.argv[-2:] == ["--text", "你 好"]


@pytest.mark.parametrize(("name", "bits"), [("generate.sh", 8), ("generate_4bit.sh", 4)])
def test_each_launcher_of_generate_has_its_precision(launch, name, bits):
    assert flags(SERVE, launch(name).only.argv[1:])["bits"] == bits


# --- chat ---------------------------------------------------------------------------------------------------------

CHAT = (ModelFlags, ChatFlags, ServeFlags, DecodingFlags)


@pytest.mark.parametrize(
    ("variable", "value", "name", "meant"),
    [
        ("BASE_MODEL", "/data/my llama", "model_path", "/data/my llama"),
        ("LORA_PATH", "owner/name", "lora_path", ["owner/name"]),
        ("LORA_PATH", "lora-A lora-B", "lora_path", ["lora-A", "lora-B"]),
        ("LORA_PATH", "", "lora_path", []),
        ("INT8", "1", "bits", 8),
        ("INT8", "0", "bits", 16),
        ("SHOW_BEAM", "1", "show_beam", True),
        ("SHOW_BEAM", "0", "show_beam", False),
        ("PROMPT_TYPE", "interaction", "prompt_type", "interaction"),
        ("USE_LOCAL", "1", "use_local", True),
        ("TYPE_WRITER", "0", "use_typewriter", False),
    ],
)
@pytest.mark.parametrize("name_of_script", ["chat_7B.sh", "interaction.sh"])
def test_a_variable_of_chat_reaches_its_flag(launch, name_of_script, variable, value, name, meant):
    program, *argv = launch(name_of_script, **{variable: value}).only.argv

    assert program == "chat.py"
    assert flags(CHAT, argv)[name] == meant


def test_without_variables_chat_opens_what_the_quickstart_made(launch):
    argv = launch("chat_7B.sh").only.argv

    assert argv == ["chat.py", "--model_path", "models/tiny-llama-zh", "--lora_path", "lora-Vicuna"]


def test_what_follows_goes_to_chat_on_the_cards_that_are_named(launch):
    call = launch("chat_7B.sh", "--port", "80", TOT_CUDA="2").only

    assert (call.argv[-2:], call.visible) == (["--port", "80"], "2")


# --- tools --------------------------------------------------------------------------------------------------------


def test_preparing_for_llama_cpp_checks_then_merges_then_exports(launch, tmp_path):
    out = str(tmp_path / "new/my.gguf")
    variables = {"MODEL_PATH": "/data/my llama", "LORA_PATH": "lora-A lora-B", "OUT_PATH": out, "TYPE": "q8_0"}
    more = {"PROMPT_TYPE": "chat", "DTYPE": "float16", "IGNORE_FINGERPRINT": "True"}
    check, merge, export = (call.argv for call in launch(PREPARE, "--strict", **variables, **more).calls)
    merged = merge[merge.index("--out_path") + 1]

    wanted = ["tools/export_gguf.py", "--out_path", out, "--type", "q8_0", "--prompt_type", "chat", "--model_path"]
    assert check == [*wanted, "/data/my llama", "--strict", "--plan_only"]
    assert merge == [
        *("tools/merge_lora.py", "--model_path", "/data/my llama", "--lora_path", "lora-A", "lora-B"),
        *("--out_path", merged, "--prompt_type", "chat", "--dtype", "float16", "--ignore_fingerprint", "True"),
    ]
    assert export == [*wanted, merged, "--strict"]
    assert Path(merged).name == "lora-B"
    assert list((tmp_path / "new").iterdir()) == []


def test_what_is_merged_already_is_only_exported_and_a_merge_is_kept_on_request(launch, tmp_path):
    out = {"OUT_PATH": str(tmp_path / "my.gguf")}
    calls = launch(PREPARE, MODEL_PATH="merged", LORA_PATH="", **out).calls
    assert [call.argv[0] for call in calls] == ["tools/export_gguf.py"] * 2

    kept = str(tmp_path / "kept")
    _, merge, export = (call.argv for call in launch(PREPARE, KEEP=kept, **out).calls)
    assert merge[:6] == [
        *("tools/merge_lora.py", "--model_path", "models/tiny-llama-zh", "--lora_path", "lora-Vicuna", "--out_path")
    ]
    assert merge[6] == export[-1] == kept

    (tmp_path / "kept").mkdir()
    launched = launch(PREPARE, KEEP=kept, **out)
    assert (launched.status, launched.calls) == (1, [])


def test_preparing_ends_with_the_first_mistake_and_leaves_nothing(launch, tmp_path):
    launched = launch(PREPARE, OUT_PATH=str(tmp_path / "new/my.gguf"), STATUS="3")
    assert (launched.status, len(launched.calls)) == (3, 1)
    assert not (tmp_path / "new").exists()


def test_a_disk_without_room_is_refused_before_merging(launch, tmp_path):
    with (tmp_path / "model.safetensors").open("wb") as opened:
        opened.truncate(1 << 43)  # bytes that the file claims, and does not take
    launched = launch(PREPARE, MODEL_PATH=str(tmp_path), OUT_PATH=str(tmp_path / "my.gguf"))
    assert launched.status == 1
    assert launched.only.argv[-1] == "--plan_only"
    assert "GiB are needed for a while" in launched.said


# --- flags --------------------------------------------------------------------------------------------------------

PROGRAM = re.compile(
    r"(?:scripts/)?((?:tools/)?(?:finetune_chat(?=\.py)|finetune|generate|chat|make_tiny_llama|compare_answers"
    r"|merge_lora|export_gguf|verify_sha256))\w*\.(?:py|sh)\b"
)


def flags_passed(script: Path) -> dict[str, set[str]]:
    """Program -> flags that a line of the script, comments included, passes to it.

    Flags belong to the program named before them; on a line that names none, to that of the script's own name.
    """
    own = PROGRAM.match(script.name)
    found: dict[str, set[str]] = {}
    for line in script.read_text(encoding="utf-8").replace("\\\n", " ").split("\n"):
        if re.search(r"rendezvous|nvidia-smi", line):
            continue
        named = list(PROGRAM.finditer(line))
        ends = [*(match.start() for match in named[1:]), len(line)]
        parts = [(match[1], line[match.end() : end]) for match, end in zip(named, ends, strict=False)]
        for name, rest in parts or ([(own[1], line)] if own else []):
            found.setdefault(f"{name}.py", set()).update(re.findall(r"(?<![\w-])--\w+", rest))
    return found


@pytest.mark.parametrize(
    ("name", "at_least"),
    [
        ("finetune.sh", 9),
        ("finetune_4bit.sh", 1),
        ("finetune_fp16.sh", 1),
        ("generate.sh", 4),
        ("generate_4bit.sh", 1),
        ("chat_7B.sh", 7),
    ],
)
def test_the_reader_of_the_test_below_finds_the_flags(name, at_least):
    (found,) = flags_passed(ROOT / "scripts" / name).values()

    assert len(found) >= at_least


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_every_flag_that_a_script_passes_exists_in_the_program(program, script):
    for name, passed in flags_passed(script).items():
        known = set(re.findall(r"--\w+", program(name, "--help").stdout))
        assert len(known) > 3
        assert passed - known == set()


PIP = """#!/usr/bin/env bash
case "$*" in
    *"print(sys.prefix)"*) echo "$PREFIX" ;;
    *" wheel "*)
        while [ "$1" != --wheel-dir ]; do shift; done
        echo "$CMAKE_ARGS" >"$2/llama_cpp_python-${3#*==}-py3-none-any.whl"
        ;;
    *--force-reinstall*) cat "${!#}" >>"$PREFIX/installed" ;;
esac
"""


def test_llama_cpp_is_compiled_once_for_each_setting_and_the_one_asked_for_is_installed(tmp_path):
    (tmp_path / "python").write_text(PIP, encoding="utf-8")
    (tmp_path / "python").chmod(0o755)
    env = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHON": str(tmp_path / "python"), "CXX": "true",
        "PREFIX": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }  # fmt: skip

    said = [
        subprocess.run(
            ["bash", str(ROOT / "scripts/install_cpp.sh")],
            env={**env, **more},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for more in ({}, {}, {"CMAKE_ARGS": "-DGGML_CUDA=on"}, {})
    ]

    assert ["compiling llama-cpp-python" in one for one in said] == [True, False, True, False]
    installed = (tmp_path / "installed").read_text(encoding="utf-8").splitlines()
    assert ["-DGGML_CUDA=on" in one for one in installed] == [False, True, False]
