"""A base cut in parts: DeepSpeed and FSDP2 give the losses of one process, and what can not be cut is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, TrainingArguments

from tests.train.runs import ROOT, STEPS, TWO_EPOCHS, losses, train
from vicuna.errors import UserError
from vicuna.model import adapter
from vicuna.model.adapter_names import ROWS
from vicuna.model.base import check_base, load_base
from vicuna.model.config import meta_model
from vicuna.model.flags import LoraFlags
from vicuna.model.new_rows import write_new_rows
from vicuna.train import sharding
from vicuna.train.flags import RunFlags

# The first run under DeepSpeed compiles an operator.
pytestmark = pytest.mark.timeout(600)

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.mark.parametrize(
    ("run", "bits", "device", "world_size", "message"),
    [
        ({"fsdp": True}, 8, GPU, 2, "--fsdp can not cut a base of 8 bits in parts; take --bits 16"),
        ({"fsdp": True}, 16, CPU, 2, "--fsdp needs NVIDIA GPUs, this run is on cpu"),
        ({"fsdp": True}, 16, GPU, 1, "--fsdp cuts the base over several processes, and this is one: torchrun"),
        ({"fsdp": True, "elastic": True}, 16, GPU, 2, "--elastic can not be had with --deepspeed or --fsdp"),
        ({"deepspeed": "README.md"}, 16, CPU, 2, "--deepspeed README.md can not be read as JSON"),
        ({"deepspeed": "config-sample/ds_zero3.json"}, 4, CPU, 2, "is ZeRO-3, which can not cut a base of 4 bits"),
    ],
)
def test_what_can_not_be_cut_is_refused(run, bits, device, world_size, message):
    if "deepspeed" in run:
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    with pytest.raises(UserError, match=message):
        sharding.check_sharding(RunFlags(**run), bits, device, world_size)


def test_two_ways_of_cutting_are_one_too_many():
    with pytest.raises(UserError, match="--fsdp and --deepspeed are two ways to cut a base in parts; give one of them"):
        RunFlags(fsdp=True, deepspeed="config-sample/ds_zero3.json")


def test_zero_2_takes_a_quantised_base_and_names_what_a_resumed_run_must_keep():
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    kept = sharding.check_sharding(RunFlags(deepspeed="config-sample/ds_zero2.json"), 4, CPU, 2)
    assert kept["zero_stage"] == 2
    assert len(kept["deepspeed_sha256"]) == 64


def test_the_settings_become_an_fsdp2_plugin_that_knows_the_decoder_block(tmp_path):
    with torch.device("meta"):
        model = meta_model(
            LlamaConfig(num_hidden_layers=2, hidden_size=32, intermediate_size=64, num_attention_heads=4)
        )
    settings = sharding.fsdp_config(model, RunFlags(fsdp=True))
    arguments = TrainingArguments(output_dir=tmp_path, fsdp=True, fsdp_config=settings, use_cpu=True)
    plugin = FullyShardedDataParallelPlugin(**arguments.fsdp_plugin_args)
    plugin.set_auto_wrap_policy(get_peft_model(model, LoraConfig(target_modules=["q_proj"])))
    assert plugin.fsdp_version == 2
    assert not plugin.activation_checkpointing  # accelerate's draws dropout anew when it recomputes
    assert plugin.reshard_after_forward is True
    assert plugin.auto_wrap_policy.keywords["transformer_layer_cls"] == {type(model.model.layers[0])}
    assert sharding.fsdp_config(model, RunFlags()) is None


PARTS = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.fsdp import fully_shard
from tests.train.test_sharding import two_steps, what_is_trained
from vicuna.model.adapter import gather_tensors
from vicuna.train.process_group import leave_process_group

dist.init_process_group("gloo")
model = what_is_trained(Path(sys.argv[1]), sys.argv[2])
for module in list(model.modules()):
    if type(module).__name__ == "LlamaDecoderLayer":
        fully_shard(module)
fully_shard(model)
cut = sum(type(p).__name__ == "DTensor" for p in model.parameters())
losses = two_steps(model, dist.get_rank(), 2)
weights = gather_tensors(model, keep=dist.get_rank() == 0)
if dist.get_rank() == 0:
    assert cut == len(list(model.parameters()))
    save_file({**weights, "losses": torch.tensor(losses)}, sys.argv[3])
else:
    assert weights == {}
leave_process_group()
"""


def what_is_trained(base_path: Path, kind: str) -> torch.nn.Module:
    base = check_base(str(base_path))
    model = load_base(base, 32)
    torch.manual_seed(0)
    if kind != "full":
        config, _, _ = adapter.plan_adapter(base, LoraFlags(train=kind, lora_dropout=0), None)
        model = adapter.new_adapter(model, config)
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def two_steps(model: torch.nn.Module, rank: int, world_size: int) -> list[float]:
    """Losses of two optimizer steps over four rows, shared out among the ranks."""
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.5)
    found = []
    for step in range(3):
        rows = torch.arange(4 * 12).view(4, 12) * 7 % 1000 + 5 + step
        mine = rows[rank::world_size]
        loss = model(input_ids=mine, labels=mine).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach() / world_size
        if world_size > 1:
            torch.distributed.all_reduce(total)
        found.append(total.item())
    return found


