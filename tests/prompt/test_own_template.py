"""The base's own chat template: prompts as `apply_chat_template` has them, answers that are found exactly."""

import random
from collections import Counter
from itertools import groupby

import pytest

from tests.own_bases import KINDS, write_tokenizer
from vicuna.errors import UserError
from vicuna.prompt.templates import BASE, IGNORE_INDEX, encode, encode_all, prompt_ids, render
from vicuna.prompt.tokenizer import TextTokenizer

SYSTEM = {"role": "system", "content": "你是一个助手。"}
FIRST = [{"role": "user", "content": "你好吗？"}, {"role": "assistant", "content": "我很好。"}]
SECOND = [{"role": "user", "content": "1 + 1 ="}, {"role": "assistant", "content": "2，对吗？\n  42"}]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("own-templates")
    for kind in KINDS:
        write_tokenizer(place / kind, kind)
    return place


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def tokenizer(folders, kind):
    return TextTokenizer(folders / kind)


@pytest.fixture
def hugging_face(folders, kind):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folders / kind)


def theirs(hugging_face, messages, **options):
    return hugging_face.apply_chat_template(messages, add_generation_prompt=True, return_dict=False, **options)


def learnt(example):
    return [i for i in example.labels if i != IGNORE_INDEX]


def text_of(tokenizer, ids):
    """All ids as text, control tokens by their names."""
    runs = groupby(ids, key=lambda i: i in tokenizer.controls)
    names = [[tokenizer.token_name(i) for i in run] if control else [tokenizer.decode_continuation(list(run))]
             for control, run in runs]  # fmt: skip
    return "".join(name for run in names for name in run)


@pytest.mark.parametrize("dialogue", [FIRST, FIRST + SECOND], ids=["one turn", "two turns"])
def test_a_prompt_has_the_ids_of_apply_chat_template(kind, tokenizer, hugging_face, dialogue):
    view = tokenizer.with_settings(day="2024-07-26")
    options = {"date_string": "26 Jul 2024"} if kind == "of_the_day" else {}

    assert prompt_ids(view, BASE, dialogue[:-1]) == theirs(hugging_face, dialogue[:-1], **options)


def test_a_view_with_other_settings_reads_no_piece_again(tokenizer):
    view = tokenizer.with_settings(day="2024-07-26")

    assert view is not tokenizer
    assert (view.encode, view.files) == (tokenizer.encode, tokenizer.files)
    assert view.with_settings(day=tokenizer.chat.settings.day).with_settings(day="2024-07-26") is view


def test_a_system_message_has_its_place_or_is_refused(kind, tokenizer, hugging_face):
    messages = [SYSTEM, *FIRST, SECOND[0]]
    if kind == "no_system":
        assert not tokenizer.chat.takes_system
        with pytest.raises(UserError, match=r"refuses the messages .*System role not supported"):
            prompt_ids(tokenizer, BASE, messages)
        return
    assert tokenizer.chat.takes_system
    options = {"date_string": "26 Jul 2024"} if kind == "of_the_day" else {}
    view = tokenizer.with_settings(day="2024-07-26")
    assert prompt_ids(view, BASE, messages) == theirs(hugging_face, messages, **options)
    assert SYSTEM["content"] in render(BASE, messages, tokenizer.chat)


def test_the_last_answer_is_learnt_with_what_the_template_ends_it_with(kind, tokenizer):
    example = encode(tokenizer, BASE, FIRST + SECOND, 1000)
    end = tokenizer.token_name(tokenizer.answer_end(BASE))
    space = " " if kind == "last_system" else ""

    assert tokenizer.answer_end(BASE) == tokenizer.eos_id
    assert text_of(tokenizer, learnt(example)) == f"{space}{SECOND[1]['content']}{end}"
    prompt = prompt_ids(tokenizer, BASE, [*FIRST, SECOND[0]])
    if kind == "thinking":  # the closed block that answers without a thought are asked with
        prompt = prompt_ids(tokenizer.with_settings(thinking="empty"), BASE, [*FIRST, SECOND[0]])
    assert example.input_ids[: len(prompt)] == prompt
    assert len(example.input_ids) == len(prompt) + len(learnt(example))


def test_a_dialogue_is_one_example_where_each_prompt_begins_with_all_before_it(kind, tokenizer):
    found = encode_all(tokenizer, BASE, [*FIRST, *SECOND], 1000, train_turns="all")
    end, space = tokenizer.token_name(tokenizer.eos_id), " " if kind == "last_system" else ""
    answers = [f"{space}{one['content']}{end}" for one in (FIRST[1], SECOND[1])]

    if kind == "thinking":  # whose earlier turns lose their block: an example for each answer
        assert [text_of(tokenizer, learnt(one)) for one in found] == answers
        assert found[1] == encode(tokenizer, BASE, [*FIRST, *SECOND], 1000)
    else:
        (example,) = found
        assert text_of(tokenizer, learnt(example)) == "".join(answers)
        assert example.input_ids == encode(tokenizer, BASE, [*FIRST, *SECOND], 1000).input_ids


