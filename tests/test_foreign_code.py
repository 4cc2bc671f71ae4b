"""Code in a model's folder is never run: every call that could run it is told so, and real attempts leave no mark."""

import ast
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_layers import OURS, ROOT, name, tree
from vicuna.answer.flags import ServeFlags
from vicuna.answer.loading import load_assistant
from vicuna.errors import UserError
from vicuna.foreign.odd_files import NEVER_RUN
from vicuna.model.base import check_base
from vicuna.model.flags import ModelFlags

# Calls that take trust_remote_code, by the last part of their names.
CALLS = {"from_pretrained", "from_config", "generate", "load_dataset", "pipeline"}
# Those of the same name that take none: they read JSON only, or are ours.
TAKE_NONE = {
    *("GenerationConfig.from_pretrained", "PeftConfig.from_pretrained", "PeftModel.from_pretrained"),
    *("LlamaShape.from_config", "cls.from_config", "AutoHfQuantizer.from_config", "generate", "llama.generate"),
}
FILES = sorted(file for file in OURS if ROOT / "tests" not in file.parents)
CLASS = "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"


def calls(code: ast.Module) -> Iterator[ast.Call]:
    """The calls in question, also those in programs that are kept as strings."""
    for node in ast.walk(code):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "from_pretrained(" in node.value:
            yield from calls(ast.parse(node.value))
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called.rsplit(".", 1)[-1] in CALLS and called not in TAKE_NONE:
                yield node


def is_told(call: ast.Call) -> bool:
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg}
    spread = {ast.unparse(keyword.value) for keyword in call.keywords if not keyword.arg}
    return "NEVER_RUN" in spread or given.get("trust_remote_code") == "False"


@pytest.mark.parametrize("file", FILES, ids=name)
def test_every_call_that_could_run_a_models_code_is_told_not_to(file):
    odd = [f"line {call.lineno}: {ast.unparse(call.func)}" for call in calls(tree(file)) if not is_told(call)]

    assert odd == []


def test_the_walk_finds_the_calls():
    found = [ast.unparse(call.func) for file in FILES for call in calls(tree(file))]

    assert {"AutoConfig.from_pretrained", "AutoModelForCausalLM.from_pretrained", "AutoTokenizer.from_pretrained",
            "AutoModelForCausalLM.from_config", "self.model.generate"} <= set(found)  # fmt: skip
    assert NEVER_RUN == {"trust_remote_code": False}
    (one,) = calls(ast.parse("AutoModel.from_pretrained(x, dtype=y)"))
    assert not is_told(one)


@pytest.fixture
def planted(tiny_base, tmp_path):
    """planted(config, tokenizer): a base whose own code, if anything runs it, leaves the file that is returned too."""

    def plant(config: dict, tokenizer: dict | None = None) -> tuple[Path, Path]:
        folder, mark = Path(shutil.copytree(tiny_base, tmp_path / "base")), tmp_path / "it ran"
        for file, fields in ((folder / "config.json", config), (folder / "tokenizer_config.json", tokenizer or {})):
            settings = json.loads(file.read_text(encoding="utf-8")) | fields
            file.write_text(json.dumps(settings), encoding="utf-8")
        code = (
            f"open({str(mark)!r}, 'w').close()\n"
            "from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
            "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
            f"{CLASS}"
            "class OwnTokenizer(PreTrainedTokenizerFast):\n    pass\n"
        )
        (folder / "own.py").write_text(code, encoding="utf-8")
        (folder / "custom_generate").mkdir()
        (folder / "custom_generate/generate.py").write_text(code, encoding="utf-8")
        return folder, mark

    return plant


def answer(program, folder: Path):
    """Ask the base for an answer, and say yes to whatever is asked on the way."""
    return program(
        "-c", f"import sys, io\nsys.stdin = io.StringIO('y\\n' * 50)\nsys.argv = ['generate.py', '--model_path', "
        f"{str(folder)!r}, '--bits', '32', '--text', '你好', '--max_new_tokens', '2']\n"
        "import runpy\nrunpy.run_path('generate.py', run_name='__main__')",
    )  # fmt: skip


AUTO = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}


def test_a_model_of_its_own_kind_is_refused_and_its_code_is_not_run(program, planted):
    folder, mark = planted({"model_type": "own", "auto_map": AUTO})
    done = answer(program, folder)

    assert done.returncode == 1, done.stderr
    assert "names Python code of its own (auto_map), which is never run; expected a kind like LLaMA" in done.stderr
    assert "[y/N]" not in done.stdout + done.stderr
    assert not mark.exists()


def test_a_tokenizer_with_code_of_its_own_is_refused_and_it_is_not_run(program, planted):
    settings = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]}}
    folder, mark = planted({}, settings)
    (folder / "tokenizer.model").unlink()
    done = answer(program, folder)

    assert done.returncode == 1, done.stderr
    assert "has a tokenizer with Python code of its own" in done.stderr
    assert "[y/N]" not in done.stdout + done.stderr
    assert not mark.exists()


def test_a_kind_that_transformers_knows_answers_without_the_code_beside_it(program, planted):
    folder, mark = planted({"auto_map": AUTO}, {"auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}})
    done = answer(program, folder)

    assert done.returncode == 0, done.stderr
    assert "[y/N]" not in done.stdout + done.stderr
    assert not mark.exists()


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation", "_experts_implementation_internal"])
def test_compiled_code_of_the_hub_is_never_fetched(planted, key):
    folder, _ = planted({key: "somebody/fast-attention"})
    with pytest.raises(UserError, match=r"computed by somebody/fast-attention, compiled code of the hub"):
        check_base(str(folder))


def test_ways_of_decoding_that_would_be_fetched_from_the_hub_are_left_out(planted):
    folder, _ = planted({})
    settings = {"penalty_alpha": 0.6, "top_k": 4, "num_beam_groups": 2, "dola_layers": "high", "do_sample": False}
    (folder / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    assistant = load_assistant(ModelFlags(str(folder), bits=32), ServeFlags(cache_gib=0))
    chosen = {"do_sample": False, "num_beams": 4, "max_new_tokens": 2, "min_new_tokens": 1}
    for beams in (1, 4):
        *_, last = assistant.stream([1, 300], chosen | {"num_beams": beams})
        assert last.finish in ("eos", "length")
