"""The launchers of training: what each variable becomes on the command line, on one card, several and several hosts."""

import pytest

from finetune_chat import DEFAULTS
from tests.scripts.launchers import flags
from vicuna.data.flags import DataFlags
from vicuna.model.flags import LoraFlags, ModelFlags
from vicuna.train.flags import RunFlags

TRAIN = (ModelFlags, DataFlags, LoraFlags, RunFlags)


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

    assert argv == ["finetune.py", "--data_path", "b c", "--num_epoch", "1"]
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
    assert launch("finetune_continue.sh").only.argv[1:] == ["--resume_from_checkpoint", "auto", "--as_before", "True"]
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


STAGES = {
    "pretrain_stage1.sh": {
        "train": "embeddings", "prompt_type": "text", "pack": True, "total_batch": 1024, "max_steps": 3000,
        "learning_rate": 2e-4, "warmup_ratio": 0.05, "weight_decay": 0.01,
    },
    "pretrain_stage2.sh": {
        "train": "lora+embeddings+head", "prompt_type": "text", "pack": True, "total_batch": 1024, "max_steps": 6000,
        "learning_rate": 1e-4, "warmup_ratio": 0.05, "weight_decay": 0.01, "lora_r": 8, "lora_alpha": 32,
        "lora_dropout": 0.05, "lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
        "resume_from_checkpoint": "outs/pretrain_stage1",
    },
    "finetune_alpaca.sh": {
        "train": "lora+embeddings+head", "prompt_type": "chinese_alpaca", "pack": False, "total_batch": 512,
        "max_steps": 6000, "learning_rate": 1e-4, "warmup_ratio": 0.03, "weight_decay": 0.0, "lora_r": 8,
        "lora_alpha": 32, "lora_dropout": 0.05, "lora_target_modules": DEFAULTS["lora_target_modules"],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_of_chinese_llama_alpaca_has_the_published_settings(launch, name):
    program, *argv = launch(name).only.argv
    found = flags(TRAIN, argv)

    meant = STAGES[name] | {"cutoff_len": 512, "bits": 16, "lr_scheduler": "cosine"}
    assert program == "finetune.py"
    assert {key: found[key] for key in meant} == meant
    assert found["output_path"] == f"outs/{name.removesuffix('.sh')}"
    assert len(found["data_path"]) == (1 if name == "finetune_alpaca.sh" else 2)

    typed = ["--data_path", "a.txt", "--lora-target-modules", "v_proj", "--max_steps", "7"]
    found = flags(TRAIN, launch(name, *typed, lora_checkpoint="auto").only.argv[1:])
    assert [found[key] for key in ("data_path", "lora_target_modules", "max_steps", "resume_from_checkpoint")] == [
        *(["a.txt"], ["v_proj"], 7, "auto")
    ]


@pytest.mark.parametrize("name", ["finetune_chat.sh", "finetune_chat_single.sh", *STAGES])
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


DOMAINS = {"medical": ("finetune.py", 7), "legal": ("finetune_chat.py", 6)}


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_domain_goes_on_from_a_checkpoint_with_its_schedule_or_from_an_adapter_with_its_own(launch, tmp_path, domain):
    program, epochs = DOMAINS[domain]
    adapter = tmp_path / "lora"
    adapter.mkdir()
    call = launch(f"finetune_{domain}.sh", lora_checkpoint=str(adapter), lora_remote_checkpoint="").only
    found = flags(TRAIN, call.argv[1:])
    assert (call.argv[0], found["num_epoch"], found["output_path"]) == (program, epochs, f"outs/{domain}")
    assert (found["resume_from_checkpoint"], found["continue_schedule"]) == (str(adapter), None)
    assert found["data_path"] == [f"sample/{domain}/train.jsonl"]

    (adapter / "scheduler.pt").touch()  # what only a checkpoint has
    found = flags(TRAIN, launch(f"finetune_{domain}.sh", lora_checkpoint=str(adapter)).only.argv[1:])
    assert (found["resume_from_checkpoint"], found["continue_schedule"]) == (None, str(adapter))


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_domain_takes_general_records_among_its_own(launch, tmp_path, domain):
    variables = {"lora_remote_checkpoint": "owner/name", "DATA_PATH": "a.jsonl", "GENERAL_PATH": "b.jsonl:0.2"}
    found = flags(TRAIN, launch(f"finetune_{domain}.sh", **variables).only.argv[1:])
    assert found["data_path"] == ["a.jsonl", "b.jsonl:0.2"]
    assert found["lora_remote_checkpoint"] == "owner/name"

    variables |= {"NUM_EPOCH": "2", "OUTPUT_PATH": "out"}
    call = launch(f"finetune_{domain}.sh", "--data_path", "c.jsonl", at=tmp_path, **variables).only
    found = flags(TRAIN, call.argv[1:])
    assert (found["data_path"], found["num_epoch"], found["output_path"]) == (["c.jsonl"], 2, str(tmp_path / "out"))

    found = flags(TRAIN, launch(f"finetune_{domain}.sh", at=tmp_path, **variables).only.argv[1:])
    assert found["data_path"] == [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl:0.2")]


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_domain_without_a_beginning_is_refused_and_an_interrupted_run_resumed(launch, domain):
    refused = launch(f"finetune_{domain}.sh")
    assert (refused.status, refused.calls) == (2, [])
    assert refused.said.startswith(f"finetune_{domain}.sh: name what to go on with, lora_checkpoint=FOLDER")
    found = flags(TRAIN, launch(f"finetune_{domain}.sh", lora_checkpoint="auto").only.argv[1:])
    assert (found["resume_from_checkpoint"], found["continue_schedule"]) == ("auto", None)
