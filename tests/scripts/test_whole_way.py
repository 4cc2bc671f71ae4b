"""scripts/chinese_llama_alpaca.sh in a few steps on random weights: every tool takes what the one before it made."""

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.gguf.gguf_models import INSTALL
from tests.scripts.launchers import ROOT, write_sources
from vicuna.prompt.tokenizer import TextTokenizer

# Installs nothing, for what the tests run in may be in use by others, and has programs run by who answers at $ASK.
PYTHON = """#!/usr/bin/env bash
case "$*" in
    *"print(sys.prefix)"*) echo "$PREFIX" ;;
    "-m pip "*" download "*)
        while [ "$1" != --dest ]; do shift; done
        cp "$PREFIX/sources.tar.gz" "$2/llama_cpp_python-${3#*==}.tar.gz"
        ;;
    "-m pip "*" wheel "*)
        while [ "$1" != --wheel-dir ]; do shift; done
        touch "$2/$(basename "$3" .tar.gz)-py3-none-any.whl"
        ;;
    "-m pip "*) ;;
    -c*) exec "$REAL" "$@" ;;
    *)
        printf '%s\\037' "$@" >"$ASK"
        status=$(cat "$ASK.status")
        cat "$ASK.stdout"
        exit "$status"
        ;;
esac
"""
EMBEDDINGS = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def whole_way(program, tiny_base, tmp_path_factory) -> tuple[Path, str]:
    """The folder of all that was made, and what was said."""
    pytest.importorskip("gguf", reason=INSTALL)
    folder = tmp_path_factory.mktemp("whole_way")
    python, ask, status = folder / "python", folder / "ask", folder / "ask.status"
    python.write_text(PYTHON, encoding="utf-8")
    python.chmod(0o755)
    write_sources(folder)
    for pipe in (ask, status):
        os.mkfifo(pipe)
    said: list[str] = []

    def answer() -> None:
        while words := ask.read_text(encoding="utf-8").split("\037")[:-1]:
            done = program(*words)
            said.append(f"{words}\n{done.stderr[-3000:]}")
            (folder / "ask.stdout").write_text(done.stdout, encoding="utf-8")
            status.write_text(str(done.returncode), encoding="utf-8")

    env = os.environ | {
        "PYTHON": str(python), "REAL": sys.executable, "PREFIX": str(folder), "CXX": str(folder / "compiler"),
        "ASK": str(ask), "XDG_CACHE_HOME": str(folder / "cache"), "CUDA_VISIBLE_DEVICES": "",
        "MODEL_PATH": str(tiny_base), "OUTPUT_PATH": str(folder / "out"), "VOCAB_SIZE": "5000",
        "STAGE1_STEPS": "8", "STAGE2_STEPS": "8", "ALPACA_STEPS": "30",
    }  # fmt: skip
    thread = threading.Thread(target=answer)
    thread.start()
    try:
        argv = ["bash", str(ROOT / "scripts/chinese_llama_alpaca.sh")]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=500, check=False)
    finally:
        ask.write_text("", encoding="utf-8")
        thread.join()
    assert done.returncode == 0, done.stderr[-3000:] + "".join(said[-1:])
    return folder / "out", done.stdout


def test_the_loss_of_every_stage_falls(whole_way):
    for stage in ("stage1", "stage2", "alpaca"):
        lines = (whole_way[0] / stage / "steps.jsonl").read_text(encoding="utf-8").splitlines()
        losses = [step["loss"] for step in map(json.loads, lines) if "loss" in step]
        assert sum(losses[-3:]) < sum(losses[:3]), stage


def test_tokens_a_character_are_printed_for_both_texts_and_fall(whole_way, tiny_base):
    found = re.findall(r"(\w+)\.txt, (\S+): ([\d.]+) tokens a character", whole_way[1])
    assert [one[:2] for one in found] == [
        (text, str(model)) for text in ("train", "held_out") for model in (tiny_base, whole_way[0] / "base")
    ]
    before, after, before_held_out, after_held_out = (float(one[2]) for one in found)
    assert after < before * 2 / 3
    assert after_held_out < before_held_out


def test_the_model_has_both_adapters_in_order_and_is_a_gguf_of_four_bits(whole_way):
    out, said = whole_way
    merged, second = load_file(out / "merged/model.safetensors"), load_file(out / "alpaca/adapter_model.safetensors")
    size = TextTokenizer(out / "merged").size
    assert len(merged[EMBEDDINGS]) == size
    assert merged[EMBEDDINGS].equal(second[f"base_model.model.{EMBEDDINGS}"])
    assert merged.keys() == load_file(out / "base/model.safetensors").keys()
    assert (out / "merged-q4_0.gguf").is_file()
    assert said.rstrip().endswith("bash scripts/generate.sh")
