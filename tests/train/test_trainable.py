"""--train: every weight, the embeddings, or both kinds together; saved, resumed, started from, and refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft.utils.constants import DUMMY_TARGET_MODULES
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from tests.train.runs import STEPS, TWO_EPOCHS, losses, train
from vicuna.errors import UserError
from vicuna.model import adapter
from vicuna.model.adapter_files import check_compatible, read_adapter_tensors
from vicuna.model.base import check_base, load_base
from vicuna.model.config import meta_model
from vicuna.model.flags import LoraFlags
from vicuna.model.found import adapter_file
from vicuna.model.parameters import count_parameters
from vicuna.train import trainable
from vicuna.train.checkpoint import seal_checkpoint
from vicuna.train.flags import RunFlags

KINDS = ["full", "embeddings", "embeddings+head", "lora+embeddings"]
IDS = torch.tensor([[1, 300, 500, 700, 900]])
EMBEDDINGS = {"base_model.model.model.embed_tokens.weight", "base_model.model.lm_head.weight"}


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits.float()


def weights_of(folder: Path) -> bytes:
    return next(folder.glob("*model.safetensors")).read_bytes()


@pytest.fixture(scope="session")
def runs(program, tiny_base, records, tmp_path_factory):
    """One run of two epochs for each kind, made when it is first asked for."""
    made: dict[str, Path] = {}

    def run(kind: str) -> Path:
        if kind not in made:
            output = tmp_path_factory.mktemp("kind") / "out"
            more = [*TWO_EPOCHS, "--save_steps", 3, "--train", kind]
            made[kind] = train(program, tiny_base, records, output, *more)
        return made[kind]

    return run


@pytest.fixture(scope="session")
def tied_base(tiny_base, tmp_path_factory) -> Path:
    """The tiny base with one weight for embeddings and head; do not write to it."""
    folder = Path(shutil.copytree(tiny_base, tmp_path_factory.mktemp("tied") / "tied"))
    config = AutoConfig.from_pretrained(folder)
    config.tie_word_embeddings = True
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_ends_as_the_straight_one(program, tiny_base, records, runs, tmp_path, kind):
    straight = runs(kind)
    assert losses(straight)[-1] < losses(straight)[0] - 0.4
    again = Path(shutil.copytree(straight, tmp_path / "again"))
    shutil.rmtree(again / "checkpoint-8")
    next(again.glob("*model.safetensors")).unlink()
    train(program, tiny_base, records, again, *TWO_EPOCHS, "--train", kind, "--resume_from_checkpoint", "auto")
    assert "resumes" in (again / "session.log").read_text(encoding="utf-8")
    assert weights_of(again) == weights_of(straight)
    assert losses(again) == losses(straight)


def test_what_was_begun_when_embeddings_meant_the_head_too_goes_on(program, tiny_base, records, runs, tmp_path):
    """run_args.json of then calls both tables `embeddings`, and does not say what is trained."""
    straight = runs("embeddings+head")
    again = Path(shutil.copytree(straight, tmp_path / "again"))
    shutil.rmtree(again / "checkpoint-8")
    for file in [again / "run_args.json", *again.glob("checkpoint-*/run_args.json")]:
        said = json.loads(file.read_text(encoding="utf-8"))
        del said["trains"]
        said["flags"]["train"] = "embeddings"
        file.write_text(json.dumps(said), encoding="utf-8")
        if file.parent != again:
            seal_checkpoint(file.parent)
    folder = again / "checkpoint-6"
    where = ["--model_path", tiny_base, "--data_path", records, "--output_path", again, *STEPS, *TWO_EPOCHS]
    done = program("finetune.py", *where, "--train", "embeddings", "--resume_from_checkpoint", folder)
    assert "was begun with --train embeddings+head, this run has embeddings: a resumed run must keep it" in done.stderr
    more = [*TWO_EPOCHS, "--train", "embeddings+head", "--resume_from_checkpoint", folder]
    train(program, tiny_base, records, again, *more)
    assert weights_of(again) == weights_of(straight)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("folder", [".", "best", "checkpoint-3"])
def test_every_folder_of_a_run_answers(tiny_base, runs, kind, folder):
    found = runs(kind) / folder
    assert json.loads((runs(kind) / "run_args.json").read_text(encoding="utf-8"))["flags"]["train"] == kind
    if kind == "full":
        model = load_base(check_base(str(found)), 32)
        assert folder == "checkpoint-3" or model.config.use_cache
    else:
        model, warning = adapter.load_adapter(load_base(check_base(str(tiny_base)), 32), found, "tiny")
        assert warning == ""
    assert not torch.equal(logits(model), logits(load_base(check_base(str(tiny_base)), 32)))


@pytest.mark.parametrize("kind", ["full", "embeddings+head"])
def test_generate_takes_what_was_trained(program, tiny_base, runs, kind):
    output = runs(kind)
    where = ["--model_path", output] if kind == "full" else ["--model_path", tiny_base, "--lora_path", output]
    done = program("generate.py", *where, "--bits", 32, "--text", "你好", "--max_new_tokens", 6)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_a_whole_model_is_asked_in_the_template_it_learnt(tiny_base, tmp_path):
    from vicuna.answer.flags import ServeFlags
    from vicuna.answer.loading import load_assistant
    from vicuna.model.flags import ModelFlags

    folder = Path(shutil.copytree(tiny_base, tmp_path / "model"))
    (folder / "run_args.json").write_text('{"prompt_type": "text"}', encoding="utf-8")
    flags = ModelFlags(model_path=str(folder), bits=32)
    assert load_assistant(flags, ServeFlags()).first.prompt_type == "text"
    asked = load_assistant(flags, ServeFlags(prompt_type="instruct"))
    assert asked.warnings == ["the model in model was trained with --prompt_type text; instruct gives worse answers."]


@pytest.mark.parametrize("kind", ["full", "lora+embeddings"])
def test_a_run_starts_from_what_another_trained(program, tiny_base, records, runs, tmp_path, kind):
    more = ["--train", kind, "--resume_from_checkpoint", runs(kind) / "best", "--num_epoch", 1, "--total_batch", 20]
    output = train(program, tiny_base, records, tmp_path / "out", *more)
    assert "starts from" in (output / "session.log").read_text(encoding="utf-8")
    assert losses(output)[0] < losses(runs(kind))[0] - 0.5


def test_the_plan_says_what_is_trained_and_what_it_weighs(program, tiny_base, records):
    argv = ["--model_path", tiny_base, "--data_path", records, "--plan_only", "--train"]
    full = program("finetune.py", *argv, "full", "--bits", 32).stdout
    assert "adapter   none, every weight is trained in float32: 135,840 trainable (100.00%)" in full
    assert "weights with gradients and optimizer 2.1 MiB; activations on top" in full  # 135,840 x 16 bytes
    both = program("finetune.py", *argv, "lora+embeddings").stdout
    short = " (--train lora+embeddings is short for lora+embeddings+head)"
    # Of all there are what the base has, and the matrices: PEFT counts the tables twice.
    trained = "117,248 trainable (85.03%)"  # of 135,840 + 2,048
    assert f"r 8, alpha 16 on q_proj v_proj, and embed_tokens lm_head whole{short}: {trained}" in both
    assert "adapter with gradients and optimizer 1.8 MiB" in both  # 117,248 x 16 bytes
    table = program("finetune.py", *argv, "embeddings").stdout
    assert "embed_tokens whole, no LoRA: 57,600 trainable (42.40%)" in table


def planned(base, kind: str, folder: Path | None = None):
    return adapter.plan_adapter(base, LoraFlags(train=kind, lora_dropout=0), folder)[0]


@pytest.mark.parametrize("kind", ["embeddings", "embeddings+head", "lora+embeddings+head"])
def test_a_tied_head_stays_tied(tied_base, tmp_path, kind):
    base = check_base(str(tied_base))
    model = adapter.new_adapter(load_base(base, 32), planned(base, kind))
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    assert head.weight is embeddings.weight
    embeddings.weight.data.mul_(1.5)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.3)
    adapter.save_adapter(model, tmp_path)
    assert set(load_file(tmp_path / "adapter_model.safetensors")) >= EMBEDDINGS
    again, _ = adapter.load_adapter(load_base(base, 32), tmp_path, "tied", trainable=True)
    assert torch.equal(logits(again), logits(model))
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    counted = count_parameters(meta_model(base.config), planned(base, kind))
    assert counted.trainable == sum(one.numel() for one in model.parameters() if one.requires_grad)
    assert counted.whole_modules == ("embed_tokens",)


def test_embeddings_alone_have_no_matrices(tiny_base):
    base = check_base(str(tiny_base))
    names = ["base_model.model.model.embed_tokens.modules_to_save.default.weight"]
    for kind in ("embeddings", "embeddings+head"):
        config = planned(base, kind)
        assert config.target_modules == DUMMY_TARGET_MODULES
        model = adapter.new_adapter(load_base(base, 32), config)
        assert list(adapter.gather_tensors(model)) == names
        names.append("base_model.model.lm_head.modules_to_save.default.weight")


@pytest.mark.parametrize("bits", [4, 8])
def test_embeddings_are_float32_and_learn_on_a_quantised_base(tiny_base, bits):
    from peft import prepare_model_for_kbit_training

    base = check_base(str(tiny_base))
    loaded = prepare_model_for_kbit_training(load_base(base, bits), False)
    model = adapter.new_adapter(loaded, planned(base, "lora+embeddings"))
    model(input_ids=IDS, labels=IDS).loss.backward()
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    assert all(one.dtype is torch.float32 for one in trained.values())
    assert all(one.grad is not None and one.grad.isfinite().all() for one in trained.values())


def test_embeddings_over_a_bfloat16_base_train_in_float32_and_answer_in_bfloat16(tiny_base, tmp_path):
    base = check_base(str(tiny_base))
    half = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.bfloat16)
    model = adapter.new_adapter(half, planned(base, "embeddings"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(input_ids=IDS, labels=IDS).loss.backward()
    assert model.get_input_embeddings().weight.dtype is torch.float32
    assert model.get_input_embeddings().weight.grad.any()
    adapter.save_adapter(model, tmp_path)
    half = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.bfloat16)
    logits(adapter.load_adapter(half, tmp_path, "tiny")[0])  # no clash of dtypes without autocast


def test_a_whole_model_replaces_an_earlier_one_of_other_files(tiny_base, tmp_path):
    """Parts of a former model, or its single file, would be loaded in the place of the new one."""
    model = load_base(check_base(str(tiny_base)), 32)
    for name in ("model-00001-of-00003.safetensors", trainable.INDEX_FILE):
        (tmp_path / name).write_bytes(b"{}")
    trainable.save_model(model, tmp_path, adapter.gather_tensors(model), tiny_base)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        *("config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer.model", "tokenizer_config.json"),
    ]
    assert torch.equal(logits(load_base(check_base(str(tmp_path)), 32)), logits(model))


def test_a_whole_model_that_diverged_is_not_saved(tiny_base, tmp_path):
    model = load_base(check_base(str(tiny_base)), 32)
    model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(RuntimeError, match=r"model.norm.weight has values that are not finite: the run has diverged"):
        trainable.save_model(model, tmp_path, adapter.gather_tensors(model), tiny_base)
    assert not list(tmp_path.iterdir())


def test_what_can_not_be_trained_is_refused(tiny_base, tmp_path, runs):
    def refused(message: str, train: str, bits: int, dtype: torch.dtype, **run: str) -> None:
        with pytest.raises(UserError, match=message):
            trainable.check_train_flag(tiny_base, train, bits, dtype, RunFlags(**{"output_path": str(tmp_path), **run}))

    refused("which 8 bits can not hold: pass --bits 16 or --bits 32", "full", 8, torch.bfloat16)
    refused("computes in float16 here, which loses small updates: pass --deepspeed", "full", 16, torch.float16)
    trainable.check_train_flag(
        tiny_base, "full", 16, torch.float16, RunFlags(output_path=str(tmp_path), deepspeed="x.json")
    )
    refused("is the base itself", "full", 32, torch.float32, output_path=str(tiny_base))
    refused("holds a whole model, beside which an adapter", "lora", 8, torch.float32, output_path=str(runs("full")))
    embeddings = str(runs("embeddings"))
    refused("holds an adapter, which would be loaded on top", "full", 32, torch.float32, output_path=embeddings)


def test_what_can_not_be_started_from_is_refused(tiny_base, runs, tmp_path):
    base = check_base(str(tiny_base))

    def refused(message: str, train: str, folder: Path) -> None:
        with pytest.raises(UserError, match=message):
            trainable.plan_trainable(base, LoraFlags(train=train), folder, 32)

    refused("was made by --train embeddings, this run has --train lora: pass --train emb", "lora", runs("embeddings"))
    more = r"was made by --train embeddings\+head, this run has --train embeddings: pass --train embeddings\+head"
    refused(more, "embeddings", runs("embeddings+head"))
    refused(r"holds an adapter.*pass --train lora\+embeddings\+head, or", "full", runs("lora+embeddings"))
    refused("has no config.json; expected a whole model", "full", tmp_path)
    refused("has no adapter: expected one of", "lora", runs("full"))


def test_embeddings_of_another_vocabulary_are_refused(tiny_base, runs):
    config = AutoConfig.from_pretrained(tiny_base)
    config.vocab_size += 8
    tensors = read_adapter_tensors(adapter_file(runs("embeddings")))
    with pytest.raises(UserError, match=r"of \(1800, 32\), but in other it is \(1808, 32\): use the base it was"):
        check_compatible(tensors, meta_model(config), "other")


@pytest.mark.parametrize(("train", "deepspeed", "bits"), [("full", None, 32), ("full", "x", 16), ("lora", None, 16)])
def test_trained_weights_are_kept_in_float32(train, deepspeed, bits):
    assert trainable.weight_bits(train, 16, deepspeed) == bits


def test_resuming_as_another_kind_is_refused(program, tiny_base, records, runs, tmp_path):
    good = ["--model_path", tiny_base, "--data_path", records, "--output_path", tmp_path / "out", *STEPS, *TWO_EPOCHS]
    done = program("finetune.py", *good, "--resume_from_checkpoint", runs("full") / "checkpoint-6")
    assert done.returncode == 1
    assert "was begun with --train full, this run has lora" in done.stderr
