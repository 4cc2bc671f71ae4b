"""What the last block leaves out of tokens that predict nothing, and the memory that stays with a run."""

import subprocess
import sys

import pytest
import torch

from tests.train.test_shared_rows import ONE_BY_ONE, TOGETHER, assert_alike, computed, small, tree
from vicuna.train.batches import collate
from vicuna.train.last_block import few_that_predict

KEEPS = """
from vicuna.train.heap import keep_freed_memory
{call}
block = bytearray(200 << 20)
del block
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("RssAnon")))
"""


@pytest.mark.parametrize("operations", [ONE_BY_ONE, TOGETHER], ids=["one by one", "together"])
def test_what_is_left_out_changes_no_loss_and_no_gradient(operations):
    model = small()
    for depth in range(4):
        batch = collate(tree(depth, 11), operations)
        whole = {name: value for name, value in batch.items() if name != "predicting"}
        assert "predicting" in batch
        assert_alike(computed(model, [batch]), computed(model, [whole]), 1e-6)


def test_the_last_block_computes_what_predicts_something_and_no_more():
    model, batch = small(), collate(tree(2, 11), ONE_BY_ONE)
    seen = []
    for name, layer in model.named_modules():
        if name.endswith(("gate_proj", "o_proj", "q_proj.base_layer", "k_proj")):
            layer.register_forward_hook(lambda layer, args, found: seen.append(args[0].shape[1]))
    computed(model, [batch])
    tokens, few = batch["layout"].tokens, len(batch["predicting"])
    assert few == len(set(batch["logits_to_keep"].tolist())) < tokens
    assert seen == [tokens, tokens, tokens, tokens, few, tokens, few, few]


def test_where_nearly_all_predict_something_nothing_is_gathered():
    assert few_that_predict(torch.tensor([0, 0, 3, 5]), 8).tolist() == [0, 3, 5]
    assert few_that_predict(torch.arange(7), 8) is None
    assert few_that_predict(torch.tensor([0, 3, 5]), 20, 4).tolist() == [0, 1, 3, 5]
    assert few_that_predict(torch.tensor([0, 3, 5]), 20, 16).tolist() == list(range(16))
    assert few_that_predict(torch.tensor([0, 3, 5]), 17, 16) is None
    assert few_that_predict(torch.arange(0), 8) is None


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_freed_memory_is_kept():
    found = [
        int(subprocess.check_output([sys.executable, "-c", KEEPS.format(call=call)], text=True))
        for call in ("", "keep_freed_memory()")
    ]
    assert found[0] < 100 << 10 < found[1]
