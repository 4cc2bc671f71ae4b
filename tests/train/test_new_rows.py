"""--train new_rows and lora+new_rows: of embeddings and head only the rows that were added, saved, merged, resumed."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.train.runs import TWO_EPOCHS, losses, train
from vicuna.model import adapter
from vicuna.model.base import check_base, load_base
from vicuna.model.config import meta_model
from vicuna.model.flags import LoraFlags
from vicuna.model.new_rows import NEW_ROWS
from vicuna.model.parameters import count_parameters
from vicuna.prompt.tokenizer import read_sentencepiece
from vicuna.vocabulary.flags import TextFlags
from vicuna.vocabulary.merging import merge_models
from vicuna.vocabulary.texts import Texts
from vicuna.vocabulary.training import train_sentencepiece

OLD = 1800
EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
ROWS = [
    f"base_model.model.{name.removesuffix('weight')}token_adapter.trainable_tokens_delta" for name in (EMBEDDINGS, HEAD)
]


@pytest.fixture(scope="module")
def larger(tiny_base, tmp_path_factory) -> Path:
    """The tiny base's tokenizer.model with a few hundred pieces behind."""
    base, _ = read_sentencepiece(tiny_base / "tokenizer.model")
    other = type(base).FromString(train_sentencepiece(list(Texts(TextFlags())), 2600))
    file = tmp_path_factory.mktemp("larger") / "tokenizer.model"
    file.write_bytes(merge_models(base, other).proto.SerializeToString())
    return file


@pytest.fixture(scope="module")
def bases(program, tiny_base, tied_base, larger, tmp_path_factory) -> dict[str, Path]:
    """The tiny base and the tied one, enlarged."""
    folders = {}
    for name, base in (("untied", tiny_base), ("tied", tied_base)):
        folders[name] = tmp_path_factory.mktemp("bases") / name
        argv = ("--model_path", base, "--tokenizer_path", larger, "--output_path", folders[name], "--init", "mean")
        done = program("tools/expand_vocabulary.py", *argv, timeout=120)
        assert done.returncode == 0, done.stderr
    return folders


@pytest.fixture(scope="module")
def runs(program, bases, records, tmp_path_factory):
    """One run of two epochs on a base with a --train, made when it is first asked for."""
    made: dict[tuple[str, str], Path] = {}

    def run(which: str, kind: str) -> Path:
        if (which, kind) not in made:
            output = tmp_path_factory.mktemp("rows") / "out"
            more = [*TWO_EPOCHS, "--save_steps", 3, "--train", kind]
            made[which, kind] = train(program, bases[which], records, output, *more)
        return made[which, kind]

    return run


def merged(program, base: Path, lora: Path, out: Path) -> Path:
    done = program("tools/merge_lora.py", "--model_path", base, "--lora_path", lora, "--out_path", out, timeout=120)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("which", ["untied", "tied"])
def test_only_new_rows_change_and_they_are_merged_as_they_were_trained(program, bases, runs, tmp_path, which):
    output = runs(which, "new_rows")
    base, saved = bases[which], load_file(output / "adapter_model.safetensors")
    before = load_file(base / "model.safetensors")
    size = len(before[EMBEDDINGS])

    assert losses(output)[-1] < losses(output)[0]
    assert sorted(saved) == sorted(ROWS[: 1 if which == "tied" else 2])
    assert {tuple(tensor.shape) for tensor in saved.values()} == {(size - OLD, 32)}

    after = load_file(merged(program, base, output, tmp_path / "merged") / "model.safetensors")

    assert before.keys() == after.keys()
    for name, tensor in before.items():
        rows = OLD if name in (EMBEDDINGS, HEAD) else len(tensor)
        assert torch.equal(after[name][:rows], tensor[:rows])
    for name, rows in zip((EMBEDDINGS, HEAD), ROWS, strict=True):
        if rows in saved:
            assert torch.equal(after[name][OLD:], saved[rows])
            assert not torch.equal(after[name][OLD:], before[name][OLD:])
    assert (tmp_path / "merged" / NEW_ROWS).read_bytes() == (base / NEW_ROWS).read_bytes()


@pytest.mark.parametrize("which", ["untied", "tied"])
def test_matrices_and_new_rows_together_answer_as_they_do_merged(program, bases, runs, tmp_path, which):
    output, base = runs(which, "lora+new_rows"), check_base(str(bases[which]))
    folder = merged(program, bases[which], output, tmp_path / "merged")
    ids = torch.tensor([[1, OLD, 300, OLD + 7, 500]])

    with torch.no_grad():
        expected = adapter.load_adapter(load_base(base, 32), output, which)[0].eval()(input_ids=ids).logits
        whole = AutoModelForCausalLM.from_pretrained(folder)
        found = whole.eval()(ids).logits

    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    tied = whole.get_output_embeddings().weight is whole.get_input_embeddings().weight
    assert tied == (which == "tied")
    assert any(".lora_A." in name for name in load_file(output / "adapter_model.safetensors"))


def test_an_adapter_of_few_rows_takes_kilobytes_where_the_tables_take_more(bases, tmp_path):
    base = Path(shutil.copytree(bases["untied"], tmp_path / "few"))
    (base / NEW_ROWS).write_text(f'{{"rows": [[{OLD}, {OLD + 5}]]}}', encoding="utf-8")
    model = adapter.new_adapter(load_base(check_base(str(base)), 32), planned(base, "new_rows"))

    adapter.save_adapter(model, tmp_path / "adapter")

    assert sum(file.stat().st_size for file in (tmp_path / "adapter").iterdir()) < 4096
    assert sum(load_file(base / "model.safetensors")[name].nbytes for name in (EMBEDDINGS, HEAD)) > 400_000


