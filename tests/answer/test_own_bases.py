"""Bases of today, with a template of their own: asked as they are declared, ended by every end that they have."""

import json

import pytest

from tests.answer.modes import MODES, chosen_for, counted
from tests.own_bases import KINDS, teach, write_base
from tests.served import assistant_of, make_adapter
from vicuna.model.base import check_base
from vicuna.prompt.templates import BASE, prompt_ids

QUESTION = [{"role": "user", "content": "你好！"}]


@pytest.fixture(scope="module", params=["chatml", "headers"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def base(tmp_path_factory, kind):
    return write_base(tmp_path_factory.mktemp("own") / kind, kind, hidden_size=256)


def test_every_end_that_a_base_declares_ends_an_answer(base, kind):
    checked = check_base(str(base))
    ends = checked.generation_config.eos_token_id

    assert sorted(checked.tokenizer.token_name(i) for i in ends) == sorted(KINDS[kind][-1])
    assert checked.tokenizer.answer_end(BASE) == checked.tokenizer.eos_id in ends


def test_the_ends_of_config_and_generation_config_count_together(base, kind, tmp_path):
    """Published copies of Llama 3.0 Instruct and Qwen2.5 name one end here and another there."""
    ends = check_base(str(base)).generation_config.eos_token_id
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((base / name).read_bytes())
    for name, value in (("config.json", ends[0]), ("generation_config.json", ends[1:])):
        said = json.loads((tmp_path / name).read_text(encoding="utf-8"))
        (tmp_path / name).write_text(json.dumps({**said, "eos_token_id": value}), encoding="utf-8")
    (tmp_path / "chat_template.jinja").write_bytes((base / "chat_template.jinja").read_bytes())
    (tmp_path / "model.safetensors").symlink_to(base / "model.safetensors")

    assert set(check_base(str(tmp_path)).generation_config.eos_token_id) == set(ends)


@pytest.fixture(scope="module")
def assistant(base):
    return assistant_of(base)


def test_a_base_alone_is_asked_with_its_own_template(assistant):
    assert assistant.first.prompt_type == BASE
    assert assistant.prompt_types[-1] == BASE
    assert assistant.takes_system(BASE)
    assert assistant.prompt_ids(QUESTION) == prompt_ids(assistant.tokenizer, BASE, QUESTION)


@pytest.mark.parametrize("name", MODES)
def test_an_answer_ends_at_each_of_the_ends(base, kind, name, tmp_path):
    folder = tmp_path / "taught"
    folder.mkdir()
    for file in base.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tokenizer = check_base(str(folder)).tokenizer
    said = tokenizer.encode_continuation("很高兴")
    begin = prompt_ids(tokenizer, BASE, QUESTION)[-1]
    for end in check_base(str(folder)).generation_config.eos_token_id:
        teach(folder, [begin, *said, end, *tokenizer.encode_continuation("。")])
        assistant = assistant_of(folder)
        asked = chosen_for(name, repetition_penalty=1.0)
        *_, last = assistant.stream(assistant.prompt_ids(QUESTION), asked, seed=3, prompt_type=BASE)
        assert (last.text, last.finish) == ("很高兴", "eos")


def test_what_prompts_share_is_not_computed_again(assistant):
    first, second = ([{"role": "user", "content": text}] for text in ("你好！" * 20 + "一", "你好！" * 20 + "二"))
    chosen = chosen_for("greedy", max_new_tokens=2)
    *_, _ = assistant.stream(assistant.prompt_ids(first), chosen, seed=1)
    sizes, hook = counted(assistant)
    *_, last = assistant.stream(assistant.prompt_ids(second), chosen, seed=1)
    hook.remove()

    assert sum(sizes) < len(assistant.prompt_ids(second))
    fresh = assistant_of(assistant.engine.base.path, cache_gib=0)
    *_, expected = fresh.stream(fresh.prompt_ids(second), chosen, seed=1)
    assert last.beams[0].ids == expected.beams[0].ids


def test_an_adapter_is_asked_as_it_was_trained(base, tmp_path):
    own = make_adapter(base, tmp_path / "own", BASE, 0)
    other = make_adapter(base, tmp_path / "instruct", "instruct", 1)
    assistant = assistant_of(base, own, other)

    assert [assistant.choices[name].prompt_type for name in ("own", "instruct")] == [BASE, "instruct"]
    assert assistant.prompt_ids(QUESTION) == prompt_ids(assistant.tokenizer, BASE, QUESTION)


def test_a_folder_that_names_a_prompt_type_is_asked_with_it(base, tmp_path):
    for file in base.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "run_args.json").write_text('{"prompt_type": "instruct", "merged": {}}', encoding="utf-8")

    assert assistant_of(tmp_path).first.prompt_type == "instruct"


def test_a_text_begins_as_the_bases_tokenizer_says(base, kind, assistant):
    tokenizer = assistant.tokenizer
    ids = prompt_ids(tokenizer, "instruct", QUESTION)

    assert (ids[0] == tokenizer.bos_id) == (kind == "headers")
    assert prompt_ids(tokenizer, BASE, QUESTION).count(tokenizer.bos_id) == (kind == "headers")
