"""tools/evaluate.py forgetting: shares of an adapter, what they gain and lose, and the best one under a bound."""

import json
import math
import shutil

import pytest
import torch

from tests.served import make_adapter
from vicuna.errors import UserError
from vicuna.evaluation.bootstrap import Difference
from vicuna.evaluation.candidates import HFCandidate
from vicuna.evaluation.flags import ModelsFlags, OutputFlags
from vicuna.evaluation.forgetting import Point, choose, trace_forgetting
from vicuna.evaluation.likelihood import kl_divergence
from vicuna.evaluation.scaled_adapter import check_scalable, scaled
from vicuna.evaluation.score_flags import ForgettingFlags

IDS = list(range(3, 40))
DOMAIN, GENERAL = "sample/instruct/certificate.jsonl", "sample/instruct/quickstart.json"


@pytest.fixture(scope="module")
def adapter(tiny_base, tmp_path_factory):
    return make_adapter(tiny_base, tmp_path_factory.mktemp("adapters") / "one", "instruct", seed=1)


@pytest.fixture(scope="module")
def opened(tiny_base, adapter):
    return HFCandidate(str(tiny_base), str(adapter), 32).open(64).runner


@pytest.fixture(scope="module")
def traced(tiny_base, adapter, tmp_path_factory):
    """The folder of a whole run."""
    out = tmp_path_factory.mktemp("traced") / "out"
    flags = ForgettingFlags([DOMAIN], [GENERAL], [0.5, 1], cutoff_len=64)
    trace_forgetting(ModelsFlags([str(tiny_base)], [str(adapter)], [32]), flags, OutputFlags(str(out)))
    return out


def results(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))["models"]


def test_no_share_is_the_base_and_all_of_it_the_adapter_bit_by_bit(tiny_base, adapter, opened):
    base = HFCandidate(str(tiny_base), "", 32).open(64).runner.logits(IDS)
    own = opened.logits(IDS)
    with scaled(opened.model, 0):
        none = opened.logits(IDS)
    with scaled(opened.model, 1):
        whole = opened.logits(IDS)

    assert torch.equal(none, base)
    assert torch.equal(whole, own)
    assert torch.equal(opened.logits(IDS), own)  # as it was before
    assert not torch.equal(own, base)


def test_half_of_an_adapter_is_one_of_half_its_alpha(tiny_base, adapter, opened, tmp_path):
    halved = shutil.copytree(adapter, tmp_path / "half")
    config = json.loads((halved / "adapter_config.json").read_text(encoding="utf-8"))
    (halved / "adapter_config.json").write_text(
        json.dumps({**config, "lora_alpha": config["lora_alpha"] / 2}), encoding="utf-8"
    )
    expected = HFCandidate(str(tiny_base), str(halved), 32).open(64).runner.logits(IDS)
    with scaled(opened.model, 0.5):
        assert torch.equal(opened.logits(IDS), expected)


def test_the_scale_comes_back_where_the_block_fails(opened):
    own = opened.logits(IDS)
    with pytest.raises(KeyError), scaled(opened.model, 0.25):
        raise KeyError
    assert torch.equal(opened.logits(IDS), own)


def test_a_run_says_what_each_share_gains_and_loses(traced):
    (found,) = results(traced)
    base, half, whole = found["points"]

    assert [one["scale"] for one in found["points"]] == [0, 0.5, 1]
    assert base["domain"]["change"] == base["general"]["change"] == base["divergence"] == 0
    assert base["general"]["interval"] == [0, 0]
    assert 0 < half["divergence"] < whole["divergence"]
    for point in (half, whole):
        for part in ("domain", "general"):
            low, high = point[part]["interval"]
            assert low < point[part]["change"] < high
            assert point[part]["change"] == pytest.approx(point[part]["loss"] - base[part]["loss"])
    page = (traced / "results.md").read_text(encoding="utf-8")
    assert "with no bound, " in page
    assert page.count("best") >= 2


def test_losses_are_those_of_the_kind_loss(tiny_base, adapter, traced, tmp_path):
    from vicuna.data.flags import ReadFlags
    from vicuna.evaluation.flags import LossFlags
    from vicuna.evaluation.held_out_loss import evaluate_loss

    models = ModelsFlags([str(tiny_base)], ["-", str(adapter)], [32])
    evaluate_loss(models, ReadFlags([DOMAIN]), LossFlags(cutoff_len=64), OutputFlags(str(tmp_path / "loss")))
    base, _, whole = results(traced)[0]["points"]

    expected = [one["loss"] for one in results(tmp_path / "loss")]
    assert [base["domain"]["loss"], whole["domain"]["loss"]] == pytest.approx(expected, abs=1e-5)


