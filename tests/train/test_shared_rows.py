"""Rows laid into one another: losses and gradients of each row computed alone, whatever the rows have in common."""

import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise, product

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from random_llama import quantised
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from vicuna.model.base import checkpointing_kwargs
from vicuna.prompt.templates import IGNORE_INDEX
from vicuna.train import row_attention
from vicuna.train.batches import collate
from vicuna.train.last_block import LastBlock
from vicuna.train.loss import step_loss, token_losses
from vicuna.train.row_attention import attend_to_rows
from vicuna.train.sharing import (
    COPIED,
    KINDS,
    Layout,
    Operations,
    common_beginning,
    count_operations,
    lay_out,
    share_out,
)

VOCABULARY = 97
ONE_BY_ONE = Operations(token=1000, pair=1, call=0)
TOGETHER = Operations(token=1000, pair=0, call=1)
PADDED = Operations(token=0, pair=0, call=10**9)
WAYS = {"one by one": ONE_BY_ONE, "together": TOGETHER}
FILLED = {f"{name}, filled up": replace(counts, multiple=16) for name, counts in WAYS.items()}


def tree(depth: int, seed: int, rows: int = 6) -> list[dict]:
    """Rows whose beginnings have others' beginnings in them, `depth` times; also equal ones, one that is another's
    beginning, and one of a single token. The last three of depth above 0 are learnt from the first token on that the
    shared part does not have, two of them behind the same one."""
    draw = random.Random(f"{depth}/{seed}")

    def tokens(least: int, most: int) -> list[int]:
        return [draw.randrange(3, VOCABULARY) for _ in range(draw.randint(least, most))]

    stems = [[]]
    for _ in range(depth):
        stems = [stem + tokens(2, 9) for stem in stems for _ in range(2)]
    found = []
    for i in range(rows):
        stem = stems[i % len(stems)]
        ids = stem + tokens(2, 14)
        prompt = draw.choice([0, len(stem), len(stem) + 1])
        found.append((ids, prompt))
    found += [found[0], (found[1][0][: max(2, len(found[1][0]) - 2)], 1), (found[2][0][:1], 0)]
    found += [(stems[0] + [5, 9, 9], len(stems[0])), (stems[0] + [6, 9], len(stems[0])), (stems[0] + [6], 0)]
    draw.shuffle(found)
    return [{"input_ids": ids, "labels": [IGNORE_INDEX] * prompt + ids[prompt:]} for ids, prompt in found]


def small(kind: str = "llama", bits: int = 32, dtype: torch.dtype = torch.float32, **more: object) -> PeftModel:
    """A base of random weights and two blocks with an adapter that changes the output."""
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model(
        kind, vocab_size=VOCABULARY, num_key_value_heads=2, head_dim=16, max_position_embeddings=64,
        **shape, **more,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    for name, layer in list(model.named_modules()):
        if bits < 16 and isinstance(layer, nn.Linear) and layer is not model.lm_head:
            model.set_submodule(name, quantised(layer.weight.data, bits, dtype))
    if bits < 16:
        setattr(model, f"is_loaded_in_{bits}bit", True)
        model = prepare_model_for_kbit_training(model, False)  # which widens norms and embeddings
    attend_to_rows(model)
    adapter = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj", "down_proj"])
    model = get_peft_model(model, adapter).train()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1)
    LastBlock(model)
    return model


def computed(model: PeftModel, batches: list[dict], dtype: torch.dtype = torch.float32) -> tuple:
    """Losses of all labels of some batches, row by row, and the gradients of their mean."""
    count = sum(int((batch["labels"][:, 1:] != IGNORE_INDEX).sum()) for batch in batches)
    found = []
    for batch in batches:
        inputs = dict(batch)
        labels, predicted_by = inputs.pop("labels"), inputs.pop("predicted_by", None)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            outputs = model(**inputs, use_cache=False)
            found.append(token_losses(outputs.logits.detach(), labels, predicted_by))
            step_loss(outputs, labels, torch.tensor(count), predicted_by).backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
    model.zero_grad(set_to_none=True)
    return torch.cat(found), gradients


