"""Going on with a schedule on other data, and with the checkpoints of 2023."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from vicuna.args import parse
from vicuna.errors import UserError
from vicuna.model import adapter
from vicuna.model.adapter_files import read_adapter_tensors
from vicuna.model.base import check_base, load_base
from vicuna.train.flags import RunFlags
from vicuna.train.resume import starting_point
from vicuna.train.schedule import read_schedule, resumable_checkpoint

FLAG = "--continue_schedule"


@pytest.fixture
def published(shared) -> Path:
    """What is left of Chinese-Vicuna's checkpoint-5800: everything but weights and optimizer."""
    return shared / "lora/chinese-vicuna-7b-partial/checkpoint-5800"


@pytest.fixture(scope="session")
def poems(shared, tmp_path_factory) -> Path:
    texts = json.loads((shared / "lora/poem-zh-lora-generated/eval_texts.json").read_text(encoding="utf-8"))
    file = tmp_path_factory.mktemp("poems") / "poems.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:14]), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def old_checkpoint(shared, tmp_path_factory) -> Path:
    """A checkpoint as of 2023, with the loss scaler of a GPU beside it."""
    folder = tmp_path_factory.mktemp("old") / "checkpoint-100"
    shutil.copytree(shared / "lora/poem-zh-lora-generated/r8-qv/checkpoint-100", folder)
    shutil.copy(shared / "lora/chinese-vicuna-7b-partial/checkpoint-5800/scaler.pt", folder)
    folder.chmod(0o755)
    return folder


def test_the_published_checkpoint_is_read_and_refused_for_its_missing_files(published):
    schedule = read_schedule(published, FLAG)
    assert str(schedule) == "step 5800, max_steps 17298, learning rate 2.0057e-4"
    assert schedule.learning_rate == pytest.approx(2.0056983e-4, rel=1e-7)
    assert schedule.warmup == 100
    assert "training_args.bin" in schedule.unreadable
    assert "rng_state_0.pth" in schedule.unreadable
    expected = (
        r"step 5800, max_steps 17298, learning rate 2.0057e-4\) can not go on: pytorch_model.bin and optimizer.pt"
    )
    with pytest.raises(UserError, match=expected):
        starting_point(RunFlags(continue_schedule=str(published)), {})


def test_a_schedule_of_our_own_keeps_its_kind_and_its_warm_up(old_checkpoint, tmp_path):
    folder = Path(shutil.copytree(old_checkpoint, tmp_path / "checkpoint-100"))
    known = {"flags": {"lr_scheduler": "cosine"}, "plan": {"warmup_steps": 7}}
    (folder / "run_args.json").write_text(json.dumps(known), encoding="utf-8")
    inherited = starting_point(RunFlags(continue_schedule=str(folder), warmup_ratio=0.5), {}).inherited
    assert (inherited["lr_scheduler"], inherited["warmup_steps"], inherited["warmup_ratio"]) == ("cosine", 7, None)
    (folder / "run_args.json").unlink()
    asked = RunFlags(continue_schedule=str(folder), lr_scheduler="cosine", warmup_steps=9)
    assert "warmup_steps" not in starting_point(asked, {}).inherited  # it can be worked out of a linear one alone


def test_a_foreign_checkpoint_is_not_resumed_by_deepspeed(old_checkpoint):
    asked = RunFlags(resume_from_checkpoint=str(old_checkpoint), deepspeed="config-sample/ds_zero2.json")
    with pytest.raises(UserError, match="can not be resumed with --deepspeed: drop it, or start from its adapter"):
        starting_point(asked, {})


def flags(shared: Path, data: Path, output: Path) -> list[object]:
    words = ["--model_path", shared / "models/poem-zh-750k-hf", "--bits", 32, "--lora_dropout", 0]
    words += ["--data_path", data, "--prompt_type", "text", "--cutoff_len", 128, "--test_size", 2, "--eval_steps", 40]
    return [*words, "--total_batch", 4, "--output_path", output, "--save_steps", 1, "--save_total_limit", 200]