def test_the_same_command_goes_on_and_other_shares_are_another_command(tiny_base, adapter, traced, tmp_path):
    out = shutil.copytree(traced, tmp_path / "out")
    rows = (out / "rows.jsonl").read_bytes()
    (out / "rows.jsonl").write_bytes(rows[: len(rows) * 2 // 3])
    models = ModelsFlags([str(tiny_base)], [str(adapter)], [32])
    trace_forgetting(models, ForgettingFlags([DOMAIN], [GENERAL], [0.5, 1], cutoff_len=64), OutputFlags(str(out)))

    assert (out / "rows.jsonl").read_bytes() == rows
    with pytest.raises(UserError, match=r"--scale was 0.0 0.5 1.0, now 0.0 0.7"):
        trace_forgetting(models, ForgettingFlags([DOMAIN], [GENERAL], [0.7], cutoff_len=64), OutputFlags(str(out)))


def point(scale, domain, general, divergence):
    return Point(scale, Difference(3, 3 + domain, 0, 0), Difference(2, 2 + general, 0, 0), divergence)


@pytest.mark.parametrize(
    ("bounds", "best"),
    [
        ({}, 1),
        ({"most_loss": 0.1}, 0.5),
        ({"most_loss": 0}, 0),
        ({"most_divergence": 0.05}, 0.25),
        ({"most_loss": 0.1, "most_divergence": 0.3}, 0.5),
    ],
)
def test_the_best_point_is_the_lowest_domain_loss_under_the_bounds(bounds, best):
    points = [point(0, 0, 0, 0), point(0.25, -0.3, 0.02, 0.04), point(0.5, -0.5, 0.08, 0.2), point(1, -0.8, 0.4, 0.9)]

    assert choose(points, ForgettingFlags(["a"], ["b"], **bounds)).scale == best


def test_an_adapter_that_only_harms_leaves_the_base():
    points = [point(0, 0, 0, 0), point(1, 0.2, 0.1, 0.5)]

    assert choose(points, ForgettingFlags(["a"], ["b"])).scale == 0


def test_the_divergence_is_kullback_and_leiblers():
    own, other = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[0.0, 0.0]])
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)

    assert float(kl_divergence(own, other)) == pytest.approx(expected)
    assert float(kl_divergence(own, own)) == 0
    many = torch.randn(600, 5)  # more rows than are looked at together
    assert kl_divergence(many, many + 1).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"modules_to_save": ["embed_tokens"]}, "whole modules"),
        ({"use_dora": True}, "magnitudes of DoRA"),
        ({"bias": "all"}, "biases"),
        ({"trainable_token_indices": {"embed_tokens": [3]}}, "rows of embeddings"),
    ],
)
def test_what_has_no_scale_is_refused(adapter, tmp_path, change, said):
    folder = shutil.copytree(adapter, tmp_path / "other")
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps({**config, **change}), encoding="utf-8")

    with pytest.raises(UserError, match=f"holds {said}, which have no scale"):
        check_scalable(folder)


def test_mistakes_are_said_before_weights_are_read(tiny_base, adapter, tmp_path):
    out, models = OutputFlags(str(tmp_path / "out")), ModelsFlags([str(tiny_base)], [str(adapter)], [32])
    with pytest.raises(UserError, match="has no adapter that can be scaled"):
        trace_forgetting(ModelsFlags([str(tiny_base)], bits=[32]), ForgettingFlags([DOMAIN], [GENERAL]), out)
    with pytest.raises(UserError, match=r"--general .*no.jsonl does not exist"):
        trace_forgetting(models, ForgettingFlags([DOMAIN], [str(tmp_path / "no.jsonl")]), out)
    with pytest.raises(UserError, match="--general is missing"):
        ForgettingFlags([DOMAIN])
    with pytest.raises(UserError, match="--scale -1 is too small"):
        ForgettingFlags([DOMAIN], [GENERAL], [-1])
    assert not (tmp_path / "out").exists()
