"""The embedded base and scripts/quickstart.sh, as a newcomer runs it, but in one thread: other tests run beside it."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(1800)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory, interpreter):
    """(what it printed, base, adapter) of a first run in folders of its own."""
    folder = tmp_path_factory.mktemp("quickstart")
    base, adapter = folder / "models/tiny-llama-zh", folder / "lora-Vicuna"
    return run(base, adapter, interpreter), base, adapter


def run(base: Path, adapter: Path, interpreter: str) -> str:
    env = {**os.environ, "MODEL_PATH": str(base), "OUTPUT_PATH": str(adapter)}
    env |= {"PYTHON": interpreter, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    argv = ["bash", ROOT / "scripts/quickstart.sh"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=1700, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_learning_is_visible(quickstart):
    printed, _, _ = quickstart
    single, dialogues = re.findall(r"right answers of 10: base (\d+), adapter (\d+)", printed)
    assert int(single[0]) <= 1
    assert int(single[1]) >= 8
    assert int(dialogues[0]) == 0
    assert int(dialogues[1]) >= 8
    assert "bash scripts/generate.sh" in printed
    assert "bash scripts/chat_7B.sh" in printed


def test_a_second_run_reuses_what_is_there(quickstart, interpreter):
    _, base, adapter = quickstart
    chat = adapter.with_name(f"{adapter.name}-chat")
    files = [base / "model.safetensors", *(folder / "adapter_model.safetensors" for folder in (adapter, chat))]
    before = [file.stat().st_mtime_ns for file in files]
    assert "right answers of 10" in run(base, adapter, interpreter)
    assert [file.stat().st_mtime_ns for file in files] == before


def test_the_adapter_was_trained_at_8_bits_through_the_launcher(quickstart):
    _, _, adapter = quickstart
    args = json.loads((adapter / "run_args.json").read_text(encoding="utf-8"))
    assert args["flags"]["bits"] == 8
    assert args["plan"]["rows_eval"] == 12


def test_text_prints_the_answer_and_nothing_else(quickstart, program):
    _, base, adapter = quickstart
    row = json.loads((ROOT / "sample/instruct/quickstart.json").read_text(encoding="utf-8"))[0]
    done = program("generate.py", "--model_path", base, "--lora_path", adapter, "--text", row["instruction"])
    assert done.stdout == row["output"] + "\n"


def test_the_embedded_base_opens_with_plain_transformers(quickstart):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from vicuna.prompt.tokenizer import TextTokenizer

    _, base, _ = quickstart
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base)
    assert type(model).__name__ == "LlamaForCausalLM"
    own = TextTokenizer(base)
    text = (ROOT / "sample/text/stories.txt").read_text(encoding="utf-8").split("\n\n")[3]
    for line in [*text.splitlines(), "  two  spaces 🦙", "print('a  b')"]:
        ids = tokenizer(line)["input_ids"]
        assert ids == [own.bos_id, *own.encode(line)]
        assert tokenizer.decode(ids, skip_special_tokens=True) == line
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.inference_mode():
        loss = model(ids, labels=ids).loss.item()
    assert loss < 4  # of a vocabulary of 2600: ln 2600 = 7.9


def test_the_templates_words_cost_few_tokens(quickstart):
    from vicuna.prompt.templates import render
    from vicuna.prompt.tokenizer import TextTokenizer

    _, base, _ = quickstart
    assert len(TextTokenizer(base).encode(render("instruct", [{"role": "user", "content": ""}]))) <= 25


def test_the_embedded_base_is_made_the_same_twice(program, tmp_path):
    files = []
    for name in ("one", "two"):
        argv = ["tools/make_tiny_llama.py", "--output_path", tmp_path / name, "--steps", 3, "--hidden_size", 32]
        assert program(*argv).returncode == 0
        files.append([(tmp_path / name / file).read_bytes() for file in ("tokenizer.model", "model.safetensors")])
    assert files[0] == files[1]


def test_an_existing_folder_is_never_overwritten(program, tmp_path):
    done = program("tools/make_tiny_llama.py", "--output_path", tmp_path)
    assert done.returncode == 1
    assert "exists; nothing is ever written over: name a new folder" in done.stderr


@pytest.mark.parametrize(("flag", "value"), [("--hidden_size", 33), ("--vocab_size", 100)])
def test_sizes_that_can_not_be_are_refused(program, tmp_path, flag, value):
    done = program("tools/make_tiny_llama.py", "--output_path", tmp_path / "base", flag, value)
    assert done.returncode in (1, 2)
    assert flag in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "base").exists()