@pytest.fixture(scope="session")
def continued(program, shared, poems, old_checkpoint, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("continued") / "out"
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in old_checkpoint.iterdir()}
    done = program("finetune.py", *flags(shared, poems, output), FLAG, old_checkpoint)
    assert done.returncode == 0, done.stderr[-2000:]
    after = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in old_checkpoint.iterdir()}
    assert after == before
    assert "at step 100 of 200; the new data from its beginning" in done.stderr
    assert "not read, because only a pickle could: rng_state.pth" in done.stderr
    assert "200, of which 100 are done and the others pass 33.3 times over this data" in done.stderr
    return output


def steps(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "steps.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_schedule_goes_on_at_the_next_step_with_the_same_learning_rate(continued):
    trained = [entry for entry in steps(continued) if "loss" in entry]
    assert [entry["step"] for entry in trained] == list(range(101, 201))
    assert trained[0]["learning_rate"] == pytest.approx(1.6666667e-3)
    # 0.003 * (200 - s) / (200 - 20), the original's rule, to the end
    assert trained[-1]["learning_rate"] == pytest.approx(0.003 / 180)
    epoch = [record for entry in trained[:3] for record in entry["records"]]
    assert sorted(epoch) == sorted(set(epoch))
    assert len(epoch) == 12  # the new data from its beginning


def test_the_optimizer_goes_on_too(continued, shared, old_checkpoint, poems):
    """The first step, made again by hand with the moments of the file."""
    from vicuna.data.records import read_records
    from vicuna.prompt.templates import encode

    base = check_base(str(shared / "models/poem-zh-750k-hf"))
    model, _ = adapter.load_adapter(load_base(base, 32), old_checkpoint, "base", trainable=True)
    model.eval()
    dialogues = read_records(poems, "text").dialogues
    total, count = 0.0, 0
    for record in steps(continued)[0]["records"]:
        ids = torch.tensor([encode(base.tokenizer, "text", dialogues[record], 128).input_ids])
        logits = model(ids).logits[0, :-1]
        total = total + torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
        count += ids.shape[1] - 1
    (total / count).backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer = torch.optim.AdamW(trained, lr=0.003)
    state = torch.load(old_checkpoint / "optimizer.pt", weights_only=True)
    state["param_groups"] = state["param_groups"][:1]
    optimizer.load_state_dict(state)
    optimizer.step()
    names = [name.replace(".default.", ".") for name, value in model.named_parameters() if value.requires_grad]
    written = read_adapter_tensors(continued / "checkpoint-101/adapter_model.safetensors")
    assert total.item() / count == pytest.approx(steps(continued)[0]["loss"], rel=1e-5)
    for name, parameter in zip(names, trained, strict=True):
        assert torch.allclose(written[name], parameter, atol=1e-6), name


def test_a_continued_run_is_resumed_bit_by_bit_by_its_command_without_the_flag(program, shared, poems, continued):
    output = continued.parent / "resumed"
    more = ["--resume_from_checkpoint", continued / "checkpoint-170"]
    done = program("finetune.py", *flags(shared, poems, output), *more)
    assert done.returncode == 0, done.stderr[-2000:]
    assert steps(output) == steps(continued)
    name = "adapter_model.safetensors"
    assert (output / name).read_bytes() == (continued / name).read_bytes()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--num_epoch", 80], "learning rate 1.6667e-3 before the seam, 1.9091e-3 after it"),  # 240 steps
        (["--resume_from_checkpoint"], "goes on from the foreign checkpoint"),
        (["--resume_from_checkpoint"], "where its steps would be in this program's order"),
    ],
)
def test_the_plan_says_how_it_goes_on(program, shared, poems, old_checkpoint, tmp_path, more, said):
    how = [] if more[-1] == "--resume_from_checkpoint" else [FLAG]
    done = program("finetune.py", *flags(shared, poems, tmp_path), *more, *how, old_checkpoint, "--plan_only")
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


