"""scripts/chat_cpu.sh: the launcher of a chat with a GGUF file."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("argv", "variables", "expected"),
    [
        (["x.gguf"], {}, ["--model_path", "{here}/x.gguf"]),
        (["/models/x y.gguf", "--cli"], {}, ["--model_path", "/models/x y.gguf", "--cli"]),
        (["--cli"], {"BASE_MODEL": "x.gguf"}, ["--model_path", "{here}/x.gguf", "--cli"]),
        (
            ["x.gguf"],
            {"LORA_PATH": "a.gguf /b.gguf"},
            ["--model_path", "{here}/x.gguf", "--lora_path", "{here}/a.gguf", "/b.gguf"],
        ),
    ],
)
def test_the_launcher_for_the_cpu_finds_files_where_it_was_called(tmp_path, argv, variables, expected):
    python = tmp_path / "python"
    python.write_text("#!/usr/bin/env bash\nprintf '%s\\n' \"$@\"\n", encoding="utf-8")
    python.chmod(0o755)
    env = {"PATH": os.environ["PATH"], "PYTHON": str(python), **variables}

    done = subprocess.run(
        ["bash", str(ROOT / "scripts/chat_cpu.sh"), *argv], cwd=tmp_path, env=env, capture_output=True, text=True
    )

    assert done.stdout.splitlines() == ["chat.py", *(part.format(here=tmp_path) for part in expected)]


def test_the_launcher_for_the_cpu_asks_for_a_file(tmp_path):
    done = subprocess.run(["bash", str(ROOT / "scripts/chat_cpu.sh")], cwd=tmp_path, capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (2, "")
    assert "name a GGUF file" in done.stderr
