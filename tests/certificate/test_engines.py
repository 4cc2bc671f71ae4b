"""Chat templates in the three programs that people ask with: 70 published ones, our own, and what the certificate says.

The table of where the programs part, for each template: python benchmarks/template_engines.py
"""

import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: bash scripts/install_cpp.sh")

from certificate_bounds import merge
from llama_cpp import llama_chat_format
from template_engines import FIXED_DAY, compare, published_templates

from tests.certificate.certifying import certify
from vicuna.certificate.dialogues import PLAIN
from vicuna.certificate.engines import LLAMA_CPP, LLAMA_CPP_PYTHON, EngineComparison, Parting
from vicuna.prompt.chat_template import chat_template
from vicuna.prompt.replaced_templates import kept_as_written
from vicuna.prompt.templates import PROMPT_TYPES

SPACES = ("a full-width indent", "no-break spaces")
NUMBERS = ("numbers in a call", "a number over 64 bits in a call")
# Templates of the families that are tuned most.
USUAL = (
    *("Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B", "Qwen3.5-4B", "HuggingFaceTB-SmolLM3-3B"),
    *("meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.2-3B-Instruct", "meta-llama-Llama-3.3-70B-Instruct"),
    *("mistralai-Mistral-Nemo-Instruct-2407", "Mistral-Small-3.2-24B-Instruct-2506", "GLM-4.6"),
    *("microsoft-Phi-3.5-mini-instruct", "google-gemma-2-2b-it", "mistralai-Ministral-3-14B-Reasoning-2512"),
)


pytestmark = pytest.mark.usefixtures("template_engine")


@pytest.fixture(scope="module")
def table(template_engine) -> dict[str, EngineComparison]:
    """What the three make of every published template."""
    return {name: compare(text) for name, text in published_templates().items()}


def named(found: EngineComparison, engine: str) -> tuple[str, ...]:
    return tuple(one.dialogue for one in found.partings if one.engine == engine)


def test_plain_dialogues_of_the_usual_families_are_equal_in_all_three(table):
    for name in USUAL:
        found = table[name]
        assert not found.missing
        assert (found.verdict, found.switched) in (("same", False), ("parts", False)), (name, found.lines())
        allowed = len(PLAIN) if name == "google-gemma-2-2b-it" else 0  # it takes no system message
        assert found.refused <= allowed + (name == "Qwen-Qwen3-0.6B"), name


def test_where_the_programs_part_is_named(table):
    assert named(table["Qwen-Qwen2.5-7B-Instruct"], LLAMA_CPP) == NUMBERS
    assert named(table["meta-llama-Llama-3.2-3B-Instruct"], LLAMA_CPP) == SPACES + NUMBERS
    assert named(table["GLM-4.6"], LLAMA_CPP_PYTHON) == ("a call without content",)

    (line,) = table["Qwen-Qwen2.5-7B-Instruct"].lines()
    assert line.startswith("llama.cpp renders 2 of 14 dialogues otherwise than transformers (numbers in a call, a ")
    assert """: {"days": 1, "least": 1e-07}}' in place of ': {"days": 1.0, """ in line.replace("\\n</too", "")
    assert "\\u3000" in table["meta-llama-Llama-3.2-3B-Instruct"].lines()[0]
    assert "None" in table["GLM-4.6"].lines()[0]


def test_all_published_templates_part_at_what_is_known_to_part(table):
    assert len(table) >= 70
    known = {*SPACES, *NUMBERS, "functions", "a call without content"}
    unlike = {name for name, one in table.items() if one.verdict == "differs"}
    # Their prompts open a thought if told to think or not, and other ones if told nothing.
    assert unlike == {"llama-cpp-rwkv-world", "openbmb-MiniCPM5-1B"}
    for name, one in table.items():
        assert set(named(one, LLAMA_CPP_PYTHON)) <= {"a call without content"}, name
        assert name in unlike or set(named(one, LLAMA_CPP)) <= known, (name, one.lines())
    # transformers itself refuses every dialogue: it gives these None for functions, which they go through.
    refused = {name for name, one in table.items() if one.refused == one.asked}
    assert {table[name].verdict for name in refused} == {"not rendered"}
    assert len(refused) == 2