def test_the_end_of_a_schedule_is_refused(program, shared, poems, tmp_path):
    end = shared / "lora/poem-zh-lora-generated/r8-qv/checkpoint-200"
    done = program("finetune.py", *flags(shared, poems, tmp_path), FLAG, end, "--plan_only")
    assert done.returncode == 1
    assert "ends at step 200, and 200 are done: raise --num_epoch above 3" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--resume_from_checkpoint", "auto"], "goes on with other data, --resume_from_checkpoint with the same"),
        (["--deepspeed"], "--continue_schedule does not work with --deepspeed"),
    ],
)
def test_contradictions_are_refused(capsys, more, message):
    with pytest.raises(SystemExit):
        parse("", RunFlags, argv=[FLAG, "somewhere/checkpoint-1", *more])
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no trainer_state.json and no scheduler.pt; expected a checkpoint"):
        read_schedule(tmp_path, FLAG)


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_a_pickle_is_never_executed(shared, old_checkpoint, tmp_path):
    folder, trap = tmp_path / "checkpoint-100", tmp_path / "trap"
    shutil.copytree(old_checkpoint, folder)
    for name in ("optimizer.pt", "rng_state.pth"):
        (folder / name).unlink()
        torch.save(Evil(trap), folder / name)
    schedule = read_schedule(folder, FLAG)
    assert schedule.unreadable == ["rng_state.pth"]
    base = check_base(str(shared / "models/poem-zh-750k-hf"))
    model, _ = adapter.load_adapter(load_base(base, 32), folder, "base", trainable=True)
    with (
        pytest.raises(UserError, match=r"optimizer.pt can not be read as plain tensors"),
        resumable_checkpoint(schedule, None, model, 1e-3, RunFlags(), False),
    ):
        pass
    assert not trap.exists()


def test_moments_find_their_tensors_though_the_order_was_another(tiny_base, tmp_path):
    """In the LLaMA of 2023 down_proj came before up_proj."""
    from peft import LoraConfig, get_peft_model

    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "up_proj"]
    model = get_peft_model(load_base(check_base(str(tiny_base)), 32), LoraConfig(r=4, target_modules=names))
    torch.nn.init.normal_(next(p for name, p in model.named_parameters() if "lora_B" in name))
    tensors = {name.replace(".default.", "."): p.data for name, p in model.named_parameters() if p.requires_grad}

    def place(name: str) -> tuple:
        layer, module = int(name.split(".layers.")[1].split(".")[0]), name.split(".")[-3]
        return layer, names.index(module), "lora_B" in name

    old = sorted(tensors, key=place)
    assert old != list(tensors)
    folder = tmp_path / "checkpoint-7"
    folder.mkdir()
    torch.save({name: tensors[name] for name in old}, folder / "pytorch_model.bin")
    moments = {i: {"step": torch.tensor(7.0), "exp_avg": torch.full_like(tensors[n], i)} for i, n in enumerate(old)}
    torch.save({"state": moments, "param_groups": [{"lr": 1e-3, "params": list(moments)}]}, folder / "optimizer.pt")
    rates = {"_last_lr": [1e-3], "base_lrs": [2e-3], "last_epoch": 7}
    torch.save(rates, folder / "scheduler.pt")
    (folder / "trainer_state.json").write_text('{"global_step": 7, "max_steps": 14}', encoding="utf-8")
    with resumable_checkpoint(read_schedule(folder, FLAG), None, model, 1e-3, RunFlags(), False) as today:
        state = torch.load(today / "optimizer.pt", weights_only=True)["state"]
    for i, name in enumerate(tensors):
        assert state[i]["exp_avg"].shape == tensors[name].shape
        assert state[i]["exp_avg"].unique().tolist() == [old.index(name)]


def test_an_optimizer_of_another_adapter_or_kind_is_refused(shared, old_checkpoint):
    base = check_base(str(shared / "models/poem-zh-750k-hf"))
    schedule = read_schedule(old_checkpoint, FLAG)
    model, _ = adapter.load_adapter(load_base(base, 32), old_checkpoint, "base", trainable=True)
    with (
        pytest.raises(UserError, match=r"is of the kind AdamW, which --optim adamw_8bit can not go on with"),
        resumable_checkpoint(schedule, None, model, 1e-3, RunFlags(optim="adamw_8bit"), False),
    ):
        pass
    next(p for p in model.parameters() if p.requires_grad).requires_grad = False
    with (
        pytest.raises(UserError, match=r"holds the state of 20 tensors, not that of this adapter's 19"),
        resumable_checkpoint(schedule, None, model, 1e-3, RunFlags(), False),
    ):
        pass
