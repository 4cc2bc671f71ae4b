"""benchmarks/bench_generate.py on a model of a moment: every table is there, and what is too slow is an error."""

import json
import random

import pytest
from bench_generate import MODES, GenerateFlags, main, median_interval

from tests.certificate.certifying import CPP
from vicuna.errors import UserError

SMALL = {
    "hidden_size": 64, "num_layers": 1, "context": 512, "tokens": 6, "pairs": 2, "history": 200,
    "prompts": 1, "threads": 1,
}  # fmt: skip


def test_a_small_run_prints_every_table(tiny_base, capsys):
    main(GenerateFlags(**SMALL, tokenizer=str(tiny_base), prefix_bits=[32], most_cost=1.0, most_wait=1000.0))
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith("| ")]
    for mode in MODES:
        (row,) = [row for row in rows if row.startswith(f"| {mode} |")]
        assert row.endswith("| 2 of 2 |")  # the same ids with and without streaming
    assert any(row.startswith("| first | 0 |") for row in rows)
    (long,) = [row for row in rows if row.startswith("| number ")]
    assert 150 < int(long.split("|")[2]) < 260
    (same,) = [row for row in rows if row.startswith("| 32 bit, float32")]
    assert same.endswith("| 0 of 1 | – |")
    assert float(same.split("|")[2]) < 1e-5
    assert "commit" in printed
    assert "benchmarks/bench_generate.py" in printed


def test_what_is_too_slow_is_an_error(tiny_base):
    small = SMALL | {"tokenizer": str(tiny_base)}
    with pytest.raises(UserError, match=r"streaming costs .*% in greedy"):
        main(GenerateFlags(**small, only=["cost"], most_cost=-1000.0))
    with pytest.raises(UserError, match="a later turn waits"):
        main(GenerateFlags(**small, only=["first"], most_wait=0.0))


def test_at_fewer_bits_the_prefix_cache_changes_logits_by_no_more_than_the_documents_say(tiny_base, capsys):
    small = SMALL | {"tokenizer": str(tiny_base), "only": ["prefix"], "prompts": 4}
    main(GenerateFlags(**small))
    rows = [line for line in capsys.readouterr().out.splitlines() if " bit, bfloat16" in line]
    assert [row.split()[1] for row in rows] == ["16", "8", "4"]
    assert all(0 <= float(row.split("|")[2]) <= 0.05 for row in rows)
    with pytest.raises(UserError, match=r"makes a difference of .* at 8 bits"):
        main(GenerateFlags(**small | {"prefix_bits": [8], "most_difference": -1.0}))


def test_the_speed_of_models_of_every_kind_is_measured_by_length(tiny_base, tmp_path, capsys):
    from certificate_bounds import strong_adapter, to_gguf

    models, adapters = [str(tiny_base), str(tiny_base)], ["-", str(strong_adapter(tiny_base, tmp_path / "adapter"))]
    if CPP:
        models.append(str(to_gguf(tiny_base, tmp_path / "base.gguf", "q8_0")))
        adapters.append("-")
    out = tmp_path / "speeds.json"
    lengths = [8, 500, 510, 511, 2048]  # of a context of 512
    main(GenerateFlags(model_path=models, lora_path=adapters, lengths=lengths, most_new=4, json=str(out)))

    printed = capsys.readouterr().out
    found = json.loads(out.read_text(encoding="utf-8"))["models"]
    assert len(found) == len(models)
    for one in found:
        assert [(row["prompt_tokens"], row["new_tokens"]) for row in one["speeds"]] == [(8, 4), (500, 4), (510, 2)]
        assert all(row["prefill_per_s"] > 0 and row["decode_per_s"] > 0 for row in one["speeds"])
        assert f"| {one['model']} | {one['weights']} | 500 | 4 |" in printed
    assert "pairs of" not in printed  # none of the other parts


def test_a_model_that_is_not_there_is_refused_before_another_is_measured(tiny_base, tmp_path, capsys):
    with pytest.raises(UserError, match="gone does not exist"):
        main(GenerateFlags(model_path=[str(tiny_base), str(tmp_path / "gone")], lengths=[8]))
    assert "| 8 |" not in capsys.readouterr().out
    with pytest.raises(UserError, match="--lengths 600 leaves no room for an answer in a context of 512 tokens"):
        main(GenerateFlags(model_path=[str(tiny_base)], lengths=[600]))


def test_the_interval_holds_the_median_nine_times_in_ten():
    draw, held = random.Random(1), 0
    for _ in range(2000):
        low, high = median_interval([draw.gauss(0, 1) for _ in range(21)])
        held += low <= 0 <= high
    assert 0.9 <= held / 2000 <= 0.96
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert median_interval([1.0]) == (1.0, 1.0)
    assert median_interval([float(n) for n in range(1, 61)]) == (24.0, 37.0)  # a table's ranks for 60 values


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"only": ["cost", "speed"]}, "--only speed: no such part"),
        ({"pairs": 0}, "--pairs 0 is too small"),
        ({"hidden_size": 100}, "--hidden_size 100 does not divide"),
        ({"model_path": ["a", "b"], "lora_path": ["x"]}, "--lora_path names 1, --model_path 2"),
        ({"json": "a.json"}, "--json a.json is for the speeds of --model_path"),
        ({"lengths": [0]}, "--lengths takes numbers of 1 or more"),
        ({"context": 1600}, "--context 1600 is too small: --history 1500 needs 256 more"),
    ],
)
def test_a_wrong_flag_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        GenerateFlags(**given)