def test_the_servers_own_thinking_and_its_day_are_named(table):
    for name in ("Qwen-QwQ-32B", "google-gemma-4-31B-it", "deepseek-ai-DeepSeek-V3.1"):
        assert (table[name].verdict, table[name].switched) == ("parts", True)
        assert table[name].lines()[-1].endswith("start it with --reasoning off")
    found = compare(published_templates()["meta-llama-Llama-3.1-8B-Instruct"].removeprefix(FIXED_DAY))
    assert found.verdict == "differs"
    assert "Today Date:" in found.lines()[0] or "in place of 'oday Date: 26 Jul 2024" in found.lines()[0]


@pytest.mark.parametrize("prompt_type", PROMPT_TYPES)
def test_our_own_templates_are_equal_in_all_three_but_for_full_width_spaces(prompt_type):
    found = compare(chat_template(prompt_type))
    assert named(found, LLAMA_CPP_PYTHON) == ()
    assert named(found, LLAMA_CPP) in ((), SPACES)
    assert found.asked - found.refused >= 4


@pytest.mark.parametrize("name", ["CHATML", "MISTRAL_INSTRUCT", "MIXTRAL_INSTRUCT", "LLAMA3_INSTRUCT"])
def test_a_template_that_llama_cpp_python_replaces_is_rendered_by_it_when_written_by_us(name):
    template = getattr(llama_chat_format, f"{name}_CHAT_TEMPLATE")
    assert "a question" in named(compare(template), LLAMA_CPP_PYTHON)
    assert compare(template).verdict == "differs"

    written = kept_as_written(template)
    assert written.endswith(template)
    assert named(compare(written), LLAMA_CPP_PYTHON) == ()
    assert compare(written).verdict in ("same", "parts")
    assert kept_as_written(written) == written


def test_what_is_not_installed_is_said_to_be_not_rendered(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = compare(chat_template("instruct"))
    assert found.verdict == "not rendered"
    (line,) = found.not_rendered()
    assert line.startswith("templates are not rendered by llama.cpp: ")
    assert "bash scripts/install_cpp.sh" in line

    monkeypatch.setitem(sys.modules, "llama_cpp.llama_chat_format", None)
    found = compare(chat_template("instruct"))
    assert (found.verdict, found.partings) == ("not rendered", [])
    first, second = found.not_rendered()
    assert first.startswith(
        "templates are not rendered by llama-cpp-python: GGUF needs packages that are not installed"
    )
    assert second == line


def test_a_refusal_of_one_program_is_a_parting_and_shown():
    template = "{{ messages[0].content }}{{ messages[0].role.isidentifier() }}"
    (first, *_) = [one for one in compare(template).partings if one.engine == LLAMA_CPP]
    assert first == Parting(LLAMA_CPP, "a question", True, first.why)
    assert first.why.startswith("it refuses (")
    assert "isidentifier" in first.why


def test_the_certificate_fails_where_programs_ask_with_other_prompts(base, adapter, texts, tmp_path, capsys):
    plain = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    (plain / "run_args.json").unlink()  # then the base's own template counts
    exports = []
    for name, template in (
        ("replaced", llama_chat_format.CHATML_CHAT_TEMPLATE),
        ("written", kept_as_written(llama_chat_format.CHATML_CHAT_TEMPLATE)),
    ):
        own = Path(shutil.copytree(base, tmp_path / f"base-{name}"))
        (own / "chat_template.jinja").write_text(template, encoding="utf-8")
        exports.append(merge(own, plain, tmp_path / name))
    status, found = certify(
        tmp_path / "base-written", plain, exports, tmp_path / "c.json", texts=[str(texts)], ignore_fingerprint=True
    )
    replaced, written = found["artefacts"]
    assert (status, replaced["verdict"], written["verdict"]) == (1, "FAILED", "passed")
    assert replaced["differs"] == ["engines"]
    assert replaced["reasons"] == ["programs ask it with other prompts than it was trained on"]
    assert (replaced["engines"]["verdict"], written["engines"]["verdict"]) == ("differs", "same")
    said = capsys.readouterr().out
    assert f"{exports[0]}: llama-cpp-python renders 7 of 10 dialogues otherwise than transformers (a question, " in said