def planned(base: Path, kind: str):
    return adapter.plan_adapter(check_base(str(base)), LoraFlags(train=kind, lora_dropout=0), None)[0]


def test_peft_leaves_an_untied_head_alone_unless_it_is_named(bases):
    """Why the plan names lm_head: a list of rows is taken for the embeddings', on a tied base for both."""
    changed = {}
    for which, folder in bases.items():
        config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], trainable_token_indices=[OLD, OLD + 1])
        model = get_peft_model(load_base(check_base(str(folder)), 32), config)
        with torch.no_grad():
            for name, one in model.named_parameters():
                if "trainable_tokens_delta" in name:
                    one.fill_(9)
        whole = model.merge_and_unload()
        tables = (whole.get_input_embeddings(), whole.get_output_embeddings())
        changed[which] = [bool((table.weight[OLD] == 9).all()) for table in tables]

    assert changed == {"untied": [True, False], "tied": [True, True]}


@pytest.mark.parametrize("which", ["untied", "tied"])
@pytest.mark.parametrize("kind", ["new_rows", "lora+new_rows"])
def test_the_plan_counts_what_is_trained(bases, which, kind):
    base = check_base(str(bases[which]))
    config = planned(bases[which], kind)
    model = adapter.new_adapter(load_base(base, 32), config)
    counted = count_parameters(meta_model(base.config), planned(bases[which], kind))
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}

    assert counted.trainable == sum(one.numel() for one in trained.values())
    assert counted.rows == base.config.vocab_size - OLD
    assert counted.row_modules == (("embed_tokens",) if which == "tied" else ("embed_tokens", "lm_head"))
    assert all(one.dtype is torch.float32 for one in trained.values())
    assert len(trained) == (1 if which == "tied" else 2) + 8 * (kind == "lora+new_rows")


def test_the_plan_says_which_rows(program, bases, records):
    argv = ["--model_path", bases["untied"], "--data_path", records, "--plan_only", "--train", "new_rows"]
    count = check_base(str(bases["untied"])).config.vocab_size - OLD

    plan = program("finetune.py", *argv).stdout

    assert f"adapter   {count:,} new rows of embed_tokens and lm_head, no LoRA: {2 * 32 * count:,} trainable" in plan


@pytest.mark.parametrize("bits", [4, 8])
def test_new_rows_are_float32_and_learn_on_a_quantised_base(bases, bits):
    from peft import prepare_model_for_kbit_training

    loaded = prepare_model_for_kbit_training(load_base(check_base(str(bases["untied"])), bits), False)
    model = adapter.new_adapter(loaded, planned(bases["untied"], "new_rows"))
    ids = torch.tensor([[1, OLD, OLD + 1, 700]])

    model(input_ids=ids, labels=ids).loss.backward()

    grads = {name: one.grad for name, one in model.named_parameters() if one.requires_grad}
    assert len(grads) == 2
    assert all(grad.dtype is torch.float32 and grad.isfinite().all() and grad.any() for grad in grads.values())


@pytest.mark.parametrize("kind", ["new_rows", "lora+new_rows"])
def test_a_resumed_run_ends_as_the_straight_one(program, bases, records, runs, tmp_path, kind):
    straight = runs("untied", kind)
    again = Path(shutil.copytree(straight, tmp_path / "again"))
    shutil.rmtree(again / "checkpoint-8")
    (again / "adapter_model.safetensors").unlink()

    train(program, bases["untied"], records, again, *TWO_EPOCHS, "--train", kind, "--resume_from_checkpoint", "auto")

    assert (again / "adapter_model.safetensors").read_bytes() == (straight / "adapter_model.safetensors").read_bytes()
    assert losses(again) == losses(straight)


def test_a_run_starts_from_the_rows_that_another_trained(program, bases, records, runs, tmp_path):
    more = ["--train", "lora+new_rows", "--num_epoch", 1, "--total_batch", 20]
    start = ["--resume_from_checkpoint", runs("untied", "lora+new_rows") / "best"]

    output = train(program, bases["untied"], records, tmp_path / "out", *more, *start)

    assert "starts from" in (output / "session.log").read_text(encoding="utf-8")
    assert losses(output)[0] < losses(runs("untied", "lora+new_rows"))[0]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, r"has no new_rows.json, which says which rows are new: enlarge the base with tools/expand_vocab"),
        ('{"rows": [[1800, 99999]]}', r"names rows that the base, of \d+, does not have"),
        ('{"row": 1}', r"new_rows.json does not say which rows are new"),
    ],
)
def test_a_base_that_does_not_say_which_rows_are_new_is_refused(program, bases, records, tmp_path, record, message):
    base = Path(shutil.copytree(bases["untied"], tmp_path / "base"))
    if record is None:
        (base / NEW_ROWS).unlink()
    else:
        (base / NEW_ROWS).write_text(record, encoding="utf-8")

    done = program(*("finetune.py", "--model_path", base, "--data_path", records, "--plan_only", "--train", "new_rows"))

    assert done.returncode == 1
    assert re.search(message, done.stderr), done.stderr


def test_tables_that_are_cut_in_parts_are_refused(tmp_path):
    from vicuna.errors import UserError
    from vicuna.train.flags import RunFlags
    from vicuna.train.sharding import check_sharding

    pytest.importorskip("deepspeed")
    file = tmp_path / "zero3.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 3}}), encoding="utf-8")
    with pytest.raises(UserError, match="--train new_rows puts rows into whole tables at each step, and --deepspeed"):
        check_sharding(RunFlags(deepspeed=str(file)), 16, torch.device("cpu"), 2, "new_rows")
