"""tools/prepare_llama_cpp.sh as a whole: from a base and an adapter to an answer of scripts/chat_cpu.sh."""

import os
import subprocess
from pathlib import Path

import pytest

import generate
from tests.served import make_adapter
from vicuna.answer.flags import AskFlags, DecodingFlags, PredictFlags, ServeFlags
from vicuna.args import parse
from vicuna.model.flags import ModelFlags

pytest.importorskip("llama_cpp", reason="llama.cpp is not installed: bash scripts/install_cpp.sh")

ROOT = Path(__file__).resolve().parent.parent.parent
QUESTION = "月亮自己会发光吗？"


def bash(script: str, *argv: object, text: str = "", **variables: object) -> subprocess.CompletedProcess:
    """Run a script to its end."""
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **{name: str(value) for name, value in variables.items()}}
    return subprocess.run(
        ["bash", str(ROOT / script), *map(str, argv)],
        input=text, env=env, capture_output=True, text=True, encoding="utf-8", timeout=280,
    )  # fmt: skip


def test_a_base_and_its_adapter_become_a_file_that_answers_as_they_do(interpreter, tiny_base, tmp_path, capsys):
    lora = make_adapter(tiny_base, tmp_path / "lora-moon", "chat", seed=3)
    out = tmp_path / "out/moon.gguf"
    paths = {"MODEL_PATH": tiny_base, "LORA_PATH": lora, "OUT_PATH": out}
    made = bash("tools/prepare_llama_cpp.sh", PYTHON=interpreter, TYPE="f32", **paths)

    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-1] == f"chat with it: bash scripts/chat_cpu.sh {out}"
    assert sorted(path.name for path in out.parent.iterdir()) == ["Modelfile", "README.md", "moon.gguf"]

    decoding = ("--preset", "precise", "--max_new_tokens", "24", "--repetition_penalty", "1")
    said = bash("scripts/chat_cpu.sh", out, "--cli", *decoding, text=f"{QUESTION}\n", PYTHON=interpreter)
    asked = ("--model_path", tiny_base, "--lora_path", lora, "--text", QUESTION, "--bits", "32", *decoding)
    groups = (ModelFlags, AskFlags, PredictFlags, ServeFlags, DecodingFlags)
    generate.main(*parse("", *groups, argv=list(map(str, asked))))

    assert said.returncode == 0, said.stderr
    assert said.stdout == capsys.readouterr().out
    assert len(said.stdout.strip()) > 4
