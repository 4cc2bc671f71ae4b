"""benchmarks/bench_train.py on a tiny base: this program alone, and the names of its ratios."""

import json

import pytest
from bench_train import CASES, SPELT, BenchFlags, main

from vicuna.errors import UserError


def test_a_small_run_measures_and_writes_what_it_found(tiny_base, tmp_path, capsys):
    figures = tmp_path / "train.json"
    small = {"tokenizer": str(tiny_base), "threads": 1, "smoke": True, "only": ["ours"], "cases": ["shared_fp32"]}
    main(BenchFlags(str(tmp_path / "bench"), **small, json=str(figures)))
    printed = capsys.readouterr().out
    (row,) = [line for line in printed.splitlines() if line.startswith("| shared_fp32 ")]
    found = json.loads(figures.read_text(encoding="utf-8"))
    (speed,) = found["speeds"]["shared_fp32"]["ours"]
    assert f"| ours | {speed:.0f} |" in row
    assert found["of_the_ceiling"]["shared_fp32"] > 0
    assert found["ratios"] == {}
    known = json.loads((tmp_path / "bench/run_ours_shared_fp32/run_args.json").read_text(encoding="utf-8"))
    sharing = known["plan"]["sharing"]
    assert sharing["computed"] < 0.7 * sharing["tokens"]


def test_ratios_have_the_names_that_are_asked_for():
    spelt = [f"{side}_{case.name}" for side in ("llamafactory", "alpaca_lora") for case in CASES]
    names = {SPELT.get(name, name) for name in spelt}
    assert {"llamafactory_fp32_128", "llamafactory_bf16_128", "llamafactory_bf16_4"} <= names
    assert {"alpaca_lora_fp32", "alpaca_lora_bf16", "shared_llamafactory_fp32", "shared_llamafactory_bf16"} <= names


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"only": ["ours", "axolotl"]}, "--only axolotl"),
        ({"cases": ["x"]}, "--cases x"),
        ({"only": ["alpaca_lora"]}, "add ours"),
        ({"rounds": 0}, "--rounds 0"),
    ],
)
def test_what_can_not_be_meant_is_refused(flags, said):
    with pytest.raises(UserError, match=said):
        BenchFlags(**flags)
