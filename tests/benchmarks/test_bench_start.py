"""benchmarks/bench_start.py: one round of this checkout."""

import json

from bench_start import PROGRAMS, StartFlags, main


def test_every_start_is_timed(tiny_base, tmp_path, capsys):
    figures = tmp_path / "start.json"
    main(StartFlags(str(tmp_path / "bench"), tokenizer=str(tiny_base), rounds=1, json=str(figures)))
    printed = capsys.readouterr().out
    found = json.loads(figures.read_text(encoding="utf-8"))
    assert set(found["seconds"]) == {*(f"{program} --help" for program in PROGRAMS), "plan", "one step"}
    for name, sides in found["seconds"].items():
        (took,) = sides["ours"]
        assert f"| {name} | ours | {took:.2f} | {took:.2f} |" in printed
    assert found["ratios"] == {}
    assert (tmp_path / "bench" / "step" / "adapter_model.safetensors").is_file()
