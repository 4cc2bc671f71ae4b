"""finetune.py as a user runs it: losses, outputs, processes, precisions."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import torch

from tests.train.runs import ROOT, STEPS, TWO_EPOCHS, losses, train
from vicuna.model.config import read_config
from vicuna.model.cpu_rounding import four_bit_warning

# Recorded once on this code; another mask, template or order of records gives other losses.
PINNED = [8.0043, 8.0361, 8.0926, 7.9407, 7.9071, 7.9742, 7.8188, 8.0847]


def test_the_losses_of_a_short_run_are_the_recorded_ones(straight):
    assert losses(straight) == pytest.approx(PINNED, abs=2e-3)


def fed(folder: Path) -> list[list[int]]:
    """The records that the model was fed in each step, those of all processes, in order of their numbers."""
    lines = (folder / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry["records"] for entry in map(json.loads, lines) if "loss" in entry]


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_many_processes_give_the_losses_of_one(program, tiny_base, records, straight, tmp_path, processes):
    output = train(program, tiny_base, records, tmp_path / "out", *TWO_EPOCHS, processes=processes, warm=processes > 2)
    assert losses(output) == pytest.approx(losses(straight), abs=1e-4)
    assert losses(output, "eval_loss") == pytest.approx(losses(straight, "eval_loss"), abs=1e-4)
    assert fed(output) == fed(straight)


def test_every_epoch_feeds_every_record_once(straight):
    steps = fed(straight)
    assert [len(records) for records in steps] == [11, 11, 11, 3] * 2
    first, second = (sorted(record for records in epoch for record in records) for epoch in (steps[:4], steps[4:]))
    assert first == second
    assert len(set(first)) == len(first) == 36  # of 41, with 5 held out
    assert steps[:4] != steps[4:]


def test_two_hosts_give_the_losses_of_one(interpreter, tiny_base, records, straight, tmp_path):
    """Two process groups on this machine, each with the environment of its host."""
    output = tmp_path / "out"
    argv = ["--model_path", tiny_base, "--data_path", records, "--output_path", output, *STEPS, *TWO_EPOCHS]
    hosts = []
    with socket.socket() as kept, contextlib.ExitStack() as at_end:
        # Bound, and not listened on: the store may bind it too, and nobody else is given it.
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        port = str(kept.getsockname()[1])
        for rank in ("0", "1"):
            env = {"NNODES": "2", "NODE_RANK": rank, "MASTER_ADDR": "127.0.0.1", "PORT": port, "PYTHON": interpreter}
            env |= {"CUDA_VISIBLE_DEVICES": "", "XDG_CACHE_HOME": str(tmp_path / f"cache of host {rank}")}
            command = ["bash", "scripts/finetune_multinode.sh", *map(str, argv)]
            pipe = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
            hosts.append(subprocess.Popen(command, cwd=ROOT, env={**os.environ, **env}, **pipe))
            at_end.callback(hosts[-1].kill)
        said = [host.communicate(timeout=550)[1] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], said
    assert losses(output) == pytest.approx(losses(straight), abs=1e-4)


def test_the_micro_batch_changes_nothing_but_memory(program, tiny_base, records, straight, tmp_path):
    output = train(program, tiny_base, records, tmp_path / "out", *TWO_EPOCHS, "--micro_batch", 7)
    assert losses(output) == pytest.approx(losses(straight), abs=1e-4)


def test_the_output_folder_holds_all_that_was_promised(straight):
    names = {path.name for path in straight.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "run_args.json", "session.log", "best"} <= names
    assert (straight / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not any(name.startswith(".saving") for name in names)
    args = json.loads((straight / "run_args.json").read_text(encoding="utf-8"))
    assert args["prompt_type"] == "instruct"
    assert args["flags"]["total_batch"] == 11
    assert args["plan"]["steps"] == args["step"] == 8
    for folder in ("checkpoint-3", "checkpoint-8", "best"):
        inner = json.loads((straight / folder / "run_args.json").read_text(encoding="utf-8"))
        assert inner["flags"] == args["flags"]
        assert (straight / folder / "adapter_model.safetensors").is_file()
    best = json.loads((straight / "best/run_args.json").read_text(encoding="utf-8"))
    assert best["eval_loss"] == min(losses(straight, "eval_loss"))


def test_evaluation_is_per_token_over_the_whole_set(straight, tiny_base, records):
    """Recomputed from the final adapter with plain forward passes, one record at a time."""
    import torch
    from torch.nn.functional import cross_entropy

    from vicuna.data.records import hold_out, read_records
    from vicuna.model import adapter
    from vicuna.model.base import check_base, load_base
    from vicuna.prompt.templates import encode

    base = check_base(str(tiny_base))
    model, _ = adapter.load_adapter(load_base(base, 32), straight, "base")
    model.eval()
    dialogues = read_records(records, "instruct").dialogues
    total = count = 0
    for i in hold_out(len(dialogues), 5)[1]:
        row = encode(base.tokenizer, "instruct", dialogues[i], 256)
        with torch.inference_mode():
            logits = model(torch.tensor([row.input_ids])).logits[0, :-1]
        targets = torch.tensor(row.labels[1:])
        total += cross_entropy(logits, targets, ignore_index=-100, reduction="sum").item()
        count += int((targets != -100).sum())
    assert losses(straight, "eval_loss")[-1] == pytest.approx(total / count, abs=1e-4)


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_every_precision_trains_on_this_cpu_and_answers(program, tiny_base, records, tmp_path, bits):
    more = [*TWO_EPOCHS, "--bits", bits, "--num_epoch", 1]
    output = train(program, tiny_base, records, tmp_path / "out", *more)
    assert losses(output)[-1] < losses(output)[0]
    asked = ["--model_path", tiny_base, "--lora_path", output, "--bits", bits, "--max_new_tokens", 12]
    done = program("generate.py", *asked, "--text", "你好")
    assert done.returncode == 0, done.stderr
    said = four_bit_warning(read_config(tiny_base), bits, torch.device("cpu"))  # of its rows of 32
    assert [line for line in done.stderr.splitlines() if "WARNING" in line] == [f"WARNING {said}"] * bool(said)
    again = program("generate.py", *asked, "--text", "你好")
    assert done.stdout == again.stdout
    assert "Loading" not in done.stdout


def test_plain_text_training_lowers_the_loss_of_a_real_poem_model(program, shared, tmp_path):
    texts = json.loads((shared / "lora/poem-zh-lora-generated/eval_texts.json").read_text(encoding="utf-8"))
    data = tmp_path / "poems.jsonl"
    data.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    base = shared / "models/poem-zh-750k-hf"
    more = ["--prompt_type", "text", "--cutoff_len", 128, "--total_batch", 20, "--num_epoch", 6, "--test_size", 20]
    output = train(program, base, data, tmp_path / "out", *more, "--eval_steps", 10, "--micro_batch", 20)
    found = losses(output, "eval_loss")
    assert found[-1] < found[0] - 0.05


def test_the_real_alpaca_records_train_on_the_tiny_base(program, shared, tiny_base, tmp_path):
    data = shared / "instruct/llama-factory/alpaca_zh_demo.json"
    more = ["--total_batch", 100, "--micro_batch", 20, "--num_epoch", 0.5, "--eval_steps", 5]
    output = train(program, tiny_base, data, tmp_path / "out", *more)
    assert losses(output)[-1] < losses(output)[0]
    args = json.loads((output / "run_args.json").read_text(encoding="utf-8"))
    assert args["plan"]["rows"] == 1000
    assert args["plan"]["rows_eval"] == 50


def test_wandb_records_without_a_network(program, tiny_base, records, tmp_path):
    env = {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    argv = ["--model_path", tiny_base, "--data_path", records, "--output_path", tmp_path / "out", *STEPS]
    done = program("finetune.py", *argv, "--num_epoch", 1, "--total_batch", 20, "--wandb", env=env, warm=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert list((tmp_path / "out/wandb").glob("offline-run-*/*.wandb"))


def test_a_diverged_run_stops_with_a_sentence(program, tiny_base, records, tmp_path):
    argv = ["--model_path", tiny_base, "--data_path", records, "--output_path", tmp_path / "out", *STEPS]
    done = program("finetune.py", *argv, "--learning_rate", 1e20, "--total_batch", 4, "--num_epoch", 3)
    assert done.returncode == 1
    assert "The run has diverged: lower --learning_rate" in done.stderr
    assert "records.jsonl line " in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("environment", "count", "left"),
    [
        ({"CUDA_VISIBLE_DEVICES": "2,3"}, 2, "2"),
        ({"CUDA_VISIBLE_DEVICES": "2"}, 1, "2"),
        ({"CUDA_VISIBLE_DEVICES": ""}, 1, ""),
        ({"CUDA_VISIBLE_DEVICES": "2,3", "LOCAL_RANK": "1"}, 1, "2,3"),
    ],
)
def test_a_plain_run_sees_the_first_gpu_only(environment, count, left):
    from vicuna.train.gpus import one_gpu_per_process

    assert one_gpu_per_process(environment) == count
    assert environment["CUDA_VISIBLE_DEVICES"] == left


def test_base_and_adapter_come_from_the_hubs_cache_by_their_ids(program, tiny_base, straight, tmp_path):
    """The hub's own cache layout, filled by hand: what a finished download leaves, read without a network."""
    for name, folder, files in (
        ("models--owner--base", tiny_base, ["config.json", "model.safetensors", "tokenizer.model"]),
        ("models--owner--adapter", straight, ["adapter_model.safetensors", "adapter_config.json", "run_args.json"]),
    ):
        snapshot = tmp_path / "hub" / name / "snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True)
        (tmp_path / "hub" / name / "refs").mkdir()
        (tmp_path / "hub" / name / "refs/main").write_text("a" * 40, encoding="utf-8")
        for file in files:
            shutil.copy(folder / file, snapshot / file)
    argv = ["--text", "你好", "--max_new_tokens", 8, "--bits", 32]
    here = program("generate.py", "--model_path", tiny_base, "--lora_path", straight, *argv)
    env = {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")}
    there = program("generate.py", "--model_path", "owner/base", "--lora_path", "owner/adapter", *argv, env=env)
    assert there.returncode == 0, there.stderr
    assert there.stdout == here.stdout


def test_use_local_decides_between_folder_and_hub(program, tiny_base, straight):
    argv = ["--model_path", tiny_base, "--text", "你好"]
    done = program("generate.py", *argv, "--lora_path", "owner/adapter", "--use_local", 1)
    assert "--lora_path owner/adapter does not exist here, and --use_local 1 forbids asking the hub" in done.stderr
    done = program("generate.py", *argv, "--lora_path", straight, "--use_local", 0)
    assert "is a folder here, but --use_local 0 means a hub id" in done.stderr