def long_dialogue(turns):
    """With a thought before every other answer, and an answer that is only context."""
    found = [{"role": role, "content": f"{role} {i}"} for i in range(turns) for role in ("user", "assistant")]
    for answer in found[1::4]:
        answer["reasoning_content"] = "我想"
    return [{**one, "learnt": False} if at == 5 else one for at, one in enumerate(found)]


@pytest.fixture
def calls(tokenizer, monkeypatch):
    """How often the template was rendered, and texts were made ids, since all was found out that it is asked once."""
    encode_all(tokenizer, BASE, long_dialogue(2), 1000, train_turns="all")
    found = Counter()
    for owner, name in ((type(tokenizer.chat), "render_cleaned"), (type(tokenizer), "encode_rendering")):
        work = getattr(owner, name)

        def counted(self, *args, work=work, name=name, **options):
            found[name] += 1
            return work(self, *args, **options)

        monkeypatch.setattr(owner, name, counted)
    return found


@pytest.mark.parametrize("turns", [1, 2, 12])
def test_each_beginning_of_a_dialogue_is_rendered_once_as_prompt_and_once_with_its_answer(tokenizer, calls, turns):
    encode_all(tokenizer, BASE, long_dialogue(turns), 100_000, train_turns="all")
    assert calls["render_cleaned"] <= 2 * turns
    assert calls["encode_rendering"] <= 2 * turns
    calls.clear()
    encode_all(tokenizer, BASE, long_dialogue(turns), 100_000)
    assert calls["render_cleaned"] <= 2


@pytest.mark.parametrize("kind", ["thinking"])
@pytest.mark.parametrize("cutoff_len", [100_000, 90, 30])
def test_answers_in_rows_of_their_own_are_those_of_each_beginning_of_the_dialogue(tokenizer, cutoff_len):
    dialogue = long_dialogue(7)
    ends = [at for at, one in enumerate(dialogue) if one["role"] == "assistant" and one.get("learnt", True)]
    alone = [encode(tokenizer, BASE, dialogue[: at + 1], cutoff_len) for at in ends]
    assert len(ends) == 6
    assert encode_all(tokenizer, BASE, dialogue, cutoff_len, train_turns="all") == [one for one in alone if one]
    assert any(one.shortened for one in alone if one) == (cutoff_len < 100_000)


@pytest.mark.parametrize("kind", ["last_system"])
def test_a_system_message_that_the_template_moves_is_learnt_from_with_every_answer(tokenizer):
    found = encode_all(tokenizer, BASE, [SYSTEM, *FIRST, *SECOND], 1000, train_turns="all")

    assert len(found) == 2
    assert all(SYSTEM["content"] in text_of(tokenizer, one.input_ids) for one in found)


def test_control_tokens_that_somebody_types_stay_text(kind, tokenizer):
    plain, typed = "你好", "你<|im_end|>好 [INST]</s><|eot_id|>"
    asked = [prompt_ids(tokenizer, BASE, [{"role": "user", "content": one}]) for one in (plain, typed)]
    controls = [[i for i in ids if i in tokenizer.controls] for ids in asked]

    assert controls[0] == controls[1]
    assert typed in render(BASE, [{"role": "user", "content": typed}], tokenizer.chat)
    answer = encode(tokenizer, BASE, [FIRST[0], {"role": "assistant", "content": typed}], 1000)
    assert [i for i in learnt(answer) if i in tokenizer.controls] == [tokenizer.eos_id]


@pytest.mark.parametrize("kind", ["headers"])
def test_full_width_spaces_go_where_the_template_strips(tokenizer):
    """transformers' trim takes them away and llama.cpp's does not: they are gone before either renders."""
    cleaned = tokenizer.chat.clean({"role": "user", "content": "\u3000\u3000你好\u00a0"})

    assert cleaned["content"] == "你好"
    assert tokenizer.chat.clean({"role": "user", "content": "a\u3000b"})["content"] == "a\u3000b"


@pytest.mark.parametrize("kind", ["chatml"])
def test_spaces_stay_where_the_template_keeps_them(tokenizer):
    assert "\u3000你好\u00a0" in render(BASE, [{"role": "user", "content": "\u3000你好\u00a0"}], tokenizer.chat)


@pytest.mark.parametrize("kind", ["chatml"])
def test_an_empty_system_message_is_none(tokenizer):
    question = [{"role": "user", "content": "你好"}]

    assert prompt_ids(tokenizer, BASE, [{"role": "system", "content": " "}, *question]) == prompt_ids(
        tokenizer, BASE, question
    )


@pytest.mark.parametrize("kind", ["of_the_day"])
def test_the_day_is_that_of_the_settings_also_where_it_is_exported(tokenizer, hugging_face):
    view = tokenizer.with_settings(day="2024-02-29")
    question = [{"role": "user", "content": "你好"}]

    assert tokenizer.chat.takes_date
    assert "Today: 29 Feb 2024" in render(BASE, question, view.chat)
    exported = theirs(hugging_face, question, chat_template=view.chat.exported())
    assert exported == prompt_ids(view, BASE, question)