def assert_alike(found: tuple, expected: tuple, tolerance: float = 1e-5) -> None:
    assert torch.allclose(found[0], expected[0], rtol=tolerance, atol=10 * tolerance)
    for name, value in expected[1].items():
        assert value.any(), name
        assert (found[1][name] - value).abs().max() <= 10 * tolerance * value.abs().max(), name


# --- losses and gradients -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize("way", {**WAYS, **FILLED})
def test_losses_and_gradients_are_those_of_each_row_alone(depth, way):
    model = small()
    for seed in range(3):
        rows = tree(depth, seed)
        batch = collate(rows, {**WAYS, **FILLED}[way])
        assert batch["layout"].batched == way.startswith("together")
        assert_alike(computed(model, [batch]), computed(model, [collate([row]) for row in rows]))


def test_accumulated_micro_batches_give_the_gradients_of_the_step():
    model, rows = small(), tree(2, 7, rows=16)
    slots = share_out(range(len(rows)), [row["input_ids"] for row in rows], 2, 1)
    assert 1 < len(slots) < len(rows) / 2
    batches = [collate([rows[i] for i in slot[0]], ONE_BY_ONE) for slot in slots]
    order = [i for slot in slots for i in slot[0]]
    assert_alike(computed(model, batches), computed(model, [collate([rows[i]]) for i in order]))


