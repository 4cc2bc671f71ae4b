"""Keys and values in buffers with room: the numbers of transformers' own layer, copied once in many tokens."""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicLayer

from vicuna.answer.kv_cache import ROOM, PreallocatedCache, PreallocatedLayer


def states(rows: int, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of new positions as a model makes them: not contiguous."""
    return tuple(torch.randn(rows, positions, 2, 8).transpose(1, 2) for _ in range(2))


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_done_with_it_it_holds_what_a_dynamic_layer_holds(seed):
    random.seed(seed)
    torch.manual_seed(seed)
    roomy, dynamic, rows = PreallocatedLayer(), DynamicLayer(), 1
    if seed % 2:
        roomy.reserve(*states(1, 1), random.choice([0, 5, 200]))
    held = []
    for _ in range(60):
        what = random.choice(["new", "new", "new", "many", "crop", "reorder", "repeat", "select"])
        if what in ("new", "many"):
            new = states(rows, 1 if what == "new" else random.randint(2, 2 * ROOM))
            given, expected = roomy.update(*new), dynamic.update(*new)
            assert all(torch.equal(a, b) for a, b in zip(given, expected, strict=True))
        elif not dynamic.get_seq_length():
            continue
        elif what == "crop":
            cut = random.randint(0, dynamic.get_seq_length() - 1)
            roomy.crop(-cut)
            dynamic.crop(-cut)
        elif what == "reorder":
            order = torch.randint(rows, (rows,))
            roomy.reorder_cache(order)
            dynamic.reorder_cache(order)
        elif what == "repeat" and rows == 1:
            rows = random.randint(2, 4)
            roomy.batch_repeat_interleave(rows)
            dynamic.batch_repeat_interleave(rows)
        elif what == "select":
            chosen = torch.randint(rows, (random.randint(1, rows),))
            rows = len(chosen)
            roomy.batch_select_indices(chosen)
            dynamic.batch_select_indices(chosen)
        assert roomy.get_seq_length() == dynamic.get_seq_length()
        held.append(what)
        assert torch.equal(roomy.keys, dynamic.keys), held
        assert torch.equal(roomy.values, dynamic.values), held


def test_a_token_is_written_behind_the_others_and_copies_none_of_them():
    layer, places = PreallocatedLayer(), []
    for _ in range(4 * ROOM):
        keys, values = layer.update(*states(2, 1))
        places.append((keys.data_ptr(), values.data_ptr()))
    assert len(set(places)) <= 4


def test_what_begins_with_room_is_not_copied_before_it_is_full():
    layer = PreallocatedLayer()
    layer.reserve(*states(1, 3), 300)
    places = {layer.update(*states(1, 100))[0].data_ptr() for _ in range(3)}
    assert len(places) == 1


def test_a_row_of_the_cache_can_be_kept_without_the_buffer():
    layer = PreallocatedLayer()
    layer.update(*states(3, 40))
    kept = layer.keys[1:2, :, 10:20].clone()
    assert kept.untyped_storage().nbytes() == kept.nbytes


@pytest.mark.parametrize(
    "chosen", [{}, {"num_beams": 3, "num_return_sequences": 3}, {"num_beams": 2, "do_sample": True}]
)
def test_generate_gives_the_same_ids_and_scores_with_it(tiny_base, chosen):
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    ids = torch.randint(3, model.config.vocab_size, (1, 23), generator=torch.Generator().manual_seed(1))
    length = {"max_new_tokens": 2 * ROOM, "min_new_tokens": 2 * ROOM, "output_scores": True}
    found = []
    for cache in (None, PreallocatedCache(model.config)):
        torch.manual_seed(1)
        more = {"past_key_values": cache, "attention_mask": torch.ones_like(ids), "return_dict_in_generate": True}
        found.append(model.generate(ids, **more, **length, **chosen))
    assert torch.equal(found[0].sequences, found[1].sequences)
    assert all(torch.equal(a, b) for a, b in zip(found[0].scores, found[1].scores, strict=True))