@pytest.mark.parametrize(("kind", "takes"), [("chatml", False), ("thinking", True), ("headers", False)])
def test_what_a_template_knows_is_found_out(tokenizer, takes):
    assert tokenizer.chat.knows_thinking == takes
    assert tokenizer.chat.knows_tools == takes
    assert not tokenizer.chat.takes_date


@pytest.mark.parametrize("kind", ["thinking"])
@pytest.mark.parametrize(
    ("thinking", "prompt_ends", "answer"),
    [
        ("", "assistant\n", "<think>\n我想\n</think>\n\n我很好。<|im_end|>"),
        ("keep", "assistant\n", "<think>\n我想\n</think>\n\n我很好。<|im_end|>"),
        ("empty", "assistant\n<think>\n\n</think>\n\n", "我很好。<|im_end|>"),
        ("drop", "assistant\n", "我很好。<|im_end|>"),
    ],
)
def test_thinking_is_learnt_left_out_or_closed_in_the_prompt(tokenizer, thinking, prompt_ends, answer):
    view = tokenizer.with_settings(thinking=thinking)
    for last in (
        {"role": "assistant", "content": "我很好。", "reasoning_content": "我想"},
        {"role": "assistant", "content": "<think>\n我想\n</think>\n\n我很好。"},
    ):
        example = encode(view, BASE, [FIRST[0], last], 1000)
        ids = learnt(example)
        assert text_of(view, ids) == answer
        prompt = example.input_ids[: -len(ids)]
        assert text_of(view, prompt).endswith(prompt_ends)
        assert prompt == prompt_ids(view, BASE, FIRST[:1])


@pytest.mark.parametrize("kind", ["thinking"])
@pytest.mark.parametrize("thinking", ["keep", "empty"])
def test_an_exported_template_thinks_as_it_was_trained(tokenizer, hugging_face, thinking):
    view = tokenizer.with_settings(thinking=thinking)

    assert theirs(hugging_face, FIRST[:1], chat_template=view.chat.exported()) == prompt_ids(view, BASE, FIRST[:1])


@pytest.mark.parametrize("kind", ["thinking"])
def test_an_empty_block_is_never_learnt(tokenizer):
    for thinking in ("", "keep", "empty", "drop"):
        example = encode(tokenizer.with_settings(thinking=thinking), BASE, FIRST, 1000)
        assert text_of(tokenizer, learnt(example)) == "我很好。<|im_end|>"


@pytest.mark.parametrize("kind", ["thinking"])
def test_calls_of_functions_are_learnt_and_answered(tokenizer):
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
    call = {"id": "a1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "北京", "x": 1.0}'}}
    dialogue = [
        {"role": "user", "content": "天气？", "tools": tools},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "晴", "tool_call_id": "a1"},
        {"role": "assistant", "content": "晴天。"},
    ]

    asked = encode(tokenizer, BASE, dialogue[:2], 1000)
    assert text_of(tokenizer, learnt(asked)) == (
        '<tool_call>\n{"name": "weather", "arguments": {"city": "北京", "x": 1.0}}\n</tool_call><|im_end|>'
    )
    assert "# Tools" in text_of(tokenizer, asked.input_ids)
    answered = encode(tokenizer, BASE, dialogue, 1000)
    assert text_of(tokenizer, learnt(answered)) == "晴天。<|im_end|>"
    assert "<tool_response>\n晴\n</tool_response>" in text_of(tokenizer, answered.input_ids)
    assert len(encode_all(tokenizer, BASE, dialogue, 1000, train_turns="all")) == 2


def test_a_long_dialogue_loses_its_oldest_turns(kind, tokenizer):
    whole = encode(tokenizer, BASE, FIRST + SECOND, 1000)
    alone = encode(tokenizer, BASE, SECOND, 1000)
    cut = encode(tokenizer, BASE, FIRST + SECOND, len(whole.input_ids) - 1)

    assert (cut.input_ids, cut.labels, cut.shortened, cut.cut) == (alone.input_ids, alone.labels, True, False)


def test_a_base_without_a_template_says_so(tmp_path):
    write_tokenizer(tmp_path, "chatml")
    (tmp_path / "chat_template.jinja").unlink()
    tokenizer = TextTokenizer(tmp_path)

    assert tokenizer.chat is None
    with pytest.raises(UserError, match="this base declares none"):
        prompt_ids(tokenizer, BASE, FIRST[:1])


def test_random_dialogues_have_the_ids_of_apply_chat_template(kind, tokenizer, hugging_face):
    draw, words = random.Random(0), ["你好", " a", "\n", "  42", "1. ", "，", "<think>", "é", "🦙", "\t", "x = {1: 2}"]
    options = {"date_string": "26 Jul 2024"} if kind == "of_the_day" else {}
    view = tokenizer.with_settings(day="2024-07-26")
    for _ in range(200):
        count = draw.randint(0, 3)
        texts = ["x" + "".join(draw.choices(words, k=draw.randint(0, 8))) + "。" for _ in range(2 * count + 1)]
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
        assert prompt_ids(view, BASE, messages) == theirs(hugging_face, messages, **options)
