"""Runs on packed documents: attention within a document, the same rows whatever happens, and what is said of them."""

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from tests.train.runs import losses, train
from vicuna.data.examples import tokenise
from vicuna.data.records import read_records
from vicuna.model.base import check_base, load_base
from vicuna.train.batches import collate
from vicuna.train.loss import token_losses

PACKED = [
    "--prompt_type",
    "text",
    "--pack",
    "--cutoff_len",
    48,
    "--total_batch",
    9,
    "--micro_batch",
    2,
    "--max_steps",
    6,
]
TEXT = "sample/text/stories.txt"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_document_is_read_as_if_it_stood_alone(tiny_base, tmp_path, attention):
    """transformers takes rows whose position ids begin anew for several texts, where there is no attention_mask."""
    base = check_base(str(tiny_base))
    file = tmp_path / "a.txt"
    file.write_text("春眠不觉晓，处处闻啼鸟。\n\n夜来风雨声\n\n花落知多少？\n花落知多少？", encoding="utf-8")
    packed = tokenise(base.tokenizer, read_records(str(file), "text"), range(3), "text", 24, pack=True)
    assert len(packed.lengths) > 1
    assert max(len(starts) for starts in packed.rows["starts"]) > 1
    model = load_base(base, 32)
    model.set_attn_implementation(attention)
    batch = collate(list(packed.rows))
    del batch["record"]
    labels = batch.pop("labels")
    found = token_losses(model(**batch, use_cache=False).logits, labels)

    expected = []
    for row in packed.rows:
        for start, end in pairwise([*row["starts"], len(row["input_ids"])]):
            part = {name: row[name][start:end] for name in ("input_ids", "labels")}
            alone = collate([part])
            alone_labels = alone.pop("labels")
            expected.append(token_losses(model(**alone, use_cache=False).logits, alone_labels))
    assert torch.allclose(found, torch.cat(expected), atol=1e-5)
    crossing = {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}
    assert not torch.allclose(found, token_losses(model(**crossing, use_cache=False).logits, labels), atol=1e-3)


@pytest.fixture(scope="module")
def straight(program, tiny_base, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("packed") / "out"
    return train(program, tiny_base, Path(TEXT), output, *PACKED, "--save_steps", 3, "--eval_steps", 3)


def test_the_plan_says_how_documents_are_packed(straight):
    said = (straight / "session.log").read_text(encoding="utf-8")
    (line,) = re.findall(r"^ *(packing .*)$", said, re.M)
    assert line.endswith("full, no token lost; attention stays within a document")
    (example,) = re.findall(r"^ *(example .*)$", said, re.M)
    assert "[trained on: " in example
    facts = json.loads((straight / "run_args.json").read_text(encoding="utf-8"))["plan"]
    assert f" {facts['documents_train']} documents in {facts['rows_train']} rows of 48 tokens, " in line
    assert facts["tokens_supervised"] > 0.9 * facts["tokens_train"]


def test_a_packed_run_that_is_resumed_ends_as_the_straight_one(program, tiny_base, straight, tmp_path):
    again = Path(shutil.copytree(straight, tmp_path / "again"))
    shutil.rmtree(again / "checkpoint-6")
    (again / "adapter_model.safetensors").unlink()
    train(program, tiny_base, Path(TEXT), again, *PACKED, "--eval_steps", 3, "--resume_from_checkpoint", "auto")
    for name in ("adapter_model.safetensors", "steps.jsonl"):
        assert (again / name).read_bytes() == (straight / name).read_bytes()
    assert losses(straight)[-1] < losses(straight)[0]


def test_every_row_is_taken_once_an_epoch_and_its_documents_are_named(program, tiny_base, tmp_path):
    more = [*PACKED[:-2], "--num_epoch", 1, "--test_size", 0]
    output = train(program, tiny_base, Path(TEXT), tmp_path / "out", *more, processes=2)
    steps = [json.loads(line) for line in (output / "steps.jsonl").read_text(encoding="utf-8").splitlines()]
    records = read_records(TEXT, "text")
    packed = tokenise(check_base(str(tiny_base)).tokenizer, records, range(len(records.lines)), "text", 48, pack=True)
    # A step names a document once for each micro batch that holds a part of it.
    assert {one for step in steps for one in step["records"]} == set(range(len(records.lines)))
    most = sum(len(set(row)) for row in packed.rows["record"])
    assert len(records.lines) <= sum(len(step["records"]) for step in steps) <= most
