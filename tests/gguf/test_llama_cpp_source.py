"""What is taken of llama.cpp as it is: found where scripts/install_cpp.sh put it, and its engine for templates."""

from datetime import datetime
from importlib.metadata import version

import pytest

from vicuna.errors import UserError
from vicuna.gguf.llama_cpp_source import render_in_llama_cpp, render_program, source_folder

TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{% endfor %}"
ASKED = [{"role": "user", "content": " 你好　"}]


pytestmark = pytest.mark.usefixtures("template_engine")


def test_the_converters_templates_and_vocabularies_are_there():
    folder = source_folder()
    for name in ("convert_lora_to_gguf.py", "conversion/llama.py", "gguf-py/gguf/constants.py", "LICENSE"):
        assert (folder / name).is_file(), name
    assert len(list((folder / "models/templates").glob("*.jinja"))) >= 70
    assert (folder / "models/ggml-vocab-qwen2.gguf.out").is_file()


def test_many_templates_are_rendered_by_one_process_in_their_order():
    requests = [{"template": TEMPLATE, "messages": ASKED, "bos_token": f"<{i}>"} for i in range(300)]
    found = render_in_llama_cpp(requests)
    # Its trim knows no spaces beyond ASCII, and the text is otherwise as Jinja makes it.
    assert found == [{"text": f"<{i}>[user]你好　"} for i in range(300)]


def test_messages_are_prepared_as_the_server_does():
    def text(template: str, messages: list[dict], **more) -> str:
        return render_in_llama_cpp([{"template": template, "messages": messages, **more}])[0]["text"]

    began = datetime.now()
    plain = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert text(plain, [{"role": "developer", "content": None}, *ASKED]) == "[system][user] 你好　"
    assert text(plain, [{"role": "user", "content": parts}]) == "[user]a\nb"
    assert text("{{ enable_thinking }}{{ date_string }}", ASKED, kwargs={"date_string": "1 Jan"}) == "True1 Jan"
    assert text("{{ enable_thinking }}{{ date_string }}", ASKED) in {f"True{day:%d %b %Y}" for day in days(began)}
    no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}"
    assert text(no_system, [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]) == "s\nq"
    call = {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    called = [*ASKED, {"role": "assistant", "content": None, "tool_calls": [call]}]
    qwen = (source_folder() / "models/templates/Qwen-Qwen2.5-7B-Instruct.jinja").read_text(encoding="utf-8")
    assert '{"name": "f", "arguments": {"x": 1}}' in text(qwen, called)  # an object, where the template takes one


def test_what_the_engine_refuses_is_said_and_the_others_are_rendered():
    found = render_in_llama_cpp([
        {"template": "{{ raise_exception('only two turns') }}", "messages": ASKED},
        {"template": "{% if %}", "messages": ASKED},
        {"template": TEMPLATE, "messages": ASKED},
    ])  # fmt: skip
    assert "only two turns" in found[0]["error"]
    assert found[1]["error"]
    assert found[2] == {"text": "[user]你好　"}


def test_where_the_sources_or_the_program_are_missing_the_command_that_installs_them_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"llama\.cpp/[\d.]+; install them, .*bash scripts/install_cpp\.sh"):
        source_folder()
    folder = tmp_path / "chinese-vicuna/llama.cpp" / source_version()
    folder.mkdir(parents=True)
    (folder / "convert_hf_to_gguf.py").touch()
    assert source_folder() == folder
    with pytest.raises(UserError, match=r"was not compiled to .*render_template.*bash scripts/install_cpp\.sh"):
        render_program()


def source_version() -> str:
    return version("llama-cpp-python")


def days(began: datetime) -> tuple[datetime, datetime]:
    """Today, and the day on which the test began."""
    return began, datetime.now()