@pytest.mark.parametrize("checkpointed", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("bits", [4, 8, 16, 32])
def test_every_precision_with_and_without_checkpointing(bits, checkpointed):
    dtype = torch.float32 if bits == 32 else torch.bfloat16
    model, rows = small(bits=bits, dtype=dtype), tree(2, 3)
    batch, alone = collate(rows, FILLED["one by one, filled up"]), [collate([row]) for row in rows]
    expected = computed(model, alone, dtype)
    if checkpointed:
        model.get_base_model().activation_checkpointing_enable(checkpointing_kwargs(bits))
        model.enable_input_require_grads()
    assert_alike(computed(model, [batch], dtype), expected, 1e-5 if bits == 32 else 6e-3)


ROPE = [{"rope_type": "linear", "factor": 2.0}, {"rope_type": "yarn", "factor": 4.0}]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operations", [ONE_BY_ONE, TOGETHER], ids=["one by one", "together"])
def test_every_kind_of_base_that_is_let_in(kind, operations):
    model, rows = small(kind), tree(2, 5)
    assert_alike(computed(model, [collate(rows, operations)]), computed(model, [collate([row]) for row in rows]))


@pytest.mark.parametrize("rope", ROPE, ids=lambda rope: rope["rope_type"])
def test_scaled_positions(rope):
    model, rows = small(rope_parameters={"rope_theta": 10000.0, **rope}), tree(2, 5)
    assert_alike(computed(model, [collate(rows, ONE_BY_ONE)]), computed(model, [collate([row]) for row in rows]))


def test_a_long_row_behind_a_shared_beginning_is_attended_to_in_parts(monkeypatch):
    monkeypatch.setattr(row_attention, "QUERIES", 5)
    model, rows = small(), tree(2, 1)
    assert_alike(computed(model, [collate(rows, ONE_BY_ONE)]), computed(model, [collate([row]) for row in rows]))


def test_a_gradient_that_is_not_one_is_passed_on():
    """As DDP hands it on, or whoever weighs losses."""
    model, batch = small(), collate(tree(2, 1), ONE_BY_ONE)
    labels, predicted_by = batch.pop("labels"), batch.pop("predicted_by")
    found = []
    for times in (1, 4):
        loss = step_loss(model(**batch, use_cache=False), labels, torch.tensor(8), predicted_by)
        (loss * times).backward()
        found.append([value.grad for value in model.parameters() if value.requires_grad])
        model.zero_grad(set_to_none=True)
    assert all(torch.allclose(4 * one, other) for one, other in zip(*found, strict=True))


def test_rows_without_labels_and_one_row_alone():
    model = small()
    silent = [{"input_ids": [5, 6, 7, *more], "labels": [IGNORE_INDEX] * (3 + len(more))} for more in ([1], [2, 3])]
    batch = collate(silent, ONE_BY_ONE)
    labels, predicted_by = batch.pop("labels"), batch.pop("predicted_by")
    loss = step_loss(model(**batch, use_cache=False), labels, torch.tensor(1), predicted_by)
    loss.backward()
    assert loss.item() == 0
    assert not any(value.grad.any() for value in model.parameters() if value.requires_grad)
    assert "layout" not in collate([{"input_ids": [5, 6], "labels": [5, 6]}], count_operations(model.config, "cpu"))


def test_documents_in_a_packed_row_are_rows_of_their_own():
    model = small()
    ids = list(range(3, 23))
    labels = [IGNORE_INDEX, *ids[1:9], IGNORE_INDEX, *ids[10:]]
    packed = [
        {"input_ids": ids, "labels": labels, "starts": [0, 9]},
        {"input_ids": [4, 5], "labels": [-100, 5], "starts": [0]},
    ]
    batch = collate(packed, ONE_BY_ONE)
    assert batch["layout"].lengths == (9, 2, 11)
    assert_alike(computed(model, [batch]), computed(model, [collate(packed)]))


# --- what is laid down, and what is chosen ---------------------------------------------------------------------------


def test_every_token_is_laid_down_once_and_each_row_finds_all_of_its_own():
    for depth, seed in [(depth, seed) for depth in range(4) for seed in range(20)]:
        rows = [row["input_ids"] for row in tree(depth, seed)]
        order, layout, places = lay_out(rows)
        laid = {}
        for row, place in zip(rows, places, strict=True):
            assert len(place) == len(row)
            for at, token in zip(place.tolist(), row, strict=True):
                assert laid.setdefault(at, token) == token
        beginnings = {tuple(row[: n + 1]) for row in rows for n in range(len(row))}
        assert len(laid) == layout.tokens == sum(layout.pieces) == len(beginnings)
        edges = [0]
        for piece in layout.pieces:
            edges.append(edges[-1] + piece)
        for number, path in zip(order, layout.paths, strict=True):
            assert [at for i in path for at in range(edges[i], edges[i + 1])] == places[number].tolist()


@pytest.mark.parametrize("way", FILLED)
def test_a_micro_batch_is_filled_up_with_its_first_token(way):
    for seed in range(5):
        batch, bare = (collate(tree(2, seed), counts) for counts in (FILLED[way], WAYS[way.split(",")[0]]))
        tokens = bare["input_ids"].shape[1]
        assert batch["layout"] == bare["layout"]
        assert batch["input_ids"].shape == batch["position_ids"].shape == (1, tokens + -tokens % 16)
        assert (batch["input_ids"][0, tokens:] == batch["input_ids"][0, 0]).all()
        assert not batch["position_ids"][0, tokens:].any()
        kept = len(bare["logits_to_keep"])
        assert len(batch["logits_to_keep"]) == kept + -kept % 16
        assert batch["logits_to_keep"][:kept].tolist() == bare["logits_to_keep"].tolist()
        assert batch["predicted_by"].tolist() == bare["predicted_by"].tolist()


def test_few_sizes_come_up_in_bfloat16_on_a_cpu():
    config = small().config
    assert count_operations(config, "cpu", torch.bfloat16).multiple == 32
    assert count_operations(config, "cpu").multiple == count_operations(config, "cuda", torch.bfloat16).multiple == 1


def test_the_cheapest_by_count_is_taken():
    counts = Operations(token=100, pair=1, call=50)
    apart = Layout(runs=(10, 10), lengths=(10, 10), pieces=(10, 10), paths=((0,), (1,)))
    assert counts.padded([10, 10]) == 2 * (10 * 100 + 55) + 50
    assert counts.one_by_one(apart) == 2 * (10 * 100 + 55) + 2 * 50
    assert counts.batched(apart) == 2 * (10 * 100 + 55) + 3 * 50
    behind = Layout(runs=(10, 4), lengths=(10, 12), pieces=(8, 2, 4), paths=((0, 1), (0, 2)))
    assert counts.one_by_one(behind) == 14 * 100 + 55 + (78 - 36) + 2 * 50
    rows = [{"input_ids": [i] * 10, "labels": [i] * 10} for i in (3, 4)]
    assert "layout" not in collate(rows, counts)
    rows[0]["input_ids"] = [4, *[3] * 9]
    assert collate(rows, counts)["layout"].tokens == 19
    assert "layout" not in collate(rows, PADDED)


@pytest.mark.parametrize("dialogues", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("micro_batch", [1, 2, 5])
def test_a_step_is_shared_out_whole_with_no_more_tokens_than_micro_batch_rows_have(micro_batch, world_size, dialogues):
    for seed, rows in [(0, 1), (1, 5), (2, 23), (3, 40)]:
        ids = [row["input_ids"] for row in tree(2, seed, max(rows, 3))][:rows]
        step = [100 + i for i in range(len(ids))]
        slots = share_out(step, ids, micro_batch, world_size, dialogues)
        assert all(len(slot) == world_size for slot in slots)
        assert len(slots) == len(share_out(step, ids, micro_batch, world_size))
        assert Counter(row for slot in slots for batch in slot for row in batch) == Counter(step)
        assert len(slots) <= -(-len(ids) // (micro_batch * world_size))
        assert all(batch for slot in slots[:-1] for batch in slot)
        room = micro_batch * max(map(len, ids))
        for batch in (batch for slot in slots for batch in slot if batch):
            assert lay_out([ids[row - 100] for row in batch])[1].tokens <= room


def test_a_micro_batch_takes_more_rows_where_they_share_much():
    stem = list(range(40))
    ids = [[*stem, 50 + i, 60, 61] for i in range(32)]
    sizes = [len(slot[0]) for slot in share_out(range(32), ids, 4, 1)]
    assert sum(sizes) == 32
    assert min(sizes) >= 16
    assert all(one <= other + 2 for one, other in pairwise(sizes))


def test_rows_of_dialogues_are_cut_apart_where_the_least_is_computed_twice():
    """Of all ways to cut the rows of a step, by trying them, one of those with the fewest micro batches."""

    def computed(groups: list[list[list[int]]]) -> int:
        return sum(lay_out(group)[1].tokens for group in groups)

    better = 0
    for seed in range(6):
        rows = sorted(row["input_ids"] for row in tree(2, f"dialogues {seed}", 4))
        room = 2 * max(map(len, rows))
        ways = []
        for places in product((False, True), repeat=len(rows) - 1):
            cuts = [0, *(i for i, cut in enumerate(places, 1) if cut), len(rows)]
            groups = [rows[start:end] for start, end in pairwise(cuts)]
            shared = [[common_beginning(*pair) for pair in pairwise(group)] for group in groups]
            kept = [
                len(group[0]) + sum(min(len(row), len(row) - n + (len(row) // COPIED if n else 0))
                                    for row, n in zip(group[1:], common, strict=True))
                for group, common in zip(groups, shared, strict=True)
            ]  # fmt: skip
            if max(kept) <= room:
                ways.append((len(groups), computed(groups)))
        found, alike = (
            [[rows[i] for i in batch] for (batch,) in share_out(range(len(rows)), rows, 2, 1, dialogues)]
            for dialogues in (True, False)
        )
        assert (len(found), computed(found)) == min(ways)
        assert computed(found) <= computed(alike)
        better += computed(found) < computed(alike)
    assert better