@pytest.mark.parametrize("kind", ["lora+embeddings", "full"])
def test_blocks_cut_by_fsdp2_learn_what_one_process_learns(program, tiny_base, tmp_path, kind):
    """FSDP2 on two CPU processes, without the Trainer, which does not run it on CPUs."""
    script = tmp_path / "parts.py"
    script.write_text(PARTS, encoding="utf-8")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    argv = [*launcher, script, tiny_base, kind, tmp_path / "parts.safetensors"]
    done = program(*argv, env={"PYTHONPATH": str(ROOT)}, warm=True)
    assert done.returncode == 0, done.stderr[-3000:]
    parts = load_file(tmp_path / "parts.safetensors")

    model = what_is_trained(tiny_base, kind)
    expected = two_steps(model, 0, 1)
    assert parts.pop("losses").tolist() == pytest.approx(expected, abs=1e-4)
    alone = adapter.gather_tensors(model)
    assert set(parts) == set(alone)
    assert all((tensor - alone[name]).abs().max() < 1e-4 for name, tensor in parts.items())


@pytest.fixture(scope="session")
def deepspeed(program, tiny_base, records, tmp_path_factory):
    """Run finetune.py under DeepSpeed on two CPU processes; what it wrote."""
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    if shutil.which("c++") is None:
        pytest.skip("DeepSpeed compiles its operators at first use, and there is no C++ compiler")

    def run(output: Path, config: str, *more: object) -> Path:
        argv = ["--model_path", tiny_base, "--data_path", records, "--output_path", output, *STEPS, *TWO_EPOCHS]
        argv += ["--save_steps", 3, "--deepspeed", ROOT / "config-sample" / config, *more]
        launcher = ["-m", "vicuna.train.launch", "--standalone", "--nproc_per_node=2"]
        done = program(*launcher, "finetune.py", *argv, env={"DS_ACCELERATOR": "cpu"}, warm=True, timeout=500)
        assert done.returncode == 0, done.stderr[-3000:]
        return output

    return run


@pytest.mark.parametrize("config", ["ds_zero2.json", "ds_zero3.json"])
def test_deepspeed_gives_the_losses_of_one_process_and_resumes_to_the_bit(
    deepspeed, program, tiny_base, straight, tmp_path, config
):
    output = deepspeed(tmp_path / "out", config)
    assert losses(output) == pytest.approx(losses(straight), abs=1e-4)
    assert losses(output, "eval_loss") == pytest.approx(losses(straight, "eval_loss"), abs=1e-4)
    asked = ["--model_path", tiny_base, "--lora_path", output, "--bits", 32, "--text", "你好", "--max_new_tokens", 4]
    assert program("generate.py", *asked).returncode == 0

    again = tmp_path / "again"
    shutil.copytree(output, again)
    shutil.rmtree(again / "checkpoint-8")
    (again / "adapter_model.safetensors").unlink()
    part = next((again / "checkpoint-6").glob("global_step6/*optim_states.pt"))
    part.write_bytes(part.read_bytes()[:-1])  # torn: passed over
    deepspeed(again, config, "--resume_from_checkpoint", "auto")
    log = (again / "session.log").read_text(encoding="utf-8")
    assert "checkpoint-3 at step 3: the data goes on where it stopped; checkpoint-6 is passed over" in log
    assert (again / "adapter_model.safetensors").read_bytes() == (output / "adapter_model.safetensors").read_bytes()
    assert losses(again) == losses(output)
    assert losses(again, "eval_loss") == losses(output, "eval_loss")


def test_every_weight_trains_under_zero_3(deepspeed, tmp_path):
    output = deepspeed(tmp_path / "out", "ds_zero3.json", "--train", "full", "--num_epoch", 1)
    assert losses(output)[-1] < losses(output)[0]
    args = json.loads((output / "run_args.json").read_text(encoding="utf-8"))
    assert args["flags"]["train"] == "full"
    load_base(check_base(str(output)), 32)


def test_new_rows_learn_under_zero_2_what_one_process_learns(deepspeed, program, tiny_base, records, tmp_path):
    """DeepSpeed gets the rows alone; they are put into the tables at each step."""
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    write_new_rows(base, range(1000, 1800))
    asked = ["--model_path", base, "--train", "lora+new_rows", "--num_epoch", 1]
    cut = deepspeed(tmp_path / "cut", "ds_zero2.json", *asked)
    alone = train(program, tiny_base, records, tmp_path / "alone", *TWO_EPOCHS, *asked)
    assert losses(cut) == pytest.approx(losses(alone), abs=1e-4)
    found, expected = (load_file(one / "adapter_model.safetensors") for one in (cut, alone))
    assert found.keys() == expected.keys()
    assert all((tensor - expected[name]).abs().max() < 1e-3 for name, tensor in found.items())
    before = load_file(base / "model.safetensors")["model.embed_tokens.weight"][1000:]
    (rows,) = [name for name in found if name.endswith(f"embed_tokens.{ROWS}")]
    assert (found[rows] - before).abs().max() > 0.01


def test_the_optimizer_that_was_asked_for_trains_under_deepspeed(deepspeed, program, tiny_base, records, tmp_path):
    """DeepSpeed takes its own Adam for any optimizer whose state waits in main memory, unless it is told not to."""
    asked = ["--optim", "sgd", "--num_epoch", 1]
    cut = deepspeed(tmp_path / "cut", "ds_zero2.json", *asked)
    alone = train(program, tiny_base, records, tmp_path / "alone", *TWO_EPOCHS, *asked)
    assert losses(cut) == pytest.approx(losses(alone), abs=1e-4)
